"""The loop of the stage in which models are trained: hands out time, until each training is done or failed.

A training stays with the worker that has it in hand; one whose worker died goes on elsewhere, from its last
checkpoint.
"""

__all__ = ["TrainingLoop"]

import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

from orchestrator.plan.trainings import PlannedTraining
from orchestrator.run.executors import Died, Event, Executor, Finished, Joined
from orchestrator.run.left import LeftNote
from orchestrator.run.progress import Progress
from orchestrator.run.setup import Limits
from orchestrator.run.stopping import Stop
from orchestrator.run.trainings import TrainReport, TrainSlice
from orchestrator.run.trainings_left import TrainingsLeft
from orchestrator.store import Driver
from orchestrator.store.trainings import TrainingFolder
from workers.errors import RunError

DEATHS_OF_A_TRAINING = 3
"""So many workers in a row may die of a training; then it has failed."""
MIN_SLICE_S, MAX_SLICE_S = 2.0, 30.0
POLL_S = 0.5
TELL_EVERY_S = 30.0
"""How often a training that goes on is told of."""


class TrainingLoop:
    """Runs until nothing is left to train, a limit is reached or somebody asks to stop."""

    def __init__(
        self,
        todo: Sequence[PlannedTraining],
        *,
        folder: TrainingFolder,
        executor: Executor,
        workers: Sequence[int],
        driver: Driver,
        stop: Stop,
        limits: Limits,
        progress: Progress,
        logs: Path,
        started: float,
        left: TrainingsLeft,
    ) -> None:
        """`executor` brings up `workers`, whose logs lie in `logs`; `started` is when the run began, by the
        monotonic clock, which `left` goes by, too.
        """
        self._left = left
        self._note = LeftNote(logs)
        self._waiting = deque(TrainSlice(one.identity, lane=-1 - number) for number, one in enumerate(todo))
        self._titles = {one.identity: one.training.title for one in todo}
        self._folder = folder
        self._executor = executor
        self._driver = driver
        self._stop = stop
        self._limits = limits
        self._progress = progress
        self._logs = logs
        self._started = started
        self._began = time.monotonic()
        self._coming = set(workers)
        self._idle: list[int] = []
        self._busy: dict[int, TrainSlice] = {}
        self._deaths: Counter[str] = Counter()
        """Of workers, since the training last came on."""
        self._told: dict[str, float] = {}
        self.num_over = 0

    @property
    def is_left(self) -> bool:
        """Whether a training is neither done nor failed."""
        return self.num_over < len(self._titles)

    def run(self) -> None:
        """Until there is nothing more to wait for.

        Raises:
            RunError: no worker is left.
        """
        while self._goes_on():
            for event in self._executor.wait(POLL_S):
                self._take(event)
            self.show()
            self._driver.lock_late()

    def show(self) -> None:
        """Say now and then how long it will take."""
        left_s, seconds = self._left.left_s(time.monotonic()), self._limits.seconds
        if left_s is not None and seconds is not None:
            left_s = min(left_s, max(0.0, seconds - (time.monotonic() - self._started)))
        self._note.write(left_s)
        self._progress.trained(self.num_over, len(self._titles), left_s)

    def _goes_on(self) -> bool:
        """Hand out what can be; whether anything is to be waited for."""
        seconds = self._limits.seconds
        if seconds is not None and time.monotonic() - self._started >= seconds:
            self._stop.ask("time")
        if self._stop.reason is not None:
            for worker in self._executor.abandon():
                self._busy.pop(worker)
            return bool(self._busy)
        while self._idle and self._waiting:
            self._hand_out(self._idle.pop(0), self._waiting.popleft())
        if self._busy or not self._waiting:
            return bool(self._busy)
        if not self._coming:
            raise RunError("trainings are left that no worker was given; run the same command again")
        return True

    def _hand_out(self, worker: int, taken: TrainSlice) -> None:
        self._busy[worker] = taken
        self._left.handed(taken.training, time.monotonic())
        self._executor.submit(worker, taken, self._target_s())

    def _target_s(self) -> float:
        """How long a slice should take: longer as the run goes on, no longer than the time that is left."""
        now = time.monotonic()
        target = min(max((now - self._began) / 100, MIN_SLICE_S), MAX_SLICE_S)
        if self._limits.seconds is None:
            return target
        return min(target, max(self._limits.seconds - (now - self._started), POLL_S))

    def _take(self, event: Event) -> None:
        match event:
            case Joined(worker):
                self._coming.discard(worker)
                self._idle.append(worker)
                self._left.joined(time.monotonic())
            case Finished(worker, TrainSlice() as taken, TrainReport() as report):
                del self._busy[worker]
                self._deaths.pop(taken.training, None)
                self._left.took(
                    taken.training,
                    report.step,
                    report.num_steps,
                    report.seconds,
                    is_over=report.is_over,
                )
                if report.is_over or self._stop.reason is not None:
                    self._idle.append(worker)
                else:
                    # Its state is in this worker's memory.
                    self._hand_out(worker, taken)
                self._tell(taken, report)
            case Died():
                self._replace(event)

    def _tell(self, taken: TrainSlice, report: TrainReport) -> None:
        title = self._titles[taken.training]
        if report.is_over:
            self.num_over += 1
            how = f"failed: {report.failure}" if report.failure else f"done after {report.step:,} steps"
            self._progress.say(f"training {title} {how} ({self.num_over} of {len(self._titles)})")
        elif time.monotonic() - self._told.setdefault(taken.training, self._began) >= TELL_EVERY_S:
            self._told[taken.training] = time.monotonic()
            self._progress.say(f"training {title}: step {report.step:,} of {report.num_steps:,}")

    def _replace(self, death: Died) -> None:
        """Put another worker in the place of one that died, and see what becomes of its training."""
        self._driver.check()
        taken = self._busy.pop(death.worker, None)
        self._coming.discard(death.worker)
        self._idle = [one for one in self._idle if one != death.worker]
        if taken is not None:
            self._deaths[taken.training] += death.is_guilty
            if self._deaths[taken.training] >= DEATHS_OF_A_TRAINING:
                message = f"workers died of it again and again, the last one so: {death.message}"
                self._folder.give_up(taken.training, "WorkerDied", message)
                step = self._folder.status(taken.training).step
                self._left.took(taken.training, step, step, 0.0, is_over=True)
                self._tell(taken, TrainReport(step, step, 0.0, is_over=True, failure=message))
            else:
                self._waiting.appendleft(taken)
        logs = f"logs lie in {self._logs}"
        if self._stop.reason is not None:
            self._progress.say(f"worker {death.worker} died: {death.message}; {logs}")
            return
        self._progress.say(f"worker {death.worker} died and is replaced: {death.message}; {logs}")
        self._coming.add(self._executor.add(1.0))
