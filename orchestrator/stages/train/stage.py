"""Stage of the study's own trainings, until each is done or failed; then the plan knows what they left.

A training stays with the worker that has it in hand; one whose worker died goes on elsewhere, from its last
checkpoint.
"""

__all__ = ["STAGE", "TrainDesk", "TrainStage", "TrainingsLeft"]

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from orchestrator.plan.trainings import PlannedTraining, planned_trainings
from orchestrator.run.device_setup import RunOptions, Setup, set_up_training
from orchestrator.run.engines import Engines
from orchestrator.run.pace import Load, Pace
from orchestrator.run.plan_store import commit_plan
from orchestrator.run.schedule import WorkSchedule
from orchestrator.run.throughput import FLOPS_PER_CORE
from orchestrator.run.trained import failure_of, trained_of
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import (
    Desk,
    Hands,
    Planned,
    RunScene,
    ScheduleView,
    Stage,
    StageReport,
)
from orchestrator.stages.sweep.forecast import closing_s, common_factor
from orchestrator.stages.sweep.stage import fits_left, forecast_of
from orchestrator.stages.sweep.work import open_work
from orchestrator.stages.train.store import TrainingFolder
from orchestrator.stages.train.trainings import TrainHands
from orchestrator.stages.units import DEATHS_OF_A_UNIT, Piece, Taken, WholeUnit
from orchestrator.store.storage import LocalStorage
from workers.errors import ModelError
from workers.model.facts import ModelFacts
from workers.model.references import resolve

NAME = "train"
SCORE_SHARE = 0.5
"""Of the time in which workers come up, the part that running the prompts without interventions takes."""
FEW = 64
"""Pairs whose prompts are looked at."""
TELL_EVERY_S = 30.0
"""Time after which a training that goes on is told of again."""


class TrainDesk(Desk):
    """Trainings that are left."""

    counts_jobs = False

    def __init__(self, scene: RunScene, todo: list[PlannedTraining]) -> None:
        super().__init__(scene, [WholeUnit(NAME, one.identity) for one in todo])
        self._todo = todo
        self._titles = {one.identity: one.training.title for one in todo}
        self._folder = TrainingFolder(LocalStorage(scene.store.root))
        self._time: TrainingsLeft
        self._began = 0.0
        self._told: dict[str, float] = {}

    @cached_property
    def setup(self) -> Setup:
        """As `Desk.setup`: several trainings at once are worth starting Ray."""
        return set_up_training(self.scene.planned.plan, len(self._todo), self.scene.options)

    @property
    def engines(self) -> Engines:
        """As `Desk.engines`."""
        return replace(self.setup.engines, root=self.scene.store.root)

    def announce(self) -> None:
        """As `Desk.announce`."""
        num, setup = len(self._todo), self.setup
        self.scene.progress.say(f"{num} training{'s' * (num > 1)} {setup.where} ({setup.why})")

    def begin(self, schedule: ScheduleView, num_workers: int, began: float) -> None:
        """As `Desk.begin`: reckon what is left, trainings and the sweep over what they leave."""
        scene, self._began = self.scene, time.monotonic()
        planned = scene.planned
        work = open_work(planned.plan, scene.driver.state, planned.facts)
        swept = WorkSchedule(work, first_rate=planned.setup.rate)
        fits = fits_left(planned, scene.store, scene.driver.epoch)
        sweep = forecast_of(planned, swept, fits, planned.setup.num_workers or 1)

        def later(factor: float, start_s: float) -> float:
            sweep.assumed = factor
            # These workers end, a process of its own runs the prompts through what they left, and others come
            # up where the sweep has some of its own.
            between_s = closing_s(start_s) + SCORE_SHARE * start_s
            if sweep.start_s and start_s:
                sweep.start_s = start_s
            return between_s + (sweep.left_s(sweep.began) or 0.0)

        prompts = [len(pair.tokens["base"]) for pair in list(planned.plan.pairs.values())[:FEW]]
        self._time = TrainingsLeft(
            self._todo,
            done={one.identity: self._folder.status(one.identity).step for one in self._todo},
            facts=lambda one: resolve(one.spec.model, fetch=False),
            num_tokens=sum(prompts) / max(1, len(prompts)) or 1.0,
            num_workers=min(num_workers, len(self._todo)),
            later=later,
            began=began if self.setup.executor == "ray" else None,
        )

    def joined(self, worker: int, now: float) -> None:
        """As `Desk.joined`."""
        self._time.joined(now)

    def handed(self, worker: int, taken: Taken, now: float) -> None:
        """As `Desk.handed`."""
        self._time.handed(_name(taken), now)

    def took(self, worker: int, taken: Taken, report: StageReport, now: float) -> None:
        """As `Desk.took`."""
        step, total = report.num_steps, report.total_steps or report.num_steps
        self._time.took(_name(taken), step, total, report.seconds, is_over=report.is_over)
        title = self._titles[_name(taken)]
        if report.is_over:
            self._num_over += 1
            how = f"failed: {report.failure}" if report.failure else f"done after {step:,} steps"
            self.scene.progress.say(f"training {title} {how} ({self._num_over} of {len(self._titles)})")
        elif now - self._told.setdefault(_name(taken), self._began) >= TELL_EVERY_S:
            self._told[_name(taken)] = now
            self.scene.progress.say(f"training {title}: step {step:,} of {total:,}")

    def gave_up(self, taken: Taken, why: str, now: float) -> int:
        """As `Desk.gave_up`: the training has failed."""
        message = f"workers died of it again and again, the last one so: {why}"
        self._folder.give_up(_name(taken), "WorkerDied", message)
        step = self._folder.status(_name(taken)).step
        self.took(-1, taken, StageReport(step, 0.0, failure=message, total_steps=step), now)
        return DEATHS_OF_A_UNIT

    def left_s(self, now: float, target_s: float, room: int | None) -> float | None:
        """As `Desk.left_s`, and the sweep after it."""
        return self._time.left_s(now)

    def show(self, left_s: float | None) -> None:
        """As `Desk.show`."""
        self.scene.progress.trained(self._num_over, len(self._titles), left_s)

    def end(self) -> None:
        """As `Desk.end`: what comes after is as much slower than expected as this was."""
        self.scene.factor = self._time.factor


