"""Promise: however often a study changes, every wanted job is in exactly one tile, what is done is never
planned again, and no ordinal or number ever means two things. Held against a brute-force model."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.previous_plan import PreviousPlan
from orchestrator.plan.tables import Tile
from orchestrator.plan.tiles import PAIRS_PER_TILE, Group, make_tiles
from orchestrator.store import IntervalSet

LANES = (0, 1)
CELLS = {0: range(0, 9), 1: range(9, 18)}
"""A cell belongs to one lane; lanes share pairs, for two models may cut a text into the same tokens."""
PAIRS = range(7)


@dataclass
class Store:
    """What lies in a study's folder, job by job: the model that the planner must agree with."""

    earlier: PreviousPlan = field(default_factory=PreviousPlan)
    done: dict[int, IntervalSet] = field(default_factory=dict)
    """Tile → places of cells that some part holds."""

    def plan(self, groups: list[Group]) -> list[Tile]:
        """Plan, and take the plan's tiles for those of before."""
        done = {tile: found.intervals() for tile, found in self.done.items()}
        before = replace(self.earlier, done=done)
        cellsets, tiles = make_tiles(groups, before)
        self.check(groups, cellsets, tiles)
        self.earlier = replace(self.earlier, cellsets=cellsets, tiles=tiles)
        return tiles

    def check(self, groups: list[Group], cellsets, tiles: list[Tile]) -> None:  # type: ignore[no-untyped-def]
        for old, new in zip(self.earlier.tiles, tiles, strict=False):
            assert replace(old, selected=()) == replace(new, selected=()), "a tile never changes what it is"
        for number, cells in self.earlier.cellsets.items():
            assert list(cellsets[number]) == list(cells)
        assert len({tile.tile for tile in tiles}) == len(tiles)
        spans = sorted(
            (tile.ord0, tile.ord0 + len(cellsets[tile.cellset]) * len(tile.pairs)) for tile in tiles
        )
        assert all(hi <= lo for (_, hi), (lo, _) in pairwise(spans)), "ordinals overlap"

        wanted = {(g.lane, cell, pair) for g in groups for cell in g.cells for pair in g.pairs}
        found: Counter[tuple[int, int, int]] = Counter()
        for tile in tiles:
            for lo, hi, num_pairs in tile.selected:
                for k in range(lo, hi):
                    jobs = {(tile.lane, cellsets[tile.cellset][k], pair) for pair in tile.pairs} & wanted
                    assert len(jobs) == num_pairs, "a deselected job is counted"
                    found.update(jobs)
                    if not self.is_done(tile.tile, k):
                        assert num_pairs == len(tile.pairs), "a deselected job would be run"
        assert set(found.values()) <= {1}, "a job is in two tiles"
        assert set(found) == wanted
        for tile in self.earlier.tiles:
            after = tiles[[each.tile for each in tiles].index(tile.tile)]
            for lo, hi in self.done.get(tile.tile, IntervalSet()).intervals():
                for k in range(lo, hi):
                    jobs = {(tile.lane, cellsets[tile.cellset][k], pair) for pair in tile.pairs} & wanted
                    assert not jobs or any(a <= k < b for a, b, _ in after.selected), (
                        "done, and planned again"
                    )

    def is_done(self, tile: int, k: int) -> bool:
        return tile in self.done and self.done[tile].overlaps(k, k + 1)

    def work(self, tiles: list[Tile], draw: st.DrawFn) -> None:
        """Workers commit some stretches of what the plan asks for."""
        for tile in tiles:
            for lo, hi, _ in tile.selected:
                for k in range(lo, hi):
                    if draw(st.booleans()):
                        self.done.setdefault(tile.tile, IntervalSet()).add(k, k + 1)


@st.composite
def groups_of(draw: st.DrawFn) -> list[Group]:
    """A study, as groups: each pair of a lane is in one of at most three, each with cells of its own."""
    groups = []
    for lane in draw(st.sets(st.sampled_from(LANES))):
        homes = {pair: draw(st.integers(0, 3)) for pair in PAIRS}
        for home in range(3):
            pairs = tuple(pair for pair in PAIRS if homes[pair] == home)
            cells = tuple(sorted(draw(st.sets(st.sampled_from(CELLS[lane])))))
            if pairs:
                groups.append(Group(lane, cells, pairs))
    return groups


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_sequence_of_studies_covers_every_wanted_job_exactly_once(data: st.DataObject) -> None:
    store = Store()
    for _ in range(data.draw(st.integers(1, 5), label="plans")):
        tiles = store.plan(data.draw(groups_of()))
        store.work(tiles, data.draw)


def test_pairs_that_come_back_are_not_planned_twice() -> None:
    store = Store()
    both, one = [Group(0, tuple(range(9)), (0, 1))], [Group(0, tuple(range(9)), (0,))]
    (tile,) = store.plan(both)
    store.done[tile.tile] = IntervalSet()
    store.done[tile.tile].add(0, 4)
    # Without pair 1 the tile keeps its done cells, and a new tile takes the others for pair 0 …
    first, rest = store.plan(one)
    assert (first.selected, rest.selected) == (((0, 4, 1),), ((0, 5, 1),))
    # … of which it has done some when pair 1 comes back: those stay, and pair 1 needs them in a third one.
    store.done[rest.tile] = IntervalSet()
    store.done[rest.tile].add(0, 2)
    first, rest, fresh = store.plan(both)
    assert (first.selected, rest.selected) == (((0, 4, 2), (6, 9, 2)), ((0, 2, 1),))
    assert (fresh.pairs, fresh.selected) == ((1,), ((0, 2, 1),))


def test_a_study_of_other_models_keeps_what_each_model_has_done() -> None:
    """The same pairs under two models: what one model did is not looked for among the other's cells."""
    store = Store()
    two = [Group(lane, tuple(CELLS[lane]), (0, 1)) for lane in LANES]
    for tile in store.plan(two):
        store.done[tile.tile] = IntervalSet()
        store.done[tile.tile].add(0, 9)
    tiles = store.plan([*two[::-1]])
    assert len(tiles) == 2 and all(tile.selected == ((0, 9, 2),) for tile in tiles)


def test_new_layers_are_new_tiles_and_old_tiles_stay() -> None:
    store = Store()
    (old,) = store.plan([Group(0, (0, 1, 2), (0, 1))])
    tiles = store.plan([Group(0, (0, 1, 2, 3), (0, 1))])
    assert tiles[0] == old
    assert (tiles[1].num_cells, tiles[1].pairs, tiles[1].ord0) == (1, (0, 1), old.ord0 + 6)


def test_a_tile_holds_at_most_64_pairs_of_one_group() -> None:
    tiles = Store().plan([Group(0, (0,), tuple(range(150))), Group(0, (0,), tuple(range(150, 160)))])
    assert sorted(len(tile.pairs) for tile in tiles) == [10, 22, 64, 64]
    assert PAIRS_PER_TILE == 64


def test_early_tiles_are_a_sample_of_all_pairs_and_the_same_in_every_process() -> None:
    groups = [Group(0, (0,), tuple(range(64 * 20)))]
    firsts = [tile.pairs[0] for tile in Store().plan(groups)]
    assert firsts != sorted(firsts) and sorted(firsts) == list(range(0, 64 * 20, 64))
    assert firsts == [tile.pairs[0] for tile in Store().plan(groups)]
