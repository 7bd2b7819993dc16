"""Schedule: which part of which unit a worker gets next. Pure: clocks and workers are the caller's.

State of a unit (clean runs of a tile, a training in memory) stays in the worker that owns it, so an owner
goes on with its unit from the low end; when no fresh unit is left, an idle worker takes from the high end of
the largest remainder of one that splits, if that is worth making the captures again.

Before steps that wait for other units (cells for their fits) those are handed out: for as many steps as a
part's time allows, and for one at least, so that others are left for others; and whatever the unit waits for
later, rather than that a worker waits. A part whose worker died is judged by its unit, and may come back as a
suspect, which workers that take less memory get first.
"""

__all__ = ["MAX_SLICE_S", "MIN_SLICE_S", "WorkSchedule"]

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.run.pace import NOTHING, Load
from orchestrator.stages.units import CostOf, Taken, UnitKey, WorkUnit

MIN_SLICE_S = 2.0
MAX_SLICE_S = 30.0
FIRST_RATE = 200.0
"""Cost units per second of a worker that has not been measured yet."""
SMOOTHING = 0.4
LOAD_S = 5.0
"""Seconds that loading another model costs, about."""


@dataclass(slots=True)
class _Worker:
    """A worker that may be given parts."""

    share: float
    unit: WorkUnit | None = None
    lane: int | None = None
    rate: float | None = None
    """Cost units per second."""
    waits: tuple[UnitKey, bool, list[UnitKey]] | None = None
    """Key and end of the unit that it is at, and the units that are handed out before its next steps."""


