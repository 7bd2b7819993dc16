"""Loop of a run: hands out parts of units, commits what comes back, replaces workers that die.

It knows no stage by name: what there is to do, and what becomes of it, is on the stages' desks.
"""

__all__ = ["Loop"]

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.faults import reach
from orchestrator.plan.tables import Plan
from orchestrator.run.compactor import Compactor
from orchestrator.run.device_setup import Limits
from orchestrator.run.executors import Died, Event, Executor, Finished, Joined, Ready
from orchestrator.run.left import LeftNote
from orchestrator.run.progress import Progress
from orchestrator.run.schedule import WorkSchedule
from orchestrator.run.stopping import Stop
from orchestrator.stages.contract import Desk
from orchestrator.stages.registry import find_stage
from orchestrator.stages.units import Taken
from orchestrator.store import Driver, Manifest
from workers.errors import RunError

MORE_DEATHS = 12
"""Workers may die so many times more than parts are finished, and once for each that there is."""
LEAST_SHARE = 1 / 8
"""Of the usual memory, the share that the replacement of a worker which died is given at least."""
SETTLED = 50
"""After so many parts a worker's death says nothing of the memory that it was given."""
POLL_S = 0.5
WAIT_S = 0.25
"""Time that is waited for workers before it is seen whether somebody asked to stop."""
SWEEP_EVERY_S = 1800.0
"""Time between two clearings of files that compaction has replaced."""
COUNTING_SHARE = 0.02
"""Of the driver's time, the share that counting how far the study is may take."""


