"""Trainings that a run still has to do: how many steps, and how long a step takes.

A training that is going on tells by its own steps; one that nobody has begun by those of the others, in the
proportions of what their steps cost. What comes after the trainings is the sweep over what they leave.
"""

__all__ = ["TrainingsLeft"]

import math
from collections.abc import Callable, Mapping, Sequence

from orchestrator.plan.trainings import PlannedTraining
from orchestrator.run.pace import Load, Pace
from orchestrator.run.throughput import FLOPS_PER_CORE
from orchestrator.stages.sweep.forecast import common_factor
from workers.model.facts import ModelFacts

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
