"""Time that the rest of a run takes: what it still costs, at the pace at which such work was done so far.

What remains is known to the job, since plans are analytic: the schedule's open slices, of which each job
costs (L - l) blocks on T - p tokens, and nothing where its row needs no run; the clean runs of tiles that
nobody has begun; the fits that nobody has made, which are steps of forwards and backwards; and what workers
have in hand. Each kind has a pace of its own once some of it was done in this run; until then it is taken
to be as much slower or faster than expected as the others. Pure but for the fits' notes: clocks are the
caller's.
"""

__all__ = ["Forecast", "closing_s", "common_factor"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.run.pace import NOTHING, Load, Pace
from orchestrator.run.schedule import LOAD_S, MIN_SLICE_S
from orchestrator.stages.contract import ScheduleView
from orchestrator.stages.fit.fits_left import FitsLeft
from orchestrator.stages.sweep.work import Slice

START_S = 8.0
"""Time that workers of their own processes take to come up, before it is seen."""
CLOSE_S, CLOSE_SHARE = 1.5, 0.2
"""Time that it takes to end them and to say so: seconds, or a share of that where it is more."""
_LEAST_UNITS = 1e-3
"""Units below which a load is rounding."""
LEAST_SHARE = 0.1
"""Of what a slice was expected to take, that it is taken to need still when that time is over."""


@dataclass(slots=True)
class _InHand:
    """Work that a worker is at."""

    lane: int
    load: Load
    captures: Load
    since: float
    """Time at which it was handed out, or the last of its fits was there."""
    loads_model: bool
    fits: frozenset[str]
    """Fits of it that were not there so far."""


class Forecast:
    """The forecast of one stage of a run.

    Args:
        schedule: what is open, and how long slices of it are.
        rates: of each lane, the units per second that a worker is expected to do on it.
        num_workers: how many there will be; None for as many as join.
        fits: those that are still to be made; None where there are none.
        later: for each lane, what comes after this stage.
        starts_in_s: how long it takes until the first worker is up.
        factor: by how much all of it is taken to be slower than expected while nothing was measured; None
            where nobody knows.
        now: seconds, by any clock that all calls are given.
    """

    def __init__(
        self,
        schedule: ScheduleView,
        rates: Mapping[int, float],
        *,
        num_workers: int | None = 1,
        fits: FitsLeft | None = None,
        later: Mapping[int, Load] | None = None,
        starts_in_s: float = 0.0,
        factor: float | None = None,
        now: float = 0.0,
    ) -> None:
        self._schedule = schedule
        self._jobs = {lane: Pace(1.0 / rate) for lane, rate in rates.items()}
        self._captures = {lane: Pace(1.0 / rate, row_s=0.0) for lane, rate in rates.items()}
        self._num_expected = num_workers
        self._fits = fits
        self._later = later or {}
        self.began = now
        self.start_s = starts_in_s
        """Time that the first worker took to come up, or should take."""
        self.assumed = factor
        """As `factor`; a stage before may learn it while this one waits."""
        self._has_joined = False
        self._load_s: float | None = None
        """Time that a worker took to load a model, longest of all."""
        self._lanes: dict[int, int | None] = {}
        """Each worker that joined, and the lane whose model it has in hand."""
        self._tiles: dict[int, tuple[int, str | None]] = {}
        """The tile whose captures each worker made last."""
        self._in_hand: dict[int, _InHand] = {}

    def joined(self, worker: int, now: float) -> None:
        """A worker is up."""
        if not self._has_joined and self.start_s:
            self.start_s = now - self.began
        self._has_joined = True
        self._lanes[worker] = None

    def left(self, worker: int) -> None:
        """A worker is gone, and with it what it had in hand."""
        self._lanes.pop(worker, None)
        self._in_hand.pop(worker, None)

    def handed(self, worker: int, taken: Slice, now: float) -> None:
        """A worker was given a slice."""
        key = (taken.tile, taken.replaces)
        captures = NOTHING if self._tiles.get(worker) == key else self._schedule.captures(taken)
        self._tiles[worker] = key
        fits = frozenset() if self._fits is None else self._fits.lacking(taken)
        loads_model = self._lanes.get(worker) != taken.lane
        load = self._schedule.load(taken)
        self._in_hand[worker] = _InHand(taken.lane, load, captures, now, loads_model, fits)
        self._lanes[worker] = taken.lane

    def making(self, worker: int, lane: int, fit: str, now: float) -> None:
        """A worker was given a fit to make."""
        loads_model = self._lanes.get(worker) != lane
        self._in_hand[worker] = _InHand(lane, NOTHING, NOTHING, now, loads_model, frozenset({fit}))
        self._lanes[worker] = lane

    def made(self, worker: int, fit: str) -> None:
        """A fit is there, or cannot be made."""
        self._in_hand.pop(worker, None)
        if self._fits is not None:
            self._fits.close(fit)

    def took(self, worker: int, did: Slice, seconds: float, capture_s: float, now: float) -> None:
        """A worker did `did`, the first cells of what it had in hand, in so many seconds besides captures."""
        mine = self._in_hand.pop(worker, None)
        if mine is None:
            return
        besides_s = now - mine.since - capture_s - seconds
        if mine.loads_model and self._fits is None:
            self._load_s = max(self._load_s or 0.0, besides_s)
        elif self._fits is None:
            # What lies between two slices belongs to their calls.
            seconds += max(0.0, besides_s)
        if self._schedule.is_typical(did):
            self._jobs[did.lane].record(self._schedule.load(did)._replace(calls=1.0), seconds)
        if mine.captures.units and capture_s > 0:
            self._captures[did.lane].record(mine.captures, capture_s)
        if self._fits is not None:
            self._fits.used(did)

    def left_s(self, now: float, target_s: float = MIN_SLICE_S) -> float | None:
        """Seconds until all is done, with slices of about `target_s`; None while nothing tells."""
        self._look_at_fits(now)
        if not self._is_known():
            return None
        in_hand = [self._in_hand_s(one, now) for one in self._in_hand.values()]
        fits_s, longest_s = (0.0, 0.0) if self._fits is None else self._fits.left_s(self._factor())
        work_s = sum(in_hand) + fits_s
        for lane, load in self._schedule.remaining.items():
            work_s += self._jobs_s(lane, load, target_s)
            work_s += self._paced(self._captures, lane, self._schedule.uncaptured.get(lane, NOTHING))
        work_s += sum(self._jobs_s(lane, load, target_s) for lane, load in self._later.items())
        work_s += self._loading_s()
        num = max(1, len(self._lanes), self._num_expected or 1)
        starting_s = 0.0 if self._has_joined else max(0.0, self.start_s - (now - self.began))
        return starting_s + max(work_s / num, longest_s, *in_hand, 0.0) + closing_s(self.start_s)

    def _look_at_fits(self, now: float) -> None:
        """See which fits are there by now, and which slices have all of theirs."""
        if self._fits is None:
            return
        self._fits.look()
        for worker in self._fits.workers & self._in_hand.keys():
            one = self._in_hand[worker]
            if one.loads_model:
                one.loads_model = False
                self._load_s = max(self._load_s or 0.0, now - one.since)
        for one in self._in_hand.values():
            if one.fits and not self._fits.are_open(one.fits):
                one.fits, one.since = frozenset(), now

    def _is_known(self) -> bool:
        """Whether anything tells how fast this run is: how fast others were is too rough a guess."""
        if any(pace.is_measured for pace in self._jobs.values()):
            return True
        return self.assumed is not None or (self._fits is not None and self._fits.is_measured)

    def _loading_s(self) -> float:
        """Time for the models that nobody has loaded yet, each once."""
        open_lanes = {lane for lane, load in self._schedule.remaining.items() if load.units >= _LEAST_UNITS}
        return (self._load_s or 0.0) * len(open_lanes - {*self._lanes.values()})

    def _in_hand_s(self, one: _InHand, now: float) -> float:
        """Time that a worker will still be at what it has in hand, its fits aside."""
        loading_s = LOAD_S if self._load_s is None else self._load_s
        expected = loading_s if one.loads_model else 0.0
        expected += self._paced(self._captures, one.lane, one.captures)
        expected += self._paced(self._jobs, one.lane, one.load._replace(calls=1.0))
        return expected if one.fits else max(expected - (now - one.since), LEAST_SHARE * expected)

    def _jobs_s(self, lane: int, load: Load, target_s: float) -> float:
        """Jobs, in slices."""
        if load.units < _LEAST_UNITS and load.rows < 1:
            return 0.0
        seconds = self._paced(self._jobs, lane, load)
        return seconds + self._paced(self._jobs, lane, Load(0.0, calls=max(1.0, seconds / target_s)))

    def _paced(self, paces: Mapping[int, Pace], lane: int, load: Load) -> float:
        pace = paces[lane]
        seconds = pace.seconds(load)
        return seconds if pace.is_measured else seconds * self._factor()

    def _factor(self) -> float:
        """By how much all that was measured in this run took longer than expected."""
        measured = common_factor(self._jobs.values())
        if measured is None and self._fits is not None:
            measured = self._fits.factor
        if measured is None:
            measured = self.assumed
        return 1.0 if measured is None else measured


def closing_s(start_s: float) -> float:
    """Time that it takes to end workers that took so long to come up; those of this process take none."""
    return max(CLOSE_S, CLOSE_SHARE * start_s) if start_s else 0.0


def common_factor(paces: Iterable[Pace]) -> float | None:
    """By how much longer than expected loads took at those paces that were measured, on average."""
    found = [pace.factor for pace in paces if pace.is_measured]
    return sum(found) / len(found) if found else None
