"""What is handed out: a slice of a tile is one call, one part; a tile's work is what remains of it."""

__all__ = ["Jobs", "OpenFits", "Slice", "TileWork", "jobs_within", "open_work", "undone"]

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from orchestrator.plan.costs import Costs
from orchestrator.plan.tables import Plan, Tile, mask, stretches
from orchestrator.plan.unchanged import RunningShares
from orchestrator.run.pace import Load
from orchestrator.store import Manifest, State
from workers.facts import ModelFacts
from workers.vocabulary import Pair

ESTIMATES_PER_PAIR = 4.0
"""Estimates of all cells cost about as much as so many jobs of the most costly cell: a forward and a
backward of the base, and a forward of each source."""
ROWS_OF_ESTIMATES = 1 << 20
"""At most, in one slice: so far the estimates of a tile are made at once, since its runs serve them all."""
CAPTURES_PER_PAIR = 2.0
"""A capture costs about as much as a job: one of the base and one of the source for each pair."""
UNCHANGED_COST = 1e-3
"""Cost units of a job that need not be run: its row is filled in."""
MOST_ROWS = 1 << 20
"""At most, in one slice, however little they cost: a part is made in memory."""

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


class OpenFits(Protocol):
    """Fits that are still to be made."""

    @property
    def costs(self) -> Mapping[str, float]:
        """Cost units of each."""

    def of(self, tile: int, k: int) -> tuple[str, ...]:
        """The fits that the k-th cell of a tile uses."""


