"""Trainings: a network is trained to do what the causal model of the task does, and then swept as a model."""

__all__ = ["OPTIMIZERS", "SCHEDULES", "LRSchedule", "Loss", "Optimizer", "Train", "drawn"]

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from studies.language.base import Spec, SpecWithOptions
from studies.language.blocks import Alignment, For, Seed, Seeds, check_for
from studies.language.fields import (
    Count,
    Number,
    at_once,
    check_count,
    check_name,
    check_positive,
    check_seed,
    check_variable,
    checked,
    freeze,
    one_of,
    required,
)
from studies.language.models import Model
from studies.problems import Problem, ProblemsError, each, refuse

OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam"),
    *("RMSprop", "Rprop", "SGD"),
)
"""The classes of ``torch.optim`` that a training may name: those that take dense gradients once a step."""

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "ConstantLR": (),
    "CosineAnnealingLR": (),
    "CosineAnnealingWarmRestarts": ("T_0",),
    "CyclicLR": ("base_lr", "max_lr"),
    "ExponentialLR": ("gamma",),
    "LinearLR": (),
    "MultiStepLR": ("milestones",),
    "OneCycleLR": ("max_lr",),
    "PolynomialLR": (),
    "StepLR": ("step_size",),
}
"""The classes of ``torch.optim.lr_scheduler`` that a training may name, those that take plain options; and
the options that each needs. Lengths are those of the training."""

_OutputName = Annotated[str | None, checked(check_name)]

_JOINED = "+"


def drawn(draw: Any) -> tuple[tuple[tuple[str, ...], float | str], ...]:
    """Sets of variables that are interchanged at once, each with how often it is drawn."""
    if isinstance(draw, Mapping):
        return tuple((tuple(name.split(_JOINED)), weight) for name, weight in draw.items())
    return tuple(((one,) if isinstance(one, str) else tuple(one), 1.0) for one in draw)


def _check_draw(value: object) -> object:
    """A list of variables, of lists of them, or a mapping to weights."""
    if isinstance(value, Mapping) and value:
        return {_check_set(name): check_positive(weight) for name, weight in value.items()}
    if not isinstance(value, list | tuple) or not value:
        refuse(
            value,
            "a list of variables, or of lists of them that are interchanged at once, or a mapping to weights:"
            " {S: 3, x: 1, x+y: 1}",
        )
    return each(at_once(check_variable), value)


def _check_set(name: object) -> str:
    parts = name.split(_JOINED) if isinstance(name, str) else [name]
    return _JOINED.join(check_variable(part) for part in parts)


class Loss(Spec):
    """One term of a training's loss: the task's labels, or the labels after interchanges."""

    task: _OutputName = None
    """The output that is trained to predict its variable, of the base and of the source."""
    interchange: _OutputName = None
    """The output that is trained to predict its variable after an interchange."""
    draw: Annotated[Any, checked(_check_draw)] = None
    """Variables, of which one (or several at once) is drawn for each batch, whose places are interchanged."""
    weight: Number = None
    delay: Annotated[int | None, checked(check_seed)] = None
    """Epochs before it counts."""
    warmup: Annotated[int | None, checked(check_seed)] = None
    """Epochs over which its weight grows to the full one."""

    @property
    def output(self) -> str:
        """The output that is judged."""
        return str(self.task if self.task is not None else self.interchange)

    @model_validator(mode="after")
    def _check_one(self) -> "Loss":
        if (self.task is None) == (self.interchange is None):
            refuse(self.model_dump(exclude_none=True), "exactly one of task, interchange")
        if (self.draw is not None) != (self.interchange is not None):
            refuse(self.draw, "draw together with interchange, and only there", path=("draw",))
        return self


class _Chosen(SpecWithOptions):
    """A class of torch, and what it is made with; a file writes its options beside its name."""

    options: Annotated[Mapping[str, object], required(freeze)] = Field(default_factory=dict)


class Optimizer(_Chosen):
    """Optimizer of torch, by name, with its own options."""

    name: Annotated[str, required(one_of(OPTIMIZERS))]

    @model_validator(mode="after")
    def _check_lr(self) -> "Optimizer":
        if "lr" not in self.options:
            raise ProblemsError(
                [Problem((), "the key 'lr' is missing; an optimizer needs its learning rate")]
            )
        check_positive(self.options["lr"])
        return self


class LRSchedule(_Chosen):
    """Learning-rate schedule of torch, by name, with its own options."""

    name: Annotated[str, required(one_of(tuple(SCHEDULES)))]

    @model_validator(mode="after")
    def _check_needed(self) -> "LRSchedule":
        missing = [name for name in SCHEDULES[self.name] if name not in self.options]
        if missing:
            names = ", ".join(map(repr, missing))
            raise ProblemsError([Problem((), f"missing: {names}; a {self.name} needs it beside its name")])
        return self


class Train(Spec):
    """The training of a model, made once for each combination of its axes. `docs/training.md` says more."""

    model: Model = None
    alignment: Alignment | None = None
    """The place of each variable, where it is not the study's; its places may name axes."""
    losses: Annotated[Sequence[Loss], Field(min_length=1), AfterValidator(tuple)]
    optimizer: Optimizer
    schedule: LRSchedule | None = None
    l1: Number = None
    """Weight, in the loss, of the sum of the absolute weights."""
    num_epochs: Count = None
    num_steps: Count = None
    batch_size: Annotated[int, required(check_count)]
    measure_every: Count = None
    """Steps between measurements; without it there is one after each epoch."""
    variables_of: Mapping[str, str] | None = None
    """The variable of the causal model that each output predicts."""
    for_: Annotated[For | None, PlainValidator(check_for), Field(alias="for")] = None
    seed: Seed = None
    seeds: Seeds = None

    @model_validator(mode="after")
    def _check_one(self) -> "Train":
        if (self.seed is None) == (self.seeds is None):
            raise ProblemsError([Problem((), "a training draws: give it exactly one of seed, seeds")])
        if (self.num_epochs is None) == (self.num_steps is None):
            raise ProblemsError([Problem((), "give exactly one of num_epochs, num_steps")])
        return self
