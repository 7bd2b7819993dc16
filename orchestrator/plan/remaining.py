"""Jobs of a plan that are done and that remain, from the committed parts alone."""

__all__ = ["Counts", "counts_of", "finished_cells", "mask"]

from dataclasses import dataclass

import numpy as np

from orchestrator.plan.tables import Plan, Tile, mask
from orchestrator.store import State
from workers.metrics import ESTIMATE, families_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of jobs of a plan."""

    num_jobs: int
    num_done: int
    """In every metric family; failed ones count as done."""
    num_failed: int
    """In the metric family that has most; those of a part count if the plan wants some of its cells."""
    num_estimates: int = 0
    """Jobs that are estimated first, in a screened study."""
    num_estimated: int = 0
    is_selected: bool = True
    """Whether it is known which jobs run; before, `num_jobs` is 0."""

    @property
    def num_open(self) -> int:
        """Number of jobs that remain to be estimated or run, as far as it is known."""
        return self.num_jobs - self.num_done + self.num_estimates - self.num_estimated

    @property
    def is_complete(self) -> bool:
        """Whether nothing remains."""
        return self.is_selected and not self.num_open

    @property
    def now(self) -> tuple[int, int, str]:
        """Number done, number in all, and of what: of jobs, or before these are selected of estimates."""
        if self.is_selected:
            return self.num_done, self.num_jobs, "jobs"
        return self.num_estimated, self.num_estimates, "estimates"


def counts_of(plan: Plan, state: State) -> Counts:
    """Counts of a study, as far as it is."""
    done = {False: 0, True: 0}
    for tile in plan.tiles.values():
        done[tile.estimates] += int((tile.num_selected * finished_cells(plan, state, tile)).sum())
    return Counts(
        num_jobs=plan.num_jobs,
        num_done=done[False],
        num_failed=_num_failed(plan, state),
        num_estimates=plan.num_estimates,
        num_estimated=done[True],
        is_selected=plan.is_selected,
    )


def finished_cells(plan: Plan, state: State, tile: Tile) -> np.ndarray:
    """Mask of a tile's cells that are wanted, and done in every metric family; shape (num_cells,), bool."""
    finished = mask(tile.num_cells, tile.wanted)
    for family in plan.families_of(tile):
        finished &= mask(tile.num_cells, state.done(family, tile.tile).intervals())
    return finished


def _num_failed(plan: Plan, state: State) -> int:
    failed = dict.fromkeys((*plan.families, ESTIMATE), 0)
    for part in state.live.values():
        # Each row of a retry replaces one that had failed, and counts where that one counts.
        first = part if part.replaces is None else state.live[part.replaces]
        change = part.failed if first is part else part.failed - part.rows
        tile = plan.tiles.get(part.tile)
        if change and tile and any(lo < first.k_hi and first.k_lo < hi for lo, hi in tile.wanted):
            for family in families_in(part.families) & failed.keys():
                failed[family] += change
    return max(failed.values())