@dataclass(slots=True)
class TileWork:
    """What remains of a tile, or of the failed jobs of one part: ranges of k that lack the same families."""

    tile: int
    lane: int
    num_pairs: int
    costs: np.ndarray
    """Cost units of each cell for one pair, on average over the pairs, shape (num_cells,)."""
    todo: list[tuple[int, int, tuple[str, ...]]]
    owner: int | None = None
    replaces: str | None = None
    jobs: Jobs = ()
    estimates: bool = False
    """Whether its jobs are estimated, all cells at once."""
    running: np.ndarray | None = None
    """Of each cell the share of the pairs on which its job is run, shape (num_cells,); None where all are."""
    whole: np.ndarray | None = None
    """As `costs`, where no job is resumed; None where that is not known."""
    capture: float | None = None
    """Cost units of the clean runs of its prompts; None for a guess."""

    @property
    def key(self) -> tuple[int, str | None]:
        """What tells it from other work."""
        return self.tile, self.replaces

    @property
    def cost(self) -> float:
        """Cost units that remain."""
        return self.cost_of(self.costs)

    def cost_of(self, costs: np.ndarray) -> float:
        """Cost units that remain if each cell costs so much for one pair."""
        return float(sum(costs[lo:hi].sum() for lo, hi, _ in self.todo) * self.num_pairs)

    @property
    def capture_cost(self) -> float:
        """What a worker pays before its first job here."""
        if self.capture is not None:
            return self.capture
        return float(self.costs.max() * CAPTURES_PER_PAIR * self.num_pairs)

    def load(self, lo: int, hi: int) -> Load:
        """What cells `lo` to `hi` are to a worker, besides calls."""
        units = float(self.costs[lo:hi].sum() * self.num_pairs)
        if self.estimates:
            return Load(units)
        rows = float(hi - lo) if self.running is None else float(self.running[lo:hi].sum())
        return Load(units, rows * self.num_pairs).times(self._share(lo, hi))

    def _share(self, lo: int, hi: int) -> float:
        """Of the jobs of cells `lo` to `hi`, how many are to be run: of a retry those that failed."""
        if not self.jobs:
            return 1.0
        found = jobs_within(self.jobs, lo * self.num_pairs, hi * self.num_pairs)
        return sum(b - a for a, b in found) / max(1, (hi - lo) * self.num_pairs)

    def fits_cost(self, fits: OpenFits | None) -> float:
        """Cost units of the fits that what remains here waits for."""
        if fits is None or not fits.costs:
            return 0.0
        used = {fit for lo, hi, _ in self.todo for k in range(lo, hi) for fit in fits.of(self.tile, k)}
        return sum(fits.costs.get(fit, 0.0) for fit in used)

    def num_cells_with_fits(self, budget: float, *, high: bool, fits: OpenFits | None) -> int:
        """How many cells, from the low or the high end, wait for fits of about `budget` cost units: those of
        one fit at least."""
        lo, hi, _ = self.todo[-1 if high else 0]
        if fits is None or not fits.costs:
            return hi - lo
        spent, seen = 0.0, set[str]()
        for number, k in enumerate(range(hi - 1, lo - 1, -1) if high else range(lo, hi)):
            fresh = {fit for fit in fits.of(self.tile, k) if fit in fits.costs} - seen
            spent += sum(fits.costs[fit] for fit in fresh)
            if seen and fresh and spent > budget:
                return number
            seen |= fresh
        return hi - lo

    def run_whole(self) -> None:
        """Its model turned out not to resume jobs: each costs a whole run."""
        if self.whole is not None:
            self.costs, self.whole = self.whole, None

    def take(self, budget: float, *, high: bool, most_cells: int | None = None) -> Slice:
        """Remove and return about `budget` cost units from the low or the high end, at least one cell."""
        lo, hi, families = self.todo.pop(-1 if high else 0)
        costs = self.costs[lo:hi] * self.num_pairs
        num = int(np.searchsorted(np.cumsum(costs[::-1] if high else costs), budget, side="right"))
        if self.estimates:
            num = ROWS_OF_ESTIMATES // self.num_pairs
        num = max(1, min(num, hi - lo, most_cells or hi - lo, MOST_ROWS // self.num_pairs))
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


def open_work(plan: Plan, state: State, facts: Mapping[int, ModelFacts] | None = None) -> list[TileWork]:
    """The tiles of which something remains, in the order of the plan.

    With the `facts` of lanes, jobs that need no run cost next to nothing, and those of short prompts less.
    """
    found = ((tile, _todo(plan, state, tile)) for tile in plan.tiles.values())
    reckoned = _Reckoned(plan, facts or {})
    return [reckoned.work(tile, todo) for tile, todo in found if todo]


class _Reckoned:
    """What the tiles of a plan cost."""

    def __init__(self, plan: Plan, facts: Mapping[int, ModelFacts]) -> None:
        self._plan = plan
        self._costs = {lane: Costs(known) for lane, known in facts.items()}
        self._running = RunningShares(plan, facts)
        self._known: dict[tuple[int, int, int, bool], np.ndarray] = {}
        """Lane, cellset, length of the bases, and whether jobs are resumed → costs of the cells."""

    def work(self, tile: Tile, todo: list[tuple[int, int, tuple[str, ...]]]) -> TileWork:
        costs = self._plan.costs[tile.cellset]
        work = TileWork(tile.tile, tile.lane, len(tile.pairs), costs, todo, estimates=tile.estimates)
        if tile.estimates:
            work.costs = np.full(len(costs), ESTIMATES_PER_PAIR * costs.max() / len(costs))
        elif tile.lane in self._costs:
            pairs = [self._running.pair(number) for number in tile.pairs]
            num_tokens = len(pairs[0].tokens["base"])
            work.running = self._running.shares(tile.lane, tile.cellset, tile.pairs)
            work.capture = self._costs[tile.lane].captures([pair.tokens for pair in pairs])
            work.costs = self._resumed(tile, num_tokens, pairs) * work.running + UNCHANGED_COST
            if self._costs[tile.lane].may_resume and not self._running.is_large:
                work.whole = self._whole(tile, num_tokens) * work.running + UNCHANGED_COST
        return work

    def _resumed(self, tile: Tile, num_tokens: int, pairs: Sequence[Pair]) -> np.ndarray:
        """The plan's costs count the longest base for all tiles with the same cells: those of this one."""
        if self._running.is_large or len(self._lengths[tile.cellset]) == 1:
            return self._plan.costs[tile.cellset]
        key = (tile.lane, tile.cellset, num_tokens, True)
        if key not in self._known:
            self._known[key] = self._costs[tile.lane].of(self._running.cells(tile.cellset), pairs)
        return self._known[key]

    def _whole(self, tile: Tile, num_tokens: int) -> np.ndarray:
        key = (tile.lane, tile.cellset, num_tokens, False)
        if key not in self._known:
            self._known[key] = self._costs[tile.lane].whole(self._running.cells(tile.cellset), num_tokens)
        return self._known[key]

    @cached_property
    def _lengths(self) -> Mapping[int, set[int]]:
        """How long the bases are of all tiles with a cellset."""
        found: dict[int, set[int]] = defaultdict(set)
        for tile in self._plan.tiles.values():
            found[tile.cellset].add(len(self._running.pair(tile.pairs[0]).tokens["base"]))
        return found


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
