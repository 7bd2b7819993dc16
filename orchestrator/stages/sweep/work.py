"""Slices of tiles: a slice is one call of a worker and one part; a tile's work is what remains of it.

A slice whose worker died is a suspect. It runs once more as it was, on a worker that takes less memory;
if that one dies too it runs carefully, cell by cell and job by job (`orchestrator.run.inflight_note`).
"""

__all__ = ["Jobs", "Slice", "TileWork", "jobs_within", "open_work", "undone"]

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np

from orchestrator.plan.costs import Costs
from orchestrator.plan.running_shares import RunningShares
from orchestrator.plan.tables import Plan, Tile, mask, stretches
from orchestrator.run.pace import Load
from orchestrator.stages.units import BlameVerdict, CostOf, Taken, UnitKey
from orchestrator.store import Manifest, State
from workers.model.facts import ModelFacts
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

DEATHS_OF_A_JOB = 3
"""A job alone in so many deaths is not run again."""
JOBS_OF_A_CELL = 3
"""A cell of which so many jobs were given up so is not run further."""
SWEEP, ESTIMATE_STAGE = "sweep", "estimate"
"""Names of the stages whose units are tiles."""

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
    """Number of commits that the study had when it was handed out; its part says so."""
    given_up: Jobs = ()
    """Jobs that killed too many workers: they become failures and are not run."""
    stage: str = SWEEP

    @property
    def key(self) -> UnitKey:
        """As `Taken.key`."""
        return self.tile, self.replaces


