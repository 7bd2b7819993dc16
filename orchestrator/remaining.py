"""What is done of a plan and what remains, from the committed parts alone."""

__all__ = ["Counts", "counts_of", "finished_cells", "mask", "open_work"]

from dataclasses import dataclass

import numpy as np

from orchestrator.plan.ranges import mask, stretches
from orchestrator.plan.tables import Plan, Tile
from orchestrator.run.schedule import TileWork
from orchestrator.store import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Jobs of a plan."""

    num_jobs: int
    num_done: int
    """In every metric family; failed ones count as done."""
    num_failed: int
    """In the metric family that has most; those of a part count if the plan wants some of its cells."""


def counts_of(plan: Plan, state: State) -> Counts:
    """How far a study is."""
    num_done = sum(
        int((tile.num_selected * finished_cells(plan, state, tile)).sum()) for tile in plan.tiles.values()
    )
    return Counts(num_jobs=plan.num_jobs, num_done=num_done, num_failed=_num_failed(plan, state))


def finished_cells(plan: Plan, state: State, tile: Tile) -> np.ndarray:
    """Which cells of a tile are wanted and done in every metric family; shape (num_cells,), bool."""
    finished = mask(tile.num_cells, tile.wanted)
    for family in plan.families:
        finished &= mask(tile.num_cells, state.done(family, tile.tile).intervals())
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
    wanted = mask(tile.num_cells, tile.wanted)
    # One bit for each family that a cell lacks: a change of the bits begins a new range.
    lacking = np.zeros(tile.num_cells, np.int64)
    for bit, family in enumerate(plan.families):
        done = mask(tile.num_cells, state.done(family, tile.tile).intervals())
        lacking |= (wanted & ~done).astype(np.int64) << bit
    return [
        (lo, hi, tuple(f for bit, f in enumerate(plan.families) if lacking[lo] >> bit & 1))
        for lo, hi in stretches(lacking)
        if lacking[lo]
    ]


def _num_failed(plan: Plan, state: State) -> int:
    failed = dict.fromkeys(plan.families, 0)
    for part in state.live.values():
        # Each row of a retry replaces one that had failed.
        change = part.failed - (part.rows if part.replaces is not None else 0)
        tile = plan.tiles.get(part.tile)
        if change and tile and any(lo < part.k_hi and part.k_lo < hi for lo, hi in tile.wanted):
            for family in set(part.families) & failed.keys():
                failed[family] += change
    return max(failed.values())
