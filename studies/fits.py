"""What is made before cells run: fits, trained models, and the alignment of a causal model's variables."""

__all__ = ["METHODS", "Aligned", "Fit", "Loss", "Optimizer", "Train"]

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from studies import fields
from studies.base import Spec
from studies.blocks import For, Head, Layer, Position, Seed, Seeds, Site, Subspace, check_for
from studies.fields import Column, Count, Number, axis, checked, one_of, required
from studies.models import Model
from studies.problems import Problem, ProblemsError, refuse

METHODS = ("das", "mask", "mean", "mean_difference", "pca", "probe", "random_rotation", "sae")
"""How a fit is made."""

_RunName = Annotated[str | None, checked(fields.check_name)]


class Fit(Spec):
    """A fit: a rotation, a direction, a mask or a mean that units name."""

    method: Annotated[str, required(one_of(METHODS))]
    rank: Count = None
    """How many directions it has."""
    ranks: Annotated[Sequence[int] | None, checked(axis(fields.check_count))] = None
    """An axis of ranks."""
    where: Column = None
    """SQL over the pair's columns: the pairs that it is made from."""
    num_steps: Count = None
    batch_size: Count = None
    lr: Number = None
    """Learning rate."""
    of: _RunName = None
    """The run whose values it is made from."""
    per: Annotated[Sequence[str] | None, checked(axis(fields.check_name))] = None
    """Columns: one mean for each combination of their values."""
    seed: Seed = None
    seeds: Seeds = None

    @model_validator(mode="after")
    def _check_forms(self) -> "Fit":
        for singular, plural in (("rank", "ranks"), ("seed", "seeds")):
            if getattr(self, singular) is not None and getattr(self, plural) is not None:
                text = f"both {singular!r} and {plural!r} are here; allowed: one form of the two"
                raise ProblemsError([Problem((plural,), text)])
        return self


class Aligned(Spec):
    """The place that is hypothesised to hold a variable of the causal model."""

    site: Site = None
    layer: Layer = None
    head: Head = None
    position: Position = None
    subspace: Subspace = None


class Loss(Spec):
    """One term of a training loss: a task's labels, or the labels after interchanges."""

    task: _RunName = None
    """The model's output that is trained to predict its variable."""
    interchange: _RunName = None
    """The model's output that is trained to predict its variable after an interchange."""
    draw: Annotated[Sequence[str] | None, checked(axis(fields.check_name))] = None
    """Variables, one drawn for each batch, whose places are interchanged."""
    weight: Number = None
    delay: Annotated[int | None, checked(fields.check_seed)] = None
    """Epochs before it counts."""
    warmup: Annotated[int | None, checked(fields.check_seed)] = None
    """Epochs over which its weight grows to the full one."""

    @model_validator(mode="after")
    def _check_one(self) -> "Loss":
        if (self.task is None) == (self.interchange is None):
            refuse(self.model_dump(exclude_none=True), "exactly one of task, interchange")
        if self.draw is not None and self.interchange is None:
            refuse(self.draw, "draw only together with interchange", path=("draw",))
        return self


class Optimizer(Spec):
    """How the parameters are updated."""

    name: Annotated[str, required(one_of(("SGD", "Adam", "AdamW")))]
    lr: Annotated[float | str, required(fields.check_number)]
    momentum: Number = None
    weight_decay: Number = None


class Train(Spec):
    """The training of a model, made once for each combination of its axes."""

    model: Model = None
    losses: Annotated[Sequence[Loss], Field(min_length=1), AfterValidator(tuple)]
    optimizer: Optimizer
    num_epochs: Annotated[int, required(fields.check_count)]
    batch_size: Annotated[int, required(fields.check_count)]
    variables_of: Mapping[str, str] | None = None
    """The variable of the causal model that each output predicts."""
    for_: Annotated[For | None, PlainValidator(check_for), Field(alias="for")] = None
    seed: Seed = None
    seeds: Seeds = None

    @model_validator(mode="after")
    def _check_seed(self) -> "Train":
        if (self.seed is None) == (self.seeds is None):
            raise ProblemsError([Problem((), "a training draws: give it exactly one of seed, seeds")])
        return self
