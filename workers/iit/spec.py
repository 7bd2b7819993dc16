"""Specification of an interchange intervention training: network, alignment, losses. No torch here."""

__all__ = ["Draw", "LossTerm", "Node", "TorchClass", "TrainSpec"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from workers.errors import StudyError
from workers.vocabulary import ModelSpec

LossKind = Literal["task", "interchange"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The place that is to hold a variable of the causal model."""

    site: str
    layer: int | None = None
    heads: tuple[int, ...] | None = None
    position: int | tuple[int, ...] | Literal["all"] = "all"
    dims: tuple[str, ...] | None = None
    """Ranges of dimensions, such as ``("0:200",)``; None for all."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From plain data, with lists for tuples."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Draw:
    """Variables that are interchanged at once, and how often, compared with the other draws."""

    variables: tuple[str, ...]
    weight: float = 1.0

    @property
    def name(self) -> str:
        """``x``, or ``x+S`` of several."""
        return "+".join(self.variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One term of the loss: cross entropy to a variable's value, as it is or after an interchange."""

    kind: LossKind
    """``task``: of the base and of the source, half each. ``interchange``: of the base, changed."""
    head: str
    """The output that is judged."""
    weight: float = 1.0
    delay: int = 0
    """Epochs before it counts."""
    warmup: int = 0
    """Epochs over which its weight grows to the full one, in equal steps."""
    draws: tuple[Draw, ...] = ()
    """One is drawn for each batch."""

    def weight_at(self, epoch: int) -> float:
        """Weight of the term in an epoch, from 0."""
        counted = epoch - self.delay + 1
        if counted <= 0:
            return 0.0
        return self.weight * min(1.0, counted / self.warmup) if self.warmup else self.weight

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From plain data, with lists for tuples."""
        draws = tuple(Draw(tuple(draw["variables"]), draw["weight"]) for draw in data.get("draws", ()))
        return cls(**{**data, "draws": draws})


@dataclass(frozen=True, slots=True)
class TorchClass:
    """Optimizer or schedule of torch by the name of its class, and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """A training: which network, aligned how, judged by what, for how long.

    Raises:
        StudyError: it names a variable without a place, has no loss, or not one length.
    """

    model: ModelSpec
    alignment: Mapping[str, Node]
    """Place that is to hold each variable of the causal model."""
    variables_of: Mapping[str, str]
    """The variable that each output of the network predicts; the only output of one is called ``logits``."""
    losses: tuple[LossTerm, ...]
    optimizer: TorchClass
    """Any of ``torch.optim``."""
    schedule: TorchClass | None = None
    """Any of ``torch.optim.lr_scheduler``, stepped after each step."""
    l1: float = 0.0
    """Factor with which the sum of the absolute weights adds to the loss."""
    num_epochs: int | None = None
    num_steps: int | None = None
    """Instead of epochs."""
    batch_size: int
    seed: int
    """Seed of the streams of batches, sources and draws; the weights have the model's own."""
    measure_every: int | None = None
    """Steps between measurements; None measures after each epoch."""

    def __post_init__(self) -> None:
        if not self.losses:
            raise StudyError("a training without losses; give at least one term")
        if (self.num_epochs is None) == (self.num_steps is None):
            raise StudyError("give num_epochs or num_steps, one of them")
        for key in ("num_epochs", "num_steps", "batch_size", "measure_every"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise StudyError(f"{key} {value}; give a number from 1")
        for term in self.losses:
            self._check_term(term)

    def _check_term(self, term: LossTerm) -> None:
        if term.head not in self.variables_of:
            raise StudyError(
                f"a loss of the output {term.head!r}; variables_of has {', '.join(self.variables_of)}"
            )
        if (term.kind == "interchange") != bool(term.draws):
            raise StudyError(f"a {term.kind} loss of {term.head}: an interchange has draws, a task none")
        for draw in term.draws:
            lacking = next((name for name in draw.variables if name not in self.alignment), None)
            if lacking is not None or not draw.variables:
                raise StudyError(
                    f"a draw of {lacking!r}; the alignment has a place for {', '.join(self.alignment)}"
                )
        if term.draws and not sum(max(draw.weight, 0.0) for draw in term.draws) > 0:
            raise StudyError(f"the draws of {term.head} weigh nothing; give one a weight above 0")

    @property
    def draws(self) -> tuple[Draw, ...]:
        """Draws that are measured: each variable of the alignment alone, and what else losses draw."""
        alone = {(name,): Draw((name,)) for name in self.alignment}
        drawn = {draw.variables: draw for term in self.losses for draw in term.draws}
        return tuple((alone | drawn).values())

    def to_json(self) -> dict[str, Any]:
        """Plain data, for canonical JSON."""
        data = {key: getattr(self, key) for key in self.__slots__ if key != "model"}
        data |= {
            "model": self.model.model_dump(mode="json"),
            "alignment": {name: asdict(node) for name, node in self.alignment.items()},
            "variables_of": dict(self.variables_of),
            "losses": [asdict(term) for term in self.losses],
            "optimizer": asdict(self.optimizer),
            "schedule": None if self.schedule is None else asdict(self.schedule),
        }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, lists for tuples or not."""
        schedule = data.get("schedule")
        return cls(
            **{
                **data,
                "model": ModelSpec.stored(data["model"]),
                "alignment": {name: Node.from_json(node) for name, node in data["alignment"].items()},
                "losses": tuple(LossTerm.from_json(term) for term in data["losses"]),
                "optimizer": TorchClass(**data["optimizer"]),
                "schedule": None if schedule is None else TorchClass(**schedule),
            }
        )