@dataclass(slots=True)
class TileWork:
    """Rest of a tile, or of the failed jobs of one part: ranges of k that lack the same families."""

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
    uses: Callable[[int], tuple[UnitKey, ...]] | None = None
    """Units that must be over before its k-th cell, such as fits; None where no cell waits for any."""
    _blamed: set[Slice] = field(default_factory=set)
    """Slices that one worker died of."""
    _trials: dict[int, int] = field(default_factory=dict)
    """Deaths that a job was alone in."""

    @property
    def key(self) -> UnitKey:
        """As `WorkUnit.key`."""
        return self.tile, self.replaces

    @property
    def splits(self) -> bool:
        """As `WorkUnit.splits`."""
        return True

    @property
    def is_on_demand(self) -> bool:
        """As `WorkUnit.is_on_demand`."""
        return False

    @property
    def is_open(self) -> bool:
        """As `WorkUnit.is_open`."""
        return bool(self.todo)

    @property
    def is_over(self) -> bool:
        """As `WorkUnit.is_over`: nothing waits for cells."""
        return False

    @property
    def cost(self) -> float:
        """As `WorkUnit.cost`."""
        return self.cost_of(self.costs)

    @property
    def captures(self) -> Load:
        """As `WorkUnit.captures`, with a call for each tile."""
        return Load(self.capture_cost, calls=1.0)

    @property
    def open_loads(self) -> Sequence[Load]:
        """As `WorkUnit.open_loads`."""
        return [self.load(lo, hi) for lo, hi, _ in self.todo]

    def cost_of(self, costs: np.ndarray) -> float:
        """Cost units that remain if each cell costs so much for one pair."""
        return float(sum(costs[lo:hi].sum() for lo, hi, _ in self.todo) * self.num_pairs)

    @property
    def capture_cost(self) -> float:
        """Cost units that a worker pays before its first job here."""
        if self.capture is not None:
            return self.capture
        return float(self.costs.max() * CAPTURES_PER_PAIR * self.num_pairs)

    def load(self, lo: int, hi: int) -> Load:
        """Load of cells `lo` to `hi`, besides calls."""
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

    def load_of(self, taken: Taken) -> Load:
        """As `WorkUnit.load_of`."""
        mine = cast(Slice, taken)
        return self.load(mine.k_lo, mine.k_hi)

    def is_typical(self, taken: Taken) -> bool:
        """As `WorkUnit.is_typical`: not where rows need no run, or jobs run one by one."""
        mine = cast(Slice, taken)
        return not mine.careful and (self.estimates or self.load_of(mine).rows >= 1)

    def free_steps(self, most: int, cost_of: CostOf, *, high: bool) -> int:
        """As `WorkUnit.free_steps`."""
        if self.uses is None:
            return most
        lo, hi, _ = self.todo[-1 if high else 0]
        for number, k in enumerate((range(hi - 1, lo - 1, -1) if high else range(lo, hi))[:most]):
            if any(cost_of(key) is not None for key in self.uses(k)):
                return max(1, number)
        return most

    def most_steps(self, budget: float, jobs: int | None, cost_of: CostOf | None, *, high: bool) -> int:
        """As `WorkUnit.most_steps`."""
        most = self._num_with(budget, cost_of, high=high)
        return most if jobs is None else max(1, min(most, jobs // self.num_pairs))

    def _num_with(self, budget: float, cost_of: CostOf | None, *, high: bool) -> int:
        """Number of cells that wait for units of about `budget` cost units: those of one unit at least."""
        lo, hi, _ = self.todo[-1 if high else 0]
        if self.uses is None or cost_of is None:
            return hi - lo
        spent, seen = 0.0, set[UnitKey]()
        for number, k in enumerate(range(hi - 1, lo - 1, -1) if high else range(lo, hi)):
            costs = {key: cost for key in self.uses(k) if (cost := cost_of(key)) is not None}
            fresh = costs.keys() - seen
            spent += sum(costs[key] for key in fresh)
            if seen and fresh and spent > budget:
                return number
            seen |= fresh
        return hi - lo

    def after(self, num_steps: int | None, *, high: bool) -> Iterable[UnitKey]:
        """As `WorkUnit.after`."""
        if self.uses is None:
            return ()
        lo, hi, _ = self.todo[-1 if high else 0]
        if num_steps is None:
            cells = (k for lo, hi, _ in self.todo for k in range(lo, hi))
        else:
            cells = (k for k in (range(hi - num_steps, hi)[::-1] if high else range(lo, lo + num_steps)))
        return dict.fromkeys(key for k in cells for key in self.uses(k))

    def run_whole(self) -> None:
        """Its model turned out not to resume jobs: each costs a whole run."""
        if self.whole is not None:
            self.costs, self.whole = self.whole, None

    def take(self, budget: float, *, high: bool, most_steps: int | None = None) -> Slice:
        """As `WorkUnit.take`: cells × all pairs of the tile."""
        lo, hi, families = self.todo.pop(-1 if high else 0)
        costs = self.costs[lo:hi] * self.num_pairs
        num = int(np.searchsorted(np.cumsum(costs[::-1] if high else costs), budget, side="right"))
        if self.estimates:
            num = ROWS_OF_ESTIMATES // self.num_pairs
        num = max(1, min(num, hi - lo, most_steps or hi - lo, MOST_ROWS // self.num_pairs))
        if num < hi - lo:
            rest = (lo, hi - num, families) if high else (lo + num, hi, families)
            self.todo.insert(len(self.todo) if high else 0, rest)
        k_lo, k_hi = (hi - num, hi) if high else (lo, lo + num)
        jobs = jobs_within(self.jobs, k_lo * self.num_pairs, k_hi * self.num_pairs)
        stage = ESTIMATE_STAGE if self.estimates else SWEEP
        return Slice(self.tile, self.lane, k_lo, k_hi, families, self.replaces, jobs, stage=stage)

    def put_back(self, taken: Taken) -> None:
        """As `WorkUnit.put_back`; the range melts into its neighbours."""
        mine = cast(Slice, taken)
        joined: list[tuple[int, int, tuple[str, ...]]] = []
        for part in sorted([*self.todo, (mine.k_lo, mine.k_hi, mine.families)]):
            if joined and joined[-1][1:] == (part[0], part[2]):
                joined[-1] = (joined[-1][0], *part[1:])
            else:
                joined.append(part)
        self.todo = joined

    def report(self, taken: Taken, num_steps: int, *, is_over: bool) -> tuple[Load | None, Taken | None]:
        """As `WorkUnit.report`."""
        mine = cast(Slice, taken)
        did = replace(mine, k_hi=mine.k_lo + num_steps)
        load = self.load_of(did) if self.is_typical(did) and not did.jobs else None
        return load, replace(mine, k_lo=did.k_hi) if did.k_hi < mine.k_hi else None

    def is_suspect(self, taken: Taken) -> bool:
        """As `WorkUnit.is_suspect`."""
        return cast(Slice, taken).careful

    def blame(self, taken: Taken, job: int | None) -> BlameVerdict:
        """As `WorkUnit.blame`; when a suspect runs again, the job that is given up becomes a failure."""
        mine, gave_up = cast(Slice, taken), False
        if mine.careful:
            mine, gave_up = self._judge(mine, job)
        elif mine in self._blamed:
            mine = replace(mine, careful=True)
        self._blamed.add(mine)
        return BlameVerdict(mine, gave_up)

    def split_suspect(self, taken: Taken) -> tuple[Taken, Taken | None]:
        """As `WorkUnit.split_suspect`: whole the first time, then one cell of it."""
        mine = cast(Slice, taken)
        if not mine.careful or mine.k_hi - mine.k_lo == 1:
            return mine, None
        return self._cells(mine, mine.k_lo, mine.k_lo + 1), self._cells(mine, mine.k_lo + 1, mine.k_hi)

    def _cells(self, taken: Slice, k_lo: int, k_hi: int) -> Slice:
        jobs = jobs_within(taken.jobs, k_lo * self.num_pairs, k_hi * self.num_pairs)
        return replace(taken, k_lo=k_lo, k_hi=k_hi, jobs=jobs)

    def _judge(self, taken: Slice, job: int | None) -> tuple[Slice, bool]:
        """A careful slice of one cell, with what is given up of it after one more death."""
        if job is None:
            return taken, False
        self._trials[job] = self._trials.get(job, 0) + 1
        if self._trials[job] < DEATHS_OF_A_JOB:
            return taken, False
        given_up: Jobs = tuple(sorted({*taken.given_up, (job, job + 1)}))
        if len(given_up) >= JOBS_OF_A_CELL:
            given_up = ((taken.k_lo * self.num_pairs, taken.k_hi * self.num_pairs),)
        return replace(taken, given_up=given_up), True


def jobs_within(jobs: Jobs, lo: int, hi: int) -> Jobs:
    """The jobs from `lo` to `hi`."""
    return tuple((max(a, lo), min(b, hi)) for a, b in jobs if a < hi and lo < b)


def undone(manifest: Manifest, state: State) -> list[Slice]:
    """Jobs of a part that was refused which are not done: they must run again.

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
    """Costs of the tiles of a plan."""

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
        """Lengths of the bases of all tiles with a cellset."""
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
