"""What is done of a plan and what remains, from the committed parts alone."""

__all__ = ["Counts", "counts_of", "finished_cells", "mask", "open_work"]

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from orchestrator.plan.tables import Plan, Tile
from orchestrator.schedule import TileWork
from orchestrator.store import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Jobs of a plan."""

    num_jobs: int
    num_done: int
    """In every metric family; failed ones count as done."""
    num_failed: int


def counts_of(plan: Plan, state: State) -> Counts:
    """How far a study is."""
    num_done = sum(
        int(finished_cells(plan, state, tile).sum()) * tile.num_selected for tile in plan.tiles.values()
    )
    num_failed = max((state.num_failed[family] for family in plan.families), default=0)
    return Counts(num_jobs=plan.num_jobs, num_done=num_done, num_failed=num_failed)


def finished_cells(plan: Plan, state: State, tile: Tile) -> np.ndarray:
    """Which cells of a tile are wanted and done in every metric family; shape (num_cells,), bool."""
    num_cells = len(plan.cellsets[tile.cellset])
    finished = mask(num_cells, tile.wanted)
    for family in plan.families:
        finished &= mask(num_cells, state.done(family, tile.tile).intervals())
    return finished


def open_work(plan: Plan, state: State) -> list[TileWork]:
    """The tiles of which something remains, in the order of the plan."""
    work = [
        TileWork(
            tile=tile.tile,
            lane=tile.lane,
            num_pairs=len(tile.pairs),
            costs=plan.costs[tile.cellset],
            todo=_todo(plan, state, tile),
        )
        for tile in plan.tiles.values()
    ]
    return [tile for tile in work if tile.todo]


def _todo(plan: Plan, state: State, tile: Tile) -> list[tuple[int, int, tuple[str, ...]]]:
    """Ranges of wanted cells, each with the metric families that all of its cells lack."""
    num_cells = len(plan.cellsets[tile.cellset])
    wanted = mask(num_cells, tile.wanted)
    # One bit for each family that a cell lacks: a change of the bits begins a new range.
    lacking = np.zeros(num_cells, np.int64)
    for bit, family in enumerate(plan.families):
        lacking |= (wanted & ~mask(num_cells, state.done(family, tile.tile).intervals())).astype(
            np.int64
        ) << bit
    edges = [0, *(np.flatnonzero(np.diff(lacking)) + 1).tolist(), num_cells]
    return [
        (lo, hi, tuple(f for bit, f in enumerate(plan.families) if lacking[lo] >> bit & 1))
        for lo, hi in pairwise(edges)
        if lo < hi and lacking[lo]
    ]


def mask(num_cells: int, ranges: Iterable[tuple[int, int]]) -> np.ndarray:
    """Which cells lie in some of the half-open `ranges`; shape (num_cells,), bool."""
    inside = np.zeros(num_cells, bool)
    for lo, hi in ranges:
        inside[lo:hi] = True
    return inside