def _name(taken: Taken) -> str:
    """Identity of the training of a piece."""
    assert isinstance(taken, Piece)
    return taken.name


class TrainStage(Stage):
    """Trainings of a study's own models."""

    name = NAME
    folders = ("trainings", "artifacts")
    changes_plan = True
    order = 0

    def open(self, scene: RunScene) -> Desk | None:
        """As `Stage.open`."""
        folder = TrainingFolder(LocalStorage(scene.store.root))
        every = planned_trainings(scene.planned.plan.tables).values()
        todo = [one for one in every if _is_open(folder, one.identity, scene.options)]
        return TrainDesk(scene, todo) if todo else None

    def hands(self, bench: WorkerBench) -> Hands:
        """As `Stage.hands`."""
        return TrainHands(bench)

    def over(self, scene: RunScene, *, was_open: bool, is_left: bool) -> Planned | None:
        """As `Stage.over`: every model is there by now, or is known to have failed.

        Raises:
            ModelError: that of another study is neither.
        """
        if not is_left:
            _check(scene)
        if not was_open:
            return None
        return commit_plan(scene.study, scene.store, scene.driver, scene.options, scene.progress.say)


def _is_open(folder: TrainingFolder, training: str, options: RunOptions) -> bool:
    if folder.done(training) is not None:
        return False
    return options.retry_failed or folder.failure(training) is None


def _check(scene: RunScene) -> None:
    """Refuse to sweep a model of another study that is not trained."""
    root = scene.store.root
    lanes = [lane for lane in scene.planned.plan.lanes.values() if lane.training is not None]
    done = trained_of(root, [str(lane.training) for lane in lanes])
    for lane in lanes:
        if lane.training not in done and failure_of(root, lane) is None:
            study = str(lane.training).partition("/")[0]
            raise ModelError(
                f"the model {lane.spec.ref} is not trained yet; run the study {study!r}, which trains it"
            )


STAGE = TrainStage()


STEP_S = 3e-3
"""Time that a step takes besides its operations: an optimiser, and some hundred calls of torch."""
PASSES = {"task": 6.0, "interchange": 5.0}
"""Forwards that a term of the loss takes as long as, gradients included: of base and source, or of the
base with values that the source's run gave."""
SMOOTHING = 0.5