class Loop:
    """Loop over what workers report, until nothing is left, a limit is reached or somebody asks to stop."""

    def __init__(
        self,
        desks: Sequence[Desk],
        *,
        schedule: WorkSchedule,
        executor: Executor,
        workers: Sequence[int],
        driver: Driver,
        plan: Plan,
        compactor: Compactor,
        stop: Stop,
        limits: Limits,
        require: Sequence[str],
        progress: Progress,
        logs: Path,
        started: float,
    ) -> None:
        """`executor` brings up `workers`, whose logs lie in `logs`; `started` is when the run began, by the
        monotonic clock.
        """
        self._desks = desks
        self._desk_of = {unit.key: desk for desk in desks for unit in desk.units}
        self._left = LeftNote(logs)
        self._shown = 0.0
        self._show_every_s = POLL_S
        self._schedule = schedule
        self._executor = executor
        self._driver = driver
        self._plan = plan
        self._compactor = compactor
        self._stop = stop
        self._limits = limits
        self._require = require
        """Abilities that a worker's model must have."""
        self._progress = progress
        self._logs = logs
        self._started = started
        self._began = time.monotonic()
        self._ready: set[int] = set()
        """Lanes whose model a worker has loaded."""
        self._idle: list[int] = []
        self._busy: dict[int, Taken] = {}
        self._coming = set(workers)
        """Workers that are on their way."""
        self._shares = dict.fromkeys(workers, 1.0)
        """Of the usual memory, the share that each worker takes."""
        self._finished = dict.fromkeys(workers, 0)
        """Parts that each worker has finished."""
        self._num_workers = len(self._coming)
        self._num_finished = 0
        self._num_deaths = 0
        self._num_settled = 0
        """Deaths of units that were given up."""
        self.num_rows = 0
        """Jobs that were committed, retries included."""
        self.num_failed = 0
        """Failures among them."""
        self.num_retried = 0

    def run(self) -> None:
        """Run until there is nothing more to wait for.

        Raises:
            RunError: workers die without end.
        """
        swept = time.monotonic()
        while self._goes_on():
            self._progress.doing(self._doing())
            manifests: list[tuple[Desk, Manifest]] = []
            for event in self._executor.wait(WAIT_S):
                manifests += self._take(event)
            if manifests:
                self._commit(manifests)
            self._compactor.poll()
            self._driver.lock_late()
            if time.monotonic() - swept >= SWEEP_EVERY_S:
                swept = time.monotonic()
                self._driver.collect_garbage()
            self.show()

    def show(self) -> None:
        """Say how far the run is, every now and then; also called while a worker in this process is at it."""
        before = time.monotonic()
        if before - self._shown < self._show_every_s:
            return
        left_s = self._left_s(before)
        self._left.write(left_s)
        self._progress.doing(self._doing())
        for desk in self._desks:
            desk.show(left_s)
        self._shown = time.monotonic()
        self._show_every_s = max(POLL_S, (self._shown - before) / COUNTING_SHARE)

    def _doing(self) -> str:
        """Text of what goes on besides jobs, or of what the first jobs wait for."""
        if found := next((text for desk in self._desks if (text := desk.doing())), ""):
            return found
        if self.num_rows:
            return ""
        waiting = {taken.lane for taken in self._busy.values() if taken.lane >= 0} - self._ready
        if waiting:
            names = sorted({self._plan.lanes[lane].spec.ref for lane in waiting})
            return f"loading and checking {', '.join(names)}"
        if self._coming and not self._busy:
            return "workers come up"
        return "the first jobs run"

    def _left_s(self, now: float) -> float | None:
        """Time that the rest takes, no longer than this run may."""
        room, target_s = self._room(), self._target_s()
        if room is not None:
            room += self._num_given()
        each = [desk.left_s(now, target_s, room) for desk in self._desks]
        if any(one is None for one in each):
            return None
        left_s, seconds = sum(one or 0.0 for one in each), self._limits.seconds
        return left_s if seconds is None else min(left_s, max(0.0, seconds - (now - self._started)))

    def _goes_on(self) -> bool:
        """Hand out what can be; whether anything is to be waited for."""
        seconds = self._limits.seconds
        if seconds is not None and time.monotonic() - self._started >= seconds:
            self._stop.ask("time")
        if self._stop.reason is not None:
            for worker in self._executor.abandon():
                self._schedule.give_up(self._busy.pop(worker))
            return bool(self._busy)
        self._hand_out()
        if self._busy:
            return True
        if self._schedule.is_empty:
            return False
        if self._room() == 0:
            self._stop.ask("limit")
            return False
        if not self._coming:
            raise RunError("work is left that no worker was given; run the same command again")
        return True

    def _hand_out(self) -> None:
        still_idle: list[int] = []
        for worker in self._idle:
            room = self._room()
            given = self._schedule.next_part(worker, self._target_s(), room) if room != 0 else None
            if given is None:
                still_idle.append(worker)
                continue
            given = replace(given, seq=self._driver.state.seq)
            self._busy[worker] = given
            # One cell, or the estimates of a tile, may take longer than asked for.
            expected_s = self._schedule.expected_s(worker, given)
            self._desk_of[given.key].handed(worker, given, time.monotonic())
            self._executor.submit(worker, given, max(self._target_s(), expected_s))
        self._idle = still_idle

    def _target_s(self) -> float:
        """Time that a part should take now; near the end of the time that is allowed, no longer than that."""
        target = self._schedule.target_s(time.monotonic() - self._began)
        if self._limits.seconds is None:
            return target
        left = self._limits.seconds - (time.monotonic() - self._started)
        return min(target, max(left, POLL_S))

    def _room(self) -> int | None:
        """Jobs that may still be handed out; None where there is no limit."""
        if self._limits.jobs is None or not all(desk.counts_jobs for desk in self._desks):
            return None
        return max(0, self._limits.jobs - self.num_rows - self._num_given())

    def _num_given(self) -> int:
        """Jobs that workers are at."""
        return sum(self._desk_of[taken.key].num_jobs(taken) for taken in self._busy.values())

    def _take(self, event: Event) -> Sequence[tuple[Desk, Manifest]]:
        """Note what happened; the parts that are to be committed, each with its desk."""
        now = time.monotonic()
        match event:
            case Joined(worker):
                self._coming.discard(worker)
                self._schedule.join(worker, self._shares[worker])
                for desk in self._desks:
                    desk.joined(worker, now)
                self._idle.append(worker)
            case Ready():
                self._begin(event)
            case Finished(worker, taken, report):
                reach("driver.report")
                del self._busy[worker]
                if not find_stage(taken.stage).is_preparation:
                    self._finished[worker] += 1
                    self._num_finished += 1
                desk = self._desk_of[taken.key]
                desk.took(worker, taken, report, now)
                self._schedule.report(worker, taken, report.num_steps, report.seconds, is_over=report.is_over)
                self._idle.append(worker)
                return [(desk, manifest) for manifest in report.manifests]
            case Died():
                self._replace(event)
        return []

    def _begin(self, ready: Ready) -> None:
        """Say what a worker's model can do, and let the worker begin; one that lacks what is required gets no
        job.

        Raises:
            RunError: no worker is left that has what is required.
        """
        self._ready.add(ready.taken.lane)
        name = self._plan.lanes[ready.taken.lane].spec.ref
        self._progress.capability(name, ready.capability)
        lacking = ready.capability.lacking(self._require)
        if not lacking and self._stop.reason is None:
            self._executor.proceed(ready.worker)
            return
        self._executor.retire(ready.worker)
        self._schedule.give_up(self._busy.pop(ready.worker))
        self._schedule.leave(ready.worker)
        del self._shares[ready.worker], self._finished[ready.worker]
        if not lacking:
            return
        why = "; ".join(f"{one.name}: {one.reason}" for one in lacking)
        self._progress.say(f"worker {ready.worker} gets no job, as --require asks: {why}")
        if not (self._busy or self._idle or self._coming):
            raise RunError(
                f"no worker is left on which {name} has what is required ({why}); install versions with which"
                " it has, or run without --require and the key require: the numbers are the same, and slower"
            )

    def _replace(self, death: Died) -> None:
        """Put another worker in the place of one that died, and see what becomes of its part."""
        # A driver that lost the study may have lost its folders, too: then nothing here is to blame.
        self._driver.check()
        worker, taken = death.worker, death.taken
        share, num_finished = self._shares.pop(worker), self._finished.pop(worker)
        self._num_deaths += 1
        self._coming.discard(worker)
        self._busy.pop(worker, None)
        self._idle = [one for one in self._idle if one != worker]
        self._schedule.leave(worker)
        for desk in self._desks:
            desk.left(worker)
        if taken is not None and not death.is_guilty:
            self._schedule.give_up(taken)
        elif taken is not None:
            share = max(LEAST_SHARE, (1.0 if num_finished >= SETTLED else share) / 2)
            if self._schedule.blame(taken, death.job):
                now = time.monotonic()
                self._num_settled += self._desk_of[taken.key].gave_up(taken, death.message, now)
        logs = f"logs lie in {self._logs}"
        most = MORE_DEATHS + self._num_workers + self._num_finished + self._num_settled
        if self._num_deaths > most:
            raise RunError(
                f"{self._num_deaths} workers died and {self._num_finished} slices were finished, so this run"
                f" ends; the last one died so: {death.message}; {logs}"
            )
        if self._stop.reason is not None:
            self._progress.say(f"worker {worker} died: {death.message}; {logs}")
            return
        self._progress.say(f"worker {worker} died and is replaced: {death.message}; {logs}")
        fresh = self._executor.add(share)
        self._coming.add(fresh)
        self._shares[fresh], self._finished[fresh] = share, 0

    def _commit(self, manifests: Sequence[tuple[Desk, Manifest]]) -> None:
        """Commit parts; one that holds jobs already done is refused, and they are counted once."""
        reach("driver.commit.before")
        refused = self._driver.commit([manifest for _, manifest in manifests])
        reach("driver.commit.after")
        for desk, manifest in manifests:
            if manifest in refused:
                self._progress.say(f"{manifest.path} repeats jobs that are done, and is left out")
                for rest in desk.refused(manifest):
                    self._schedule.give_up(rest)
                continue
            self.num_rows += manifest.rows
            self.num_failed += manifest.failed
            self.num_retried += manifest.rows if manifest.replaces is not None else 0
        if self._limits.failures is not None and self.num_failed > self._limits.failures:
            self._stop.ask("failures")
