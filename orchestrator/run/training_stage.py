"""The stage of a run before its jobs: the study's own trainings, until each is done or failed."""

__all__ = ["TrainingStage"]

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from orchestrator.plan.trainings import planned_trainings
from orchestrator.run.committed import Planned
from orchestrator.run.executors import InlineExecutor
from orchestrator.run.forecast import closing_s
from orchestrator.run.forecasts import forecast_of
from orchestrator.run.progress import Progress
from orchestrator.run.schedule import Schedule
from orchestrator.run.setup import RunOptions, set_up_training
from orchestrator.run.stopping import Stop
from orchestrator.run.trained import failure_of, trained_of
from orchestrator.run.training_loop import TrainingLoop
from orchestrator.run.trainings_left import TrainingsLeft
from orchestrator.run.work import open_work
from orchestrator.store import Driver, StudyStore
from orchestrator.store.storage import LocalStorage
from orchestrator.store.trainings import TrainingFolder
from workers.errors import ModelError
from workers.model.references import resolve

SCORE_SHARE = 0.5
"""Of the time in which workers come up, what running the prompts without interventions takes in between."""
FEW = 64
"""Pairs whose prompts are looked at."""


class TrainingStage:
    """What a committed plan has to train.

    Args:
        root: the study's folder.
        planned: the plan, and how its jobs are run.
        options: ``retry_failed`` tries again what failed.
    """

    def __init__(self, root: Path, planned: Planned, options: RunOptions) -> None:
        self._root = root
        self._planned = planned
        self._options = options
        self._folder = TrainingFolder(LocalStorage(root))
        every = planned_trainings(planned.plan.tables).values()
        self.todo = [one for one in every if self._is_open(one.identity)]
        """The trainings that are left."""
        self.factor: float | None = None
        """By how much longer than expected their steps took; None where none was made."""

    def run(self, driver: Driver, stop: Stop, progress: Progress, started: float) -> bool:
        """Train; whether anything was left, because somebody or a limit asked to stop."""
        plan = self._planned.plan
        setup = set_up_training(plan, len(self.todo), self._options)
        progress.say(f"{len(self.todo)} training{'s' * (len(self.todo) > 1)} {setup.where} ({setup.why})")
        with ExitStack() as stack:
            engines = replace(setup.engines, root=self._root)
            executor = setup.make_executor(self._root, self._planned.ref, driver.epoch, engines)
            stack.callback(executor.close)
            began = time.monotonic() if setup.executor == "ray" else None
            workers = executor.start()
            left = self._left(driver, len(workers), began)
            loop = TrainingLoop(
                self.todo,
                folder=self._folder,
                executor=executor,
                workers=workers,
                driver=driver,
                stop=stop,
                limits=self._options.limits,
                progress=progress,
                logs=StudyStore(self._root).logs(driver.epoch),
                started=started,
                left=left,
            )
            if isinstance(executor, InlineExecutor):
                executor.pulse = loop.show
                executor.is_asked = lambda: stop.reason is not None
            loop.run()
        self.factor = left.factor
        return loop.is_left

    def _left(self, driver: Driver, num_workers: int, began: float | None) -> TrainingsLeft:
        """What is left: trainings, and the sweep over what they leave."""
        planned = self._planned
        swept = Schedule(open_work(planned.plan, driver.state, planned.facts), first_rate=planned.setup.rate)
        num_later = planned.setup.num_workers or 1
        sweep = forecast_of(planned, swept, StudyStore(self._root), driver.epoch, num_later)

        def later(factor: float, start_s: float) -> float:
            sweep.assumed = factor
            # These workers end, a process of its own runs the prompts through what they left, and others come
            # up where the sweep has some of its own.
            between_s = closing_s(start_s) + SCORE_SHARE * start_s
            if sweep.start_s and start_s:
                sweep.start_s = start_s
            return between_s + (sweep.left_s(sweep.began) or 0.0)

        prompts = [len(pair.tokens["base"]) for pair in list(planned.plan.pairs.values())[:FEW]]
        return TrainingsLeft(
            self.todo,
            done={one.identity: self._folder.status(one.identity).step for one in self.todo},
            facts=lambda one: resolve(one.spec.model, fetch=False),
            num_tokens=sum(prompts) / max(1, len(prompts)) or 1.0,
            num_workers=min(num_workers, len(self.todo)),
            later=later,
            began=began,
        )

    def check(self) -> None:
        """Accept that every model is there, or is known to have failed.

        Raises:
            ModelError: that of another study is neither.
        """
        lanes = [lane for lane in self._planned.plan.lanes.values() if lane.training is not None]
        done = trained_of(self._root, [str(lane.training) for lane in lanes])
        for lane in lanes:
            if lane.training not in done and failure_of(self._root, lane) is None:
                study = str(lane.training).partition("/")[0]
                raise ModelError(
                    f"the model {lane.spec.ref} is not trained yet; run the study {study!r}, which trains it"
                )

    def _is_open(self, training: str) -> bool:
        if self._folder.done(training) is not None:
            return False
        return self._options.retry_failed or self._folder.failure(training) is None
