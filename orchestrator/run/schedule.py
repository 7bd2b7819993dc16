"""Which slice of which tile a worker gets next. Pure: clocks and workers are the caller's.

A slice is whole cells × all pairs of one tile: one call, one part. The captures that a tile needs
stay in the worker that owns it, so an owner goes on from the low end of its tile; when no fresh tile
is left, an idle worker takes from the high end of the largest remainder, if that is worth making the
captures again. While fits are to be made, a slice has as many as its time allows, and at least one, so that
others are left for others.

A slice whose worker died is a suspect. It runs once more as it was, on a worker that takes less memory;
if that one dies too it runs carefully, cell by cell and job by job (`orchestrator.run.trial`).
"""

__all__ = ["Schedule"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.run.pace import NOTHING, Load
from orchestrator.run.work import Jobs, OpenFits, Slice, TileWork, jobs_within

MIN_SLICE_S = 2.0
MAX_SLICE_S = 30.0
FIRST_RATE = 200.0
"""Cost units per second of a worker that has not been measured yet."""
SMOOTHING = 0.4
LOAD_S = 5.0
"""What loading another model costs, about."""
DEATHS_OF_A_JOB = 3
"""A job alone in so many deaths is not run again."""
JOBS_OF_A_CELL = 3
"""A cell of which so many jobs were given up so is not run further."""

_Key = tuple[int, str | None]


@dataclass(slots=True)
class _Worker:
    share: float
    tile: TileWork | None = None
    lane: int | None = None
    rate: float | None = None
    """Cost units per second."""


@dataclass(slots=True)
class Schedule:
    """Hands out slices until nothing remains."""

    tiles: Sequence[TileWork]
    first_rate: float = FIRST_RATE
    fits: OpenFits | None = None
    """Those that cells use and nobody has made; None where no cell uses any."""
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _by_key: dict[_Key, TileWork] = field(default_factory=dict)
    _fresh: dict[int, list[TileWork]] = field(default_factory=dict)
    _suspects: list[Slice] = field(default_factory=list)
    _blamed: set[Slice] = field(default_factory=set)
    """Slices that one worker died of."""
    _trials: dict[tuple[_Key, int], int] = field(default_factory=dict)
    """Deaths that a job was alone in."""
    _remaining: dict[int, Load] = field(default_factory=dict)
    """For each lane, what nobody has taken yet."""
    _uncaptured: dict[int, Load] = field(default_factory=dict)
    """For each lane, the clean runs of tiles that nobody has begun."""
    _begun: set[_Key] = field(default_factory=set)

    def __post_init__(self) -> None:
        for work in reversed(self.tiles):
            self._by_key[work.key] = work
            self._fresh.setdefault(work.lane, []).append(work)
            for lo, hi, _ in work.todo:
                self._add(work.lane, work.load(lo, hi), 1.0)
            self._uncaptured[work.lane] = self._uncaptured.get(work.lane, NOTHING).plus(_captures(work))

    @property
    def remaining_cost(self) -> float:
        """Cost units that nobody has taken yet."""
        return sum(load.units for load in self._remaining.values())

    @property
    def remaining(self) -> Mapping[int, Load]:
        """For each lane, what nobody has taken yet."""
        return self._remaining

    @property
    def uncaptured(self) -> Mapping[int, Load]:
        """For each lane, the clean runs that nobody has begun with, a call for each tile."""
        return self._uncaptured

    @property
    def is_empty(self) -> bool:
        """Whether everything was handed out, and nothing came back."""
        return not self._suspects and not any(work.todo for work in self._by_key.values())

    def join(self, worker: int, share: float = 1.0) -> None:
        """A worker that may be given slices; `share` below 1 says that it takes less memory than usual."""
        self._workers[worker] = _Worker(share)

    def leave(self, worker: int) -> None:
        """A worker that is gone: its tile is anyone's."""
        gone = self._workers.pop(worker, None)
        if gone is not None and gone.tile is not None:
            gone.tile.owner = None
            if gone.tile.todo:
                self._fresh.setdefault(gone.tile.lane, []).append(gone.tile)

    def next_slice(self, worker: int, target_s: float, most_jobs: int | None = None) -> Slice | None:
        """The worker's next slice, of about `target_s` seconds; None when nothing is worth giving it.

        With `most_jobs` it has no more jobs than that, or one cell.
        """
        me = self._workers[worker]
        found = self._next_suspect() if me.share < 1.0 else None
        found = found or self._next_of_a_tile(worker, me, target_s, most_jobs) or self._next_suspect()
        if found is not None:
            self._add(found.lane, self.load(found), -1.0)
            work = self._work(found)
            if work.key not in self._begun:
                self._begun.add(work.key)
                self._uncaptured[work.lane] = self._uncaptured[work.lane].plus(_captures(work).times(-1.0))
            me.lane = found.lane
        return found

    def report(self, worker: int, taken: Slice, num_cells: int, seconds: float) -> None:
        """`worker` did the first `num_cells` cells of a slice in `seconds`; the rest is open again."""
        did = replace(taken, k_hi=taken.k_lo + num_cells)
        cost = self.load(did).units
        me = self._workers.get(worker)
        if cost and seconds > 0 and me is not None and self.is_typical(did) and not did.jobs:
            old = me.rate
            me.rate = cost / seconds if old is None else old + SMOOTHING * (cost / seconds - old)
        if did.k_hi < taken.k_hi:
            self.give_up(replace(taken, k_lo=did.k_hi))

    def run_whole(self, lane: int) -> None:
        """The lane's model does not resume jobs, whatever was expected of it."""
        for work in self.tiles:
            if work.lane == lane and work.whole is not None:
                before = [work.load(lo, hi) for lo, hi, _ in work.todo]
                work.run_whole()
                for (lo, hi, _), load in zip(work.todo, before, strict=True):
                    self._add(lane, load, -1.0)
                    self._add(lane, work.load(lo, hi), 1.0)

    def give_up(self, taken: Slice) -> None:
        """A slice that was not done, through no fault of its own: open again."""
        self._add(taken.lane, self.load(taken), 1.0)
        if taken.careful:
            self._suspects.append(taken)
            return
        work = self._work(taken)
        if not work.todo and work.owner is None:
            self._fresh.setdefault(work.lane, []).append(work)
        work.put_back(taken.k_lo, taken.k_hi, taken.families)

    def blame(self, taken: Slice, job: int | None) -> bool:
        """A worker died of this slice; `job` is the one that it was alone with, if it ran carefully.

        Returns:
            Whether a job was given up: when the slice runs again it becomes a failure.
        """
        self._add(taken.lane, self.load(taken), 1.0)
        gave_up = False
        if taken.careful:
            taken, gave_up = self._judge(taken, job)
        elif taken in self._blamed:
            taken = replace(taken, careful=True)
        self._blamed.add(taken)
        self._suspects.append(taken)
        return gave_up

    @property
    def rate(self) -> float:
        """Cost units per second of all workers together."""
        return sum(self._rate(worker) for worker in self._workers.values())

    @property
    def measured_rate(self) -> float | None:
        """Cost units per second of the average worker that was measured; None where none was."""
        known = [w.rate for w in self._workers.values() if w.rate is not None]
        return sum(known) / len(known) if known else None

    def expected_s(self, worker: int, taken: Slice) -> float:
        """How long `worker` should take for a slice, as far as it was measured."""
        return self.load(taken).units / self._rate(self._workers[worker])

    def load(self, taken: Slice) -> Load:
        """What a slice is to a worker, besides its call and its captures."""
        return self._work(taken).load(taken.k_lo, taken.k_hi)

    def is_typical(self, taken: Slice) -> bool:
        """Whether the time that a slice takes says how long others take: not where its rows need no run, or
        jobs run one by one."""
        return not taken.careful and (self._work(taken).estimates or self.load(taken).rows >= 1)

    def captures(self, taken: Slice) -> Load:
        """The clean runs of the tile of a slice."""
        return _captures(self._work(taken))

    def target_s(self, elapsed_s: float) -> float:
        """How long a slice should take: longer as the run goes on, shorter towards its end."""
        target = min(max(elapsed_s / 100, MIN_SLICE_S), MAX_SLICE_S)
        tail = self.remaining_cost / (2 * self.rate) if self._workers else target
        return min(target, max(tail, MIN_SLICE_S / 4))

    def _rate(self, worker: _Worker) -> float:
        return worker.rate or self.measured_rate or self.first_rate

    def _work(self, taken: Slice) -> TileWork:
        return self._by_key[taken.tile, taken.replaces]

    def _add(self, lane: int, load: Load, sign: float) -> None:
        self._remaining[lane] = self._remaining.get(lane, NOTHING).plus(load.times(sign))

    def _next_suspect(self) -> Slice | None:
        """The oldest suspect: whole the first time, then one cell of it."""
        if not self._suspects:
            return None
        taken = self._suspects.pop(0)
        if taken.careful and taken.k_hi - taken.k_lo > 1:
            self._suspects.insert(0, self._cells(taken, taken.k_lo + 1, taken.k_hi))
            taken = self._cells(taken, taken.k_lo, taken.k_lo + 1)
        return taken

    def _cells(self, taken: Slice, k_lo: int, k_hi: int) -> Slice:
        num_pairs = self._work(taken).num_pairs
        jobs = jobs_within(taken.jobs, k_lo * num_pairs, k_hi * num_pairs)
        return replace(taken, k_lo=k_lo, k_hi=k_hi, jobs=jobs)

    def _judge(self, taken: Slice, job: int | None) -> tuple[Slice, bool]:
        """A careful slice of one cell, with what is given up of it after one more death."""
        if job is None:
            return taken, False
        key = ((taken.tile, taken.replaces), job)
        self._trials[key] = self._trials.get(key, 0) + 1
        if self._trials[key] < DEATHS_OF_A_JOB:
            return taken, False
        given_up: Jobs = tuple(sorted({*taken.given_up, (job, job + 1)}))
        if len(given_up) >= JOBS_OF_A_CELL:
            num_pairs = self._work(taken).num_pairs
            given_up = ((taken.k_lo * num_pairs, taken.k_hi * num_pairs),)
        return replace(taken, given_up=given_up), True

    def _next_of_a_tile(
        self, worker: int, me: _Worker, target_s: float, most_jobs: int | None
    ) -> Slice | None:
        high = False
        if me.tile is None or not me.tile.todo:
            self._release(me)
            me.tile = self._take_fresh(worker, me)
        tile = me.tile
        if tile is None:
            tile, high = self._victim(me), True
        if tile is None:
            return None
        budget = self._rate(me) * target_s
        most_cells = tile.num_cells_with_fits(budget, high=high, fits=self.fits)
        if most_jobs is not None:
            most_cells = max(1, min(most_cells, most_jobs // tile.num_pairs))
        return tile.take(budget, high=high, most_cells=most_cells)

    def _release(self, worker: _Worker) -> None:
        if worker.tile is not None:
            worker.tile.owner = None
            worker.tile = None

    def _take_fresh(self, number: int, worker: _Worker) -> TileWork | None:
        """A tile without owner: of the worker's own model where there is one."""
        lanes = sorted((lane for lane, tiles in self._fresh.items() if tiles), key=lambda n: n != worker.lane)
        if not lanes:
            return None
        tile = self._fresh[lanes[0]].pop()
        tile.owner = number
        return tile

    def _victim(self, thief: _Worker) -> TileWork | None:
        """The owned tile with the most left, if that is worth making its captures again.

        Another model's tile must be worth loading that model, too.
        """
        owned = [w.tile for w in self._workers.values() if w.tile is not None and w.tile.todo]
        best = max(owned, key=lambda tile: (tile.lane == thief.lane, self._worth(tile)), default=None)
        if best is None:
            return None
        load_cost = 0.0 if thief.lane in (None, best.lane) else LOAD_S * self._rate(thief)
        return best if self._worth(best) > 2 * (best.capture_cost + load_cost) else None

    def _worth(self, tile: TileWork) -> float:
        """Cost units that remain of a tile, the fits that its cells use included."""
        return tile.cost + tile.fits_cost(self.fits)


def _captures(work: TileWork) -> Load:
    return Load(work.capture_cost, calls=1.0)
