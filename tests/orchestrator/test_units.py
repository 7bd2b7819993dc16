"""Promise: cells are handed out once what they wait for is over, a whole unit is with one worker at a time,
and each is over in the end, or given up after three deaths in a row. By simulation: no model, no clock.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedule import asked, cells_of, work

from orchestrator.run.schedule import WorkSchedule
from orchestrator.stages.sweep.work import Slice, TileWork
from orchestrator.stages.units import DEATHS_OF_A_UNIT, Piece, Taken, UnitKey, WholeUnit


def waiting(tile: TileWork, num_fits: int) -> TileWork:
    """A tile of which each stretch of cells waits for a fit."""
    tile.uses = lambda k: (("fit", str(k * num_fits // 30)),)
    return tile


@settings(max_examples=80, deadline=None)
@given(
    num_workers=st.integers(1, 4),
    num_tiles=st.integers(0, 3),
    num_fits=st.integers(1, 9),
    num_trainings=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_whole_units_and_what_waits_for_them(
    num_workers: int, num_tiles: int, num_fits: int, num_trainings: int, seed: int
) -> None:
    draw = random.Random(seed)
    tiles = [waiting(work(tile, 30), num_fits) for tile in range(num_tiles)]
    fits = [WholeUnit("fit", str(n), 0, 500.0, is_on_demand=True, most_deaths=None) for n in range(num_fits)]
    trainings = [WholeUnit("train", str(n)) for n in range(num_trainings)]
    expected, done = asked(tiles), cells_of([])
    schedule = WorkSchedule([*trainings, *tiles, *fits])
    busy: dict[int, Taken] = {}
    deaths: Counter[UnitKey] = Counter()
    given_up: set[UnitKey] = set()
    workers, fresh = list(range(num_workers)), num_workers
    for worker in workers:
        schedule.join(worker)
    for _ in range(3000):
        worker = draw.choice(workers)
        if worker not in busy:
            taken = schedule.next_part(worker, schedule.target_s(0.0), draw.choice([None, 64]))
            if taken is None:
                if not busy and schedule.is_empty:
                    break
                continue
            assert taken.key not in [other.key for other in busy.values() if isinstance(other, Piece)]
            if isinstance(taken, Slice):
                used = {key for k in range(taken.k_lo, taken.k_hi) for key in tiles[taken.tile].uses(k)}  # type: ignore[misc]
                assert all(fit.is_over for fit in fits if fit.key in used)
            busy[worker] = taken
            continue
        taken = busy.pop(worker)
        if draw.random() < 0.25:
            schedule.leave(worker)
            deaths[taken.key] += 1
            if schedule.blame(taken, None):
                assert isinstance(taken, Piece) and taken.stage == "train"
                assert deaths[taken.key] == DEATHS_OF_A_UNIT
                given_up.add(taken.key)
            workers[workers.index(worker)] = fresh
            schedule.join(fresh, 0.5)
            fresh += 1
            continue
        if isinstance(taken, Slice):
            done += cells_of([(taken.tile, taken.k_lo, taken.k_hi, taken.families)])
            schedule.report(worker, taken, taken.k_hi - taken.k_lo, 1.0, is_over=True)
        else:
            deaths[taken.key] = 0
            schedule.report(worker, taken, 1, 1.0, is_over=draw.random() < 0.7)
    assert done == expected and schedule.is_empty and not busy
    assert all(unit.is_over for unit in trainings)
    assert all(unit.is_over for unit in fits) or not tiles
    assert given_up <= {unit.key for unit in trainings}


def test_a_training_stays_with_its_worker_until_it_is_over_or_the_worker_is_gone() -> None:
    units = [WholeUnit("train", name) for name in "ab"]
    schedule = WorkSchedule(units)
    schedule.join(0)
    first = schedule.next_part(0, 2.0)
    assert first == Piece("train", "a")
    schedule.report(0, first, 10, 2.0, is_over=False)
    schedule.join(1)
    assert schedule.next_part(1, 2.0) == Piece("train", "b")
    assert schedule.next_part(0, 2.0) == first, "its state is in this worker's memory"
    schedule.leave(0)
    assert not schedule.blame(first, None)
    schedule.join(2)
    assert schedule.next_part(2, 2.0) == first, "it goes on before others begin"
    schedule.report(2, first, 20, 2.0, is_over=True)
    assert schedule.next_part(2, 2.0) is None and not units[0].is_open


@pytest.mark.parametrize("num_workers", [2, 3, 4, 6])
def test_workers_that_share_a_tile_get_no_cell_whose_fit_is_not_there(num_workers: int) -> None:
    tile = work(0, 60)
    tile.uses = lambda k: (("fit", str(k)),)
    fits = {
        f"{n}": WholeUnit("fit", str(n), 0, 500.0, is_on_demand=True, most_deaths=None) for n in range(60)
    }
    schedule = WorkSchedule([tile, *fits.values()])
    for worker in range(num_workers):
        schedule.join(worker)
    draw, busy, num_cells = random.Random(num_workers), dict[int, Taken](), 0
    while busy or not schedule.is_empty:
        for worker in range(num_workers):
            if (
                worker not in busy
                and (taken := schedule.next_part(worker, schedule.target_s(0.0))) is not None
            ):
                busy[worker] = taken
                if isinstance(taken, Slice):
                    assert all(fits[str(k)].is_over for k in range(taken.k_lo, taken.k_hi))
        worker = draw.choice([*busy])
        taken = busy.pop(worker)
        steps = taken.k_hi - taken.k_lo if isinstance(taken, Slice) else 1
        num_cells += steps * isinstance(taken, Slice)
        schedule.report(worker, taken, steps, 1.0, is_over=True)
    assert num_cells == 60