class TrainingsLeft:
    """The trainings of one stage of a run.

    Args:
        todo: those that are left.
        done: of each, the step of its last checkpoint.
        facts: gives what is known of a model.
        num_tokens: of an input.
        num_workers: that train.
        later: how long what comes after takes, if it takes so many times as long as expected, and workers
            so many seconds to come up.
        began: when workers of their own processes began to come up; None for one of this process.
    """

    def __init__(
        self,
        todo: Sequence[PlannedTraining],
        *,
        done: Mapping[str, int],
        facts: Callable[[PlannedTraining], ModelFacts],
        num_tokens: float,
        num_workers: int,
        later: Callable[[float, float], float] = lambda factor, start_s: 0.0,
        began: float | None = None,
    ) -> None:
        self._steps = {one.identity: _num_steps(one) for one in todo}
        self._done = dict(done)
        self._step_loads = {one.identity: _step_load(one, facts(one), num_tokens) for one in todo}
        self._paces = {
            name: Pace(1.0, row_s=STEP_S, call_s=0.0) for name in {one.training.name for one in todo}
        }
        self._names = {one.identity: one.training.name for one in todo}
        self._step_s: dict[str, float] = {}
        """Seconds of a step, of the trainings that made some in this run."""
        self._begun: dict[str, float] = {}
        """Start of the slice that each training is in."""
        self._num_workers = max(1, num_workers)
        self._later = later
        self._began = began
        self.start_s = 0.0
        """Time that workers of their own processes took to come up."""

    @property
    def factor(self) -> float | None:
        """By how much longer than expected steps took; None before any was made."""
        return common_factor(self._paces.values())

    def joined(self, now: float) -> None:
        """A worker is up."""
        if self._began is not None:
            self.start_s = self.start_s or now - self._began

    def handed(self, training: str, now: float) -> None:
        """A worker goes on with a training."""
        self._begun[training] = now

    def took(self, training: str, step: int, num_steps: int, seconds: float, *, is_over: bool) -> None:
        """A training is at `step` of so many, and those of its last slice took so many seconds."""
        num_made = step - self._done.get(training, 0)
        self._begun.pop(training, None)
        if num_made > 0 and seconds > 0:
            self._paces[self._names[training]].record(self._step_loads[training].times(num_made), seconds)
            own, old = seconds / num_made, self._step_s.get(training)
            self._step_s[training] = own if old is None else old + SMOOTHING * (own - old)
        self._done[training], self._steps[training] = step, num_steps
        if is_over:
            self._steps.pop(training)

    def left_s(self, now: float) -> float | None:
        """Seconds until all are done, and what comes after; None before any has made a step."""
        factor = self.factor
        if factor is None:
            return None
        each = [self._rest_s(training, now) for training in self._steps]
        stage_s = max(sum(each) / self._num_workers, max(each, default=0.0))
        return stage_s + self._later(factor, self.start_s)

    def _rest_s(self, training: str, now: float) -> float:
        left = self._steps[training] - self._done.get(training, 0)
        step_s = self._step_s.get(training)
        if step_s is None:
            pace = self._paces[self._names[training]]
            scale = 1.0 if pace.is_measured else self.factor or 1.0
            step_s = scale * pace.seconds(self._step_loads[training])
        running_s = now - self._begun[training] if training in self._begun else 0.0
        return max(0.0, left * step_s - running_s)


def _num_steps(one: PlannedTraining) -> int:
    spec = one.spec
    if spec.num_steps is not None:
        return spec.num_steps
    num_examples = int(one.task.get("num_train") or 0)
    return (spec.num_epochs or 0) * math.ceil(num_examples / spec.batch_size)


def _step_load(one: PlannedTraining, facts: ModelFacts, num_tokens: float) -> Load:
    """A step: in seconds of one core, as far as its operations are known."""
    passes = sum(PASSES[term.kind] for term in one.spec.losses)
    operations = 2.0 * facts.num_parameters * num_tokens * one.spec.batch_size * passes
    return Load(operations / FLOPS_PER_CORE, 1.0)
