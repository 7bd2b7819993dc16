"""Promise: every cell is handed out exactly once unless it comes back, nothing is lost whoever dies, a worker
stays with its tile, and towards the end all workers are busy. By simulation: no model, no clock."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.run.schedule import MAX_SLICE_S, MIN_SLICE_S, WorkSchedule
from orchestrator.stages.sweep.work import CAPTURES_PER_PAIR, Slice, TileWork

BOTH = ("logits", "kl")
Cells = Counter[tuple[int, int, str]]
"""(tile, k, family), and how often."""


def work(tile: int, num_cells: int, *, lane: int = 0, num_pairs: int = 64, cost: int = 5) -> TileWork:
    costs = np.full(num_cells, cost, np.uint32)
    return TileWork(tile, lane, num_pairs, costs, [(0, num_cells, BOTH)])


def cells_of(parts: Sequence[tuple[int, int, int, tuple[str, ...]]]) -> Cells:
    """All cells of (tile, lo, hi, families)."""
    return Counter((tile, k, f) for tile, lo, hi, families in parts for k in range(lo, hi) for f in families)


def asked(tiles: Sequence[TileWork]) -> Cells:
    return cells_of([(tile.tile, lo, hi, families) for tile in tiles for lo, hi, families in tile.todo])


Fate = Literal["done", "partly", "failed", "died"]


@dataclass
class Simulation:
    """Workers of given speeds (cost units per second) that pay for captures, on a clock of its own."""

    schedule: WorkSchedule
    speeds: dict[int, float]
    fate: Callable[[Slice], Fate] = lambda taken: "done"
    now: float = 0.0
    done: Cells = field(default_factory=Counter)
    slices: list[tuple[int, Slice, float]] = field(default_factory=list)
    """(worker, slice, seconds), in the order in which they ended."""
    busy_s: Counter[int] = field(default_factory=Counter)
    deaths: int = 0

    def run(self) -> None:
        by_tile = {tile.tile: tile for tile in self.schedule.units}
        captured: dict[int, int] = {}
        running: list[tuple[float, int, Slice, float]] = []
        for worker in self.speeds:
            self.schedule.join(worker)
        idle = list(self.speeds)
        while True:
            still_idle = []
            for worker in idle:
                taken = self.schedule.next_part(worker, self.schedule.target_s(self.now))
                if taken is None:
                    still_idle.append(worker)
                    continue
                tile = by_tile[taken.tile]
                cost = float(tile.costs[taken.k_lo : taken.k_hi].sum()) * tile.num_pairs
                if captured.get(worker) != taken.tile:
                    cost += CAPTURES_PER_PAIR * tile.num_pairs * float(tile.costs.max())
                captured[worker] = taken.tile
                seconds = cost / self.speeds[worker]
                heapq.heappush(running, (self.now + seconds, worker, taken, seconds))
            idle = still_idle
            if not running:
                return
            self.now, worker, taken, seconds = heapq.heappop(running)
            self.busy_s[worker] += seconds
            idle.append(self._end(worker, taken, seconds))

    def _end(self, worker: int, taken: Slice, seconds: float) -> int:
        """What became of a slice; the worker that is idle now."""
        self.slices.append((worker, taken, seconds))
        num_cells = taken.k_hi - taken.k_lo
        match self.fate(taken):
            case "died":
                self.deaths += 1
                self.schedule.blame(taken, None)
                self.schedule.leave(worker)
                fresh = max(self.speeds) + 1
                self.speeds[fresh] = self.speeds[worker]
                self.schedule.join(fresh, 0.5)
                return fresh
            case "failed":
                self.schedule.give_up(taken)
                return worker
            case "partly":
                num_cells = max(1, num_cells // 2)
        self.schedule.report(worker, taken, num_cells, seconds, is_over=True)
        self.done += cells_of([(taken.tile, taken.k_lo, taken.k_lo + num_cells, taken.families)])
        return worker


def fates(seed: int, weights: Sequence[int]) -> Callable[[Slice], Fate]:
    draw = random.Random(seed)
    names: list[Fate] = ["done", "partly", "failed", "died"]
    return lambda taken: draw.choices(names, weights)[0]


@st.composite
def tile_works(draw: st.DrawFn) -> list[TileWork]:
    """Tiles of several lanes and sizes, some of them begun, with metric families still to be added."""
    found = []
    for tile in range(draw(st.integers(1, 8))):
        num_cells = draw(st.integers(1, 40))
        edges = sorted(draw(st.sets(st.integers(0, num_cells), min_size=2, max_size=6)))
        kinds = st.sampled_from([BOTH, ("kl",), ("logits",), ()])
        parts = [(lo, hi, draw(kinds)) for lo, hi in pairwise(edges)]
        costs = np.array(
            draw(st.lists(st.integers(1, 30), min_size=num_cells, max_size=num_cells)), np.uint32
        )
        todo = [part for part in parts if part[2]]
        if todo:
            found.append(TileWork(tile, draw(st.integers(0, 2)), draw(st.integers(1, 64)), costs, todo))
    return found


@settings(max_examples=150, deadline=None)
@given(
    tiles=tile_works(),
    speeds=st.lists(st.floats(10, 1e5), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    weights=st.sampled_from([(1, 0, 0, 0), (3, 2, 0, 0), (5, 1, 1, 1), (2, 1, 1, 3)]),
)
def test_every_cell_is_done_exactly_once_whoever_fails_or_dies(
    tiles: list[TileWork], speeds: list[float], seed: int, weights: tuple[int, ...]
) -> None:
    expected = asked(tiles)
    schedule = WorkSchedule(tiles)
    simulation = Simulation(schedule, dict(enumerate(speeds)), fates(seed, weights))
    simulation.run()
    assert simulation.done == expected
    assert schedule.remaining_cost == pytest.approx(0, abs=1e-6)
    assert schedule.is_empty and not any(tile.todo for tile in tiles)


@settings(max_examples=100, deadline=None)
@given(tiles=tile_works(), num_workers=st.integers(1, 5))
def test_no_cell_is_with_two_workers_at_once(tiles: list[TileWork], num_workers: int) -> None:
    expected, schedule = asked(tiles), WorkSchedule(tiles)
    for worker in range(num_workers):
        schedule.join(worker)
    out: Cells = Counter()
    for turn in range(10_000):
        taken = schedule.next_part(turn % num_workers, schedule.target_s(0.0))
        if taken is None:
            if turn > 10_000 - num_workers or not any(tile.todo for tile in tiles):
                break
            continue
        assert taken.k_lo < taken.k_hi
        out += cells_of([(taken.tile, taken.k_lo, taken.k_hi, taken.families)])
    assert out == expected


def test_a_worker_goes_on_with_its_own_tile() -> None:
    schedule = WorkSchedule([work(tile, 60) for tile in range(6)])
    simulation = Simulation(schedule, {0: 500.0, 1: 700.0})
    simulation.run()
    for worker in simulation.speeds:
        mine = [taken.tile for by, taken, _ in simulation.slices if by == worker]
        changes = sum(a != b for a, b in pairwise(mine))
        assert changes <= len(set(mine)), "it came back to a tile that it had left"
    owners = Counter(tile for tile, _ in {(taken.tile, by) for by, taken, _ in simulation.slices})
    assert sum(owners.values()) <= 6 + 2, "tiles are shared only at the end"


def test_an_owner_takes_from_the_low_end_and_others_from_the_high_end() -> None:
    schedule = WorkSchedule([work(0, 1000)])
    for worker in (0, 1):
        schedule.join(worker)
    first, second = (schedule.next_part(worker, schedule.target_s(0.0)) for worker in (0, 1))
    assert first is not None and first.k_lo == 0
    assert second is not None and second.k_hi == 1000


def test_a_rest_that_is_not_worth_new_captures_is_left_to_its_owner() -> None:
    # Two captures for each pair cost as much as two cells; a rest of four or fewer is not worth it.
    for rest, worth in ((4, False), (5, True)):
        schedule = WorkSchedule([work(0, rest + 1)], first_rate=1.0)
        for worker in (0, 1):
            schedule.join(worker)
        assert schedule.next_part(0, schedule.target_s(0.0)) == Slice(0, 0, 0, 1, BOTH)
        assert (schedule.next_part(1, schedule.target_s(0.0)) is not None) == worth


def test_a_worker_stays_with_its_model() -> None:
    schedule = WorkSchedule([work(tile, 3, lane=tile % 2) for tile in range(10)])
    simulation = Simulation(schedule, {0: 100.0, 1: 100.0})
    simulation.run()
    for worker in simulation.speeds:
        lanes = [taken.lane for by, taken, _ in simulation.slices if by == worker]
        assert sum(a != b for a, b in pairwise(lanes)) <= 1


@pytest.mark.parametrize(("elapsed_s", "target_s"), [(0, MIN_SLICE_S), (1000, 10), (10_000, MAX_SLICE_S)])
def test_slices_take_the_target_time(elapsed_s: float, target_s: float) -> None:
    schedule = WorkSchedule([work(0, 1_000_000)])
    schedule.join(0)
    cost, rate = 64 * 5, 3000.0
    for _ in range(12):
        taken = schedule.next_part(0, schedule.target_s(elapsed_s))
        assert taken is not None
        num_cells = taken.k_hi - taken.k_lo
        schedule.report(0, taken, num_cells, num_cells * cost / rate, is_over=True)
    assert schedule.target_s(elapsed_s) == target_s
    assert num_cells * cost / rate == pytest.approx(target_s, rel=0.06)
    assert schedule.rate == pytest.approx(rate, rel=1e-6)


def test_a_rate_follows_a_worker_that_slows_down() -> None:
    schedule = WorkSchedule([work(0, 100_000)])
    schedule.join(0)
    for seconds in [1.0] + [4.0] * 10:
        schedule.report(0, Slice(0, 0, 0, 100, BOTH), 100, seconds, is_over=True)
    assert schedule.rate == pytest.approx(100 * 64 * 5 / 4, rel=0.02)


def test_a_rest_that_comes_back_melts_into_what_is_next_to_it() -> None:
    tile = work(0, 100)
    schedule = WorkSchedule([tile], first_rate=5000.0)
    schedule.join(0)
    taken = schedule.next_part(0, schedule.target_s(0.0))
    assert taken is not None
    schedule.report(0, taken, 1, 1.0, is_over=True)
    assert tile.todo == [(1, 100, BOTH)]


@pytest.mark.parametrize("give_up_first", [True, False])
def test_what_a_dead_worker_left_is_taken_by_others_in_either_order(give_up_first: bool) -> None:
    schedule = WorkSchedule([work(0, 3)], first_rate=1e6)
    for worker in (0, 1):
        schedule.join(worker)
    taken = Slice(0, 0, 0, 3, BOTH)
    assert schedule.next_part(0, schedule.target_s(0.0)) == taken
    assert schedule.next_part(1, schedule.target_s(0.0)) is None
    if give_up_first:
        schedule.give_up(taken)
    schedule.leave(0)
    if not give_up_first:
        schedule.give_up(taken)
    assert schedule.next_part(1, schedule.target_s(0.0)) == taken
    assert schedule.next_part(1, schedule.target_s(0.0)) is None


STUDIES: dict[str, tuple[list[TileWork], list[float]]] = {
    "the demo on two cores": ([work(0, 450)], [1000.0] * 2),
    "one tile on 4 workers": ([work(0, 2160, cost=24)], [4000.0] * 4),
    "40 tiles on 8 workers": ([work(t, 450) for t in range(40)], [1000.0] * 8),
    "40 tiles on 8 uneven workers": ([work(t, 450) for t in range(40)], [600.0 + 150 * n for n in range(8)]),
    "60 mixed tiles on 16 workers": (
        [work(t, 300 + 97 * (t % 5), cost=5 + t % 20, num_pairs=64 - t % 30) for t in range(60)],
        [2000.0 + 100 * n for n in range(16)],
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_workers_are_idle_and_capture_again_for_a_small_share_of_the_time(name: str) -> None:
    tiles, speeds = STUDIES[name]
    cost = sum(tile.cost for tile in tiles)
    simulation = Simulation(WorkSchedule(tiles, first_rate=200.0), dict(enumerate(speeds)))
    simulation.run()
    available = simulation.now * len(speeds)
    idle = 1 - sum(simulation.busy_s.values()) / available
    useful = cost / sum(speeds) / simulation.now
    print(f"{name}: {simulation.now:,.0f} s, idle {idle:.1%}, captures {1 - useful - idle:.1%}")
    assert idle < 0.02
    assert useful > 0.97


def test_slices_shorten_towards_the_end() -> None:
    """Half of what remains for each worker, so that none is left with a long slice while others wait."""
    schedule = WorkSchedule([work(0, 500)], first_rate=1000.0)
    for worker in range(4):
        schedule.join(worker)
    assert schedule.target_s(10_000) == 500 * 64 * 5 / (2 * 4 * 1000.0)
    while schedule.next_part(0, schedule.target_s(0.0)) is not None:
        pass
    assert schedule.target_s(10_000) == MIN_SLICE_S / 4
