"""What is handed out: a slice of a tile is one call, one part; a tile's work is what remains of it."""

__all__ = ["Jobs", "Slice", "TileWork", "jobs_within", "open_work", "undone"]

from dataclasses import dataclass

import numpy as np

from orchestrator.plan.ranges import mask, stretches
from orchestrator.plan.tables import Plan, Tile
from orchestrator.store import Manifest, State

ESTIMATES_PER_PAIR = 4.0
"""Estimates of all cells cost about as much as so many jobs of the most costly cell: a forward and a
backward of the base, and a forward of each source."""
ROWS_OF_ESTIMATES = 1 << 20
"""At most, in one slice: so far the estimates of a tile are made at once, since its runs serve them all."""
CAPTURES_PER_PAIR = 2.0
"""A capture costs about as much as a job: one of the base and one of the source for each pair."""

Jobs = tuple[tuple[int, int], ...]
"""Jobs of one tile, as sorted half-open ranges of ``k * P + j``: the k-th cell on the j-th of P pairs."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Cells ``k_lo`` to ``k_hi`` of a tile, for the metric families that they lack."""

    tile: int
    lane: int
    k_lo: int
    k_hi: int
    families: tuple[str, ...]
    replaces: str | None = None
    """A retry names the part whose failed rows it replaces."""
    jobs: Jobs = ()
    """The jobs of a retry; otherwise all are run."""
    careful: bool = False
    """Whether jobs run one by one, each noted before it begins, because this slice killed workers."""
    seq: int = 0
    """How many commits the study had when it was handed out; its part says so."""
    given_up: Jobs = ()
    """Jobs that killed too many workers: they become failures and are not run."""


@dataclass(slots=True)
class TileWork:
    """What remains of a tile, or of the failed jobs of one part: ranges of k that lack the same families."""

    tile: int
    lane: int
    num_pairs: int
    costs: np.ndarray
    """Cost units of each cell for one pair, shape (num_cells,)."""
    todo: list[tuple[int, int, tuple[str, ...]]]
    owner: int | None = None
    replaces: str | None = None
    jobs: Jobs = ()
    estimates: bool = False
    """Whether its jobs are estimated, all cells at once."""

    @property
    def key(self) -> tuple[int, str | None]:
        """What tells it from other work."""
        return self.tile, self.replaces

    @property
    def cost(self) -> float:
        """Cost units that remain."""
        return float(sum(self.costs[lo:hi].sum() for lo, hi, _ in self.todo) * self.num_pairs)

    @property
    def capture_cost(self) -> float:
        """What a worker pays before its first job here."""
        return float(self.costs.max() * CAPTURES_PER_PAIR * self.num_pairs)

    def take(self, budget: float, *, high: bool, most_cells: int | None = None) -> Slice:
        """Remove and return about `budget` cost units from the low or the high end, at least one cell."""
        lo, hi, families = self.todo.pop(-1 if high else 0)
        costs = self.costs[lo:hi] * self.num_pairs
        num = int(np.searchsorted(np.cumsum(costs[::-1] if high else costs), budget, side="right"))
        if self.estimates:
            num = ROWS_OF_ESTIMATES // self.num_pairs
        num = max(1, min(num, hi - lo, most_cells or hi - lo))
        if num < hi - lo:
            rest = (lo, hi - num, families) if high else (lo + num, hi, families)
            self.todo.insert(len(self.todo) if high else 0, rest)
        k_lo, k_hi = (hi - num, hi) if high else (lo, lo + num)
        jobs = jobs_within(self.jobs, k_lo * self.num_pairs, k_hi * self.num_pairs)
        return Slice(self.tile, self.lane, k_lo, k_hi, families, self.replaces, jobs)

    def put_back(self, lo: int, hi: int, families: tuple[str, ...]) -> None:
        """Return a range that was taken and not done; it melts into its neighbours."""
        joined: list[tuple[int, int, tuple[str, ...]]] = []
        for part in sorted([*self.todo, (lo, hi, families)]):
            if joined and joined[-1][1:] == (part[0], part[2]):
                joined[-1] = (joined[-1][0], *part[1:])
            else:
                joined.append(part)
        self.todo = joined


def jobs_within(jobs: Jobs, lo: int, hi: int) -> Jobs:
    """The jobs from `lo` to `hi`."""
    return tuple((max(a, lo), min(b, hi)) for a, b in jobs if a < hi and lo < b)


def undone(manifest: Manifest, state: State) -> list[Slice]:
    """What a part that was refused holds of jobs that are not done: they must run again.

    Of a retry it is nothing: its jobs are failures that were replaced already.
    """
    if manifest.replaces is not None:
        return []
    return [
        Slice(manifest.tile, int(manifest.lane), lo, hi, (family,))
        for family in manifest.families
        for lo, hi in state.done(family, manifest.tile).subtract_from(manifest.k_lo, manifest.k_hi)
    ]


def open_work(plan: Plan, state: State) -> list[TileWork]:
    """The tiles of which something remains, in the order of the plan."""
    work = [
        TileWork(
            tile=tile.tile,
            lane=tile.lane,
            num_pairs=len(tile.pairs),
            costs=_costs(plan, tile),
            todo=_todo(plan, state, tile),
            estimates=tile.estimates,
        )
        for tile in plan.tiles.values()
    ]
    return [tile for tile in work if tile.todo]


def _costs(plan: Plan, tile: Tile) -> np.ndarray:
    costs = plan.costs[tile.cellset]
    if not tile.estimates:
        return costs
    return np.full(len(costs), ESTIMATES_PER_PAIR * costs.max() / len(costs))


def _todo(plan: Plan, state: State, tile: Tile) -> list[tuple[int, int, tuple[str, ...]]]:
    """Ranges of wanted cells, each with the metric families that all of its cells lack."""
    wanted = mask(tile.num_cells, tile.wanted)
    # One bit for each family that a cell lacks: a change of the bits begins a new range.
    lacking = np.zeros(tile.num_cells, np.int64)
    families = plan.families_of(tile)
    for bit, family in enumerate(families):
        done = mask(tile.num_cells, state.done(family, tile.tile).intervals())
        lacking |= (wanted & ~done).astype(np.int64) << bit
    return [
        (lo, hi, tuple(f for bit, f in enumerate(families) if lacking[lo] >> bit & 1))
        for lo, hi in stretches(lacking)
        if lacking[lo]
    ]