@dataclass(slots=True)
class WorkSchedule:
    """Hands out parts of units until nothing remains."""

    units: Sequence[WorkUnit]
    first_rate: float = FIRST_RATE
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _by_key: dict[UnitKey, WorkUnit] = field(default_factory=dict)
    _fresh: dict[int, list[WorkUnit]] = field(default_factory=dict)
    _suspects: list[Taken] = field(default_factory=list)
    _remaining: dict[int, Load] = field(default_factory=dict)
    """For each lane, the load that nobody has taken yet."""
    _uncaptured: dict[int, Load] = field(default_factory=dict)
    """For each lane, the clean runs of units that nobody has begun."""
    _begun: set[UnitKey] = field(default_factory=set)
    _returned: Counter[UnitKey] = field(default_factory=Counter)
    """Times that a unit was handed out because others wait for it."""

    def __post_init__(self) -> None:
        for unit in reversed(self.units):
            self._by_key[unit.key] = unit
            if unit.is_on_demand:
                continue
            self._fresh.setdefault(unit.lane, []).append(unit)
            if unit.splits:
                for load in unit.open_loads:
                    self._add(unit.lane, load, 1.0)
                self._uncaptured[unit.lane] = self._uncaptured.get(unit.lane, NOTHING).plus(unit.captures)

    @property
    def remaining_cost(self) -> float:
        """Cost units that nobody has taken yet."""
        return sum(load.units for load in self._remaining.values())

    @property
    def remaining(self) -> Mapping[int, Load]:
        """For each lane, the load that nobody has taken yet."""
        return self._remaining

    @property
    def uncaptured(self) -> Mapping[int, Load]:
        """For each lane, the clean runs that nobody has begun with, a call for each unit."""
        return self._uncaptured

    @property
    def is_empty(self) -> bool:
        """Whether everything was handed out, and nothing came back."""
        wanted = (unit for unit in self._by_key.values() if not unit.is_on_demand)
        return not self._suspects and not any(unit.is_open for unit in wanted)

    def join(self, worker: int, share: float = 1.0) -> None:
        """Add a worker; `share` below 1 says that it takes less memory than usual."""
        self._workers[worker] = _Worker(share)

    def leave(self, worker: int) -> None:
        """Remove a worker that is gone: its unit is anyone's."""
        gone = self._workers.pop(worker, None)
        if gone is not None and gone.unit is not None:
            gone.unit.owner = None
            if gone.unit.is_open:
                self._fresh.setdefault(gone.unit.lane, []).append(gone.unit)

    def next_part(self, worker: int, target_s: float, most_jobs: int | None = None) -> Taken | None:
        """The worker's next part, of about `target_s` seconds; None when nothing is worth giving it.

        With `most_jobs` it has no more jobs than that, or one step.
        """
        me = self._workers[worker]
        found = self._next_suspect() if me.share < 1.0 else None
        found = found or self._next_of_a_unit(worker, me, target_s, most_jobs) or self._next_suspect()
        if found is not None:
            unit = self._unit(found)
            self._add(found.lane, unit.load_of(found), -1.0)
            if unit.splits and unit.key not in self._begun:
                self._begun.add(unit.key)
                self._uncaptured[unit.lane] = self._uncaptured[unit.lane].plus(unit.captures.times(-1.0))
            me.lane = found.lane
        return found

    def report(
        self, worker: int, taken: Taken, num_steps: int, seconds: float, *, is_over: bool = True
    ) -> None:
        """Note that a worker did the first `num_steps` steps of a part; the rest is open again."""
        load, rest = self._unit(taken).report(taken, num_steps, is_over=is_over)
        me = self._workers.get(worker)
        if load is not None and load.units and seconds > 0 and me is not None:
            rate, old = load.units / seconds, me.rate
            me.rate = rate if old is None else old + SMOOTHING * (rate - old)
        if rest is not None:
            self.give_up(rest)

    def run_whole(self, lane: int) -> None:
        """Count the lane's jobs as whole runs: its model does not resume them, whatever was expected."""
        for unit in self.units:
            if unit.lane == lane and unit.splits:
                before = unit.open_loads
                unit.run_whole()
                for old, new in zip(before, unit.open_loads, strict=True):
                    if old != new:
                        self._add(lane, old, -1.0)
                        self._add(lane, new, 1.0)

    def give_up(self, taken: Taken) -> None:
        """Open again a part that was not done, through no fault of its own."""
        unit = self._unit(taken)
        self._add(taken.lane, unit.load_of(taken), 1.0)
        if unit.is_suspect(taken):
            self._suspects.append(taken)
            return
        self._put_back(unit, taken)

    def blame(self, taken: Taken, job: int | None) -> bool:
        """Note that a worker died of a part; `job` is the one that it was alone with, if it noted any.

        Returns:
            Whether something of the part was given up.
        """
        unit = self._unit(taken)
        self._add(taken.lane, unit.load_of(taken), 1.0)
        verdict = unit.blame(taken, job)
        if verdict.suspect is not None:
            self._suspects.append(verdict.suspect)
        elif not verdict.gave_up:
            self._put_back(unit, taken)
        return verdict.gave_up

    @property
    def rate(self) -> float:
        """Cost units per second of all workers together."""
        return sum(self._rate(worker) for worker in self._workers.values())

    @property
    def measured_rate(self) -> float | None:
        """Cost units per second of the average worker that was measured; None where none was."""
        known = [w.rate for w in self._workers.values() if w.rate is not None]
        return sum(known) / len(known) if known else None

    def expected_s(self, worker: int, taken: Taken) -> float:
        """Time that `worker` should need for a part, as far as it was measured."""
        return self.load(taken).units / self._rate(self._workers[worker])

    def load(self, taken: Taken) -> Load:
        """Load of a part to a worker, besides its call and its captures."""
        return self._unit(taken).load_of(taken)

    def is_typical(self, taken: Taken) -> bool:
        """Whether the time that a part takes says how long others take."""
        return self._unit(taken).is_typical(taken)

    def captures(self, taken: Taken) -> Load:
        """The clean runs of the unit of a part."""
        return self._unit(taken).captures

    def target_s(self, elapsed_s: float) -> float:
        """Time that a part should take: longer as the run goes on, shorter towards its end."""
        target = min(max(elapsed_s / 100, MIN_SLICE_S), MAX_SLICE_S)
        if not self._workers or not any(unit.splits for unit in self.units):
            return target
        return min(target, max(self.remaining_cost / (2 * self.rate), MIN_SLICE_S / 4))

    def _rate(self, worker: _Worker) -> float:
        return worker.rate or self.measured_rate or self.first_rate

    def _unit(self, taken: Taken) -> WorkUnit:
        return self._by_key[taken.key]

    def _add(self, lane: int, load: Load, sign: float) -> None:
        if load != NOTHING:
            self._remaining[lane] = self._remaining.get(lane, NOTHING).plus(load.times(sign))

    def _put_back(self, unit: WorkUnit, taken: Taken) -> None:
        if not unit.is_open and unit.owner is None and not unit.is_on_demand:
            self._fresh.setdefault(unit.lane, []).append(unit)
        unit.put_back(taken)

    def _next_suspect(self) -> Taken | None:
        """The oldest suspect, or its first step."""
        if not self._suspects:
            return None
        taken = self._suspects.pop(0)
        first, rest = self._unit(taken).split_suspect(taken)
        if rest is not None:
            self._suspects.insert(0, rest)
        return first

    def _next_of_a_unit(
        self, worker: int, me: _Worker, target_s: float, most_jobs: int | None
    ) -> Taken | None:
        high = False
        if me.unit is None or not me.unit.is_open:
            self._release(me)
            me.unit = self._take_fresh(worker, me)
        unit = me.unit
        if unit is None:
            unit, high = self._victim(me), True
        if unit is None:
            return None
        cost_of, budget = self._cost_of, self._rate(me) * target_s
        most = unit.most_steps(budget, most_jobs, cost_of, high=high)
        if cost_of is not None:
            is_over = me.waits is not None and all(cost_of(key) is None for key in me.waits[2])
            # Others may have taken the steps that it waited for: those that come now wait for others.
            is_stale = is_over and any(self._waited(unit, 1, high=high))
            if me.waits is None or me.waits[:2] != (unit.key, high) or is_stale:
                me.waits = unit.key, high, [*self._waited(unit, most, high=high)]
            if any(cost_of(key) is not None for key in me.waits[2]):
                return self._next_waited_for(me.waits[2], unit, high=high)
            me.waits = None
            most = unit.free_steps(most, cost_of, high=high)
        return unit.take(budget, high=high, most_steps=most)

    @property
    def _cost_of(self) -> CostOf | None:
        """Costs of units that others wait for; None where there is none any more."""
        waited = (unit for unit in self.units if unit.is_on_demand)
        return None if all(unit.is_over for unit in waited) else self._open_cost

    def _next_waited_for(self, keys: Sequence[UnitKey], unit: WorkUnit, *, high: bool) -> Taken | None:
        """One of the units that the next steps wait for, or one that later steps do; None where others are at
        all of them."""
        found = [key for key in (*keys, *self._waited(unit, None, high=high)) if self._by_key[key].is_open]
        if not found:
            return None
        # One that came back, since a worker that is taken for dead is still at it, lets others go first.
        key = min(found, key=lambda key: self._returned[key])
        self._returned[key] += 1
        return self._by_key[key].take(0.0, high=False, most_steps=None)

    def _waited(self, unit: WorkUnit, num_steps: int | None, *, high: bool) -> Iterator[UnitKey]:
        """Units that are not over and that the next steps, or all, wait for."""
        return (key for key in unit.after(num_steps, high=high) if self._open_cost(key) is not None)

    def _open_cost(self, key: UnitKey) -> float | None:
        """Cost units of a unit that others wait for; None where it is over, or nobody can do it."""
        unit = self._by_key.get(key)
        return None if unit is None or unit.is_over else unit.cost

    def _release(self, worker: _Worker) -> None:
        if worker.unit is not None:
            worker.unit.owner = None
            worker.unit = None

    def _take_fresh(self, number: int, worker: _Worker) -> WorkUnit | None:
        """A unit without owner: of the worker's own model where there is one."""
        lanes = sorted((lane for lane, units in self._fresh.items() if units), key=lambda n: n != worker.lane)
        if not lanes:
            return None
        unit = self._fresh[lanes[0]].pop()
        unit.owner = number
        return unit

    def _victim(self, thief: _Worker) -> WorkUnit | None:
        """The owned unit with the most left, if that is worth making its captures again.

        Another model's unit must be worth loading that model, too.
        """
        others = (w.unit for w in self._workers.values())
        owned = [unit for unit in others if unit is not None and unit.splits and unit.is_open]
        best = max(owned, key=lambda unit: (unit.lane == thief.lane, self._worth(unit)), default=None)
        if best is None:
            return None
        load_cost = 0.0 if thief.lane in (None, best.lane) else LOAD_S * self._rate(thief)
        return best if self._worth(best) > 2 * (best.captures.units + load_cost) else None

    def _worth(self, unit: WorkUnit) -> float:
        """Cost units that remain of a unit, with the units that it waits for."""
        if (cost_of := self._cost_of) is None:
            return unit.cost
        waited = (cost_of(key) for key in unit.after(None, high=False))
        return unit.cost + sum(cost for cost in waited if cost is not None)
