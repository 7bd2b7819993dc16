"""Configs of the built-in models, checked, and the facts of a model before it is made. No torch here.

A config is the model: the same options give the same weights on every machine, so the revision is the
hash of the options.
"""

__all__ = [
    "ZOO",
    "GPTConfig",
    "GRUConfig",
    "HeadConfig",
    "MLPConfig",
    "NodeConfig",
    "Outputs",
    "ZooConfig",
    "config_of",
    "heads_of",
    "is_zoo",
    "zoo_name",
]

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from workers.errors import ModelError, nearest
from workers.libraries.pydantic import Fault, faults
from workers.model.facts import ModelFacts, Reads

_SCHEME = "zoo:"
_WEIGHTS_VERSION = 1
"""Goes up whenever the same options would give other weights: it is part of the revision."""

Count = Annotated[int, Field(gt=0)]
Activation = Literal["relu", "leaky_relu", "gelu", "tanh"]


class NodeConfig(BaseModel):
    """Some columns of what one layer returns."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layer: Annotated[int, Field(ge=0)]
    subspace: Annotated[str, Field(pattern=r"^\d+:\d+$")]
    """``"0:200"``."""

    @property
    def columns(self) -> tuple[int, int]:
        """From the first to before the second."""
        first, end = map(int, self.subspace.split(":"))
        return first, end


class HeadConfig(BaseModel):
    """One output of several: how many classes it tells apart, and of what."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    classes: Count
    reads: NodeConfig | None = None
    """The only node that it sees; None for the whole last state."""


def _form(outputs: object) -> str:
    return "heads" if isinstance(outputs, Mapping) else "number"


_Heads = Annotated[dict[str, HeadConfig], Field(min_length=1)]

Outputs = Annotated[Annotated[Count, Tag("number")] | Annotated[_Heads, Tag("heads")], Discriminator(_form)]
"""A number of classes, or several heads by name, each with its own; predictions are those of the first."""

LOGITS = "logits"
"""The name of the output where there is one without a name."""


def heads_of(outputs: int | Mapping[str, HeadConfig]) -> Mapping[str, HeadConfig]:
    """The heads by name; a single one is called ``logits``."""
    return {LOGITS: HeadConfig(classes=outputs)} if isinstance(outputs, int) else outputs


def _num_classes(outputs: int | Mapping[str, HeadConfig]) -> int:
    """Of the first head."""
    return next(iter(heads_of(outputs).values())).classes


def _num_head_parameters(width: int, outputs: int | Mapping[str, HeadConfig]) -> int:
    return sum(_linear(_width(head, width), head.classes) for head in heads_of(outputs).values())


def _width(head: HeadConfig, width: int) -> int:
    return width if head.reads is None else head.reads.columns[1] - head.reads.columns[0]


def _check_heads(outputs: int | Mapping[str, HeadConfig], width: int, num_layers: int) -> None:
    for name, head in heads_of(outputs).items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"a head is called {name!r}; a name has letters, digits and _, no digit first")
        if head.reads is None:
            continue
        first, end = head.reads.columns
        if not (first < end <= width and head.reads.layer < num_layers):
            raise ValueError(
                f"head {name} reads {head.reads.subspace} of layer {head.reads.layer}; there are dimensions"
                f" 0:{width} of layers 0 to {num_layers - 1}"
            )


def _check_whole(outputs: int | Mapping[str, HeadConfig]) -> None:
    for name, head in heads_of(outputs).items():
        if head.reads is not None:
            raise ValueError(f"head {name} reads a node, which only heads of zoo:mlp can; leave reads out")


class ZooConfig(BaseModel, ABC):
    """Options of all built-in models."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str]
    about: ClassVar[str]

    width: Count
    """Size of a hidden state."""
    num_layers: Count
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Seed of the random weights."""

    @property
    def model_type(self) -> str:
        """The name by which `workers.model.families` knows its sites, such as ``zoo:mlp``."""
        return _SCHEME + self.name

    @property
    def revision(self) -> str:
        """SHA-256 (hex) of the options, defaults included."""
        content = {"zoo": self.name, "version": _WEIGHTS_VERSION, **self.model_dump()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def facts(self, *, dtype: str) -> ModelFacts:
        """Facts that planning needs."""
        return ModelFacts(
            ref=self.model_type,
            revision=self.revision,
            dtype=dtype,
            folder=None,
            model_type=self.model_type,
            num_layers=self.num_layers,
            num_heads=self._num_heads(),
            num_kv_heads=self._num_heads(),
            width=self.width,
            vocab_size=self._vocab_size(),
            num_parameters=self._num_parameters(),
            num_classes=self._num_classes(),
            reads=self._reads(),
            head_width=self.width // self._num_heads() if self._num_heads() else None,
            num_neurons=self._num_neurons(),
            input_width=self._input_width(),
            max_positions=self._max_positions(),
            has_position_table=self._max_positions() is not None,
        )

    @abstractmethod
    def _vocab_size(self) -> int | None: ...

    @abstractmethod
    def _num_classes(self) -> int | None: ...

    @abstractmethod
    def _reads(self) -> Reads: ...

    @abstractmethod
    def _num_parameters(self) -> int: ...

    def _num_heads(self) -> int:
        return 0

    def _num_neurons(self) -> int:
        return self.width

    def _max_positions(self) -> int | None:
        return None

    def _input_width(self) -> int | None:
        return self.width


class MLPConfig(ZooConfig):
    """A classifier of one vector, or of the vectors of a few tokens side by side."""

    name = "mlp"
    about = "MLP classifier: hidden layers of one width, each a linear map and an activation"

    outputs: Outputs
    """Number of classes; or several heads, ``{T1: {classes: 117}, T2: {classes: 88, reads: {layer: 1,
    subspace: "0:200"}}}``, of which one may read a node only."""
    activation: Activation = "relu"
    vocab_size: Count | None = None
    """Number of token ids; None for a model that is given vectors only."""
    num_inputs: Count = 1
    """Number of tokens of a prompt; each fills ``width / num_inputs`` dimensions of the first layer."""

    @model_validator(mode="after")
    def _check(self) -> "MLPConfig":
        if self.width % self.num_inputs:
            raise ValueError(f"num_inputs {self.num_inputs} must divide the width {self.width}")
        _check_heads(self.outputs, self.width, self.num_layers)
        return self

    def _vocab_size(self) -> int | None:
        return self.vocab_size

    def _num_classes(self) -> int:
        return _num_classes(self.outputs)

    def _reads(self) -> Reads:
        return "run"

    def _num_parameters(self) -> int:
        table = (self.vocab_size or 0) * (self.width // self.num_inputs)
        layers = self.num_layers * _linear(self.width, self.width)
        return table + layers + _num_head_parameters(self.width, self.outputs)

    def _input_width(self) -> None:
        # Tokens lie side by side: together they are as wide as the model, whatever each of them is.
        return None


class GRUConfig(ZooConfig):
    """A recurrent classifier, of the whole run or at each step."""

    name = "gru"
    about = "GRU classifier: layers unrolled in time, equal to torch.nn.GRU"

    outputs: Outputs
    """Number of classes; or several heads, ``{T1: {classes: 4}, T2: {classes: 2}}``."""
    per_step: bool = False
    """Whether each step has its own logits; else the last step's state is classified."""
    vocab_size: Count | None = None
    """Number of token ids; None for a model that is given vectors only."""

    @model_validator(mode="after")
    def _check(self) -> "GRUConfig":
        _check_heads(self.outputs, self.width, self.num_layers)
        _check_whole(self.outputs)
        return self

    def _vocab_size(self) -> int | None:
        return self.vocab_size

    def _num_classes(self) -> int:
        return _num_classes(self.outputs)

    def _reads(self) -> Reads:
        return "token" if self.per_step else "run"

    def _num_parameters(self) -> int:
        cell = 2 * _linear(self.width, 3 * self.width)
        table = (self.vocab_size or 0) * self.width
        return table + self.num_layers * cell + _num_head_parameters(self.width, self.outputs)


class GPTConfig(ZooConfig):
    """A small decoder: a language model, or a classifier of the whole run."""

    name = "gpt"
    about = "small GPT: norms before attention and MLP, learned positions; a language model or a classifier"

    num_heads: Count
    vocab_size: Count
    outputs: Outputs | None = None
    """Number of classes that the last token tells apart, or several heads; None for a language model."""
    max_tokens: Count = 128
    """Number of positions that are known."""

    @model_validator(mode="after")
    def _check(self) -> "GPTConfig":
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide the width {self.width}")
        if self.outputs is not None:
            _check_heads(self.outputs, self.width, self.num_layers)
            _check_whole(self.outputs)
        return self

    def _vocab_size(self) -> int:
        return self.vocab_size

    def _num_classes(self) -> int | None:
        return None if self.outputs is None else _num_classes(self.outputs)

    def _reads(self) -> Reads:
        return "token" if self.outputs is None else "run"

    def _num_heads(self) -> int:
        return self.num_heads

    def _num_neurons(self) -> int:
        return 4 * self.width

    def _max_positions(self) -> int:
        return self.max_tokens

    def _num_parameters(self) -> int:
        width = self.width
        block = 4 * _linear(width, width) + _linear(width, 4 * width) + _linear(4 * width, width) + 4 * width
        head = width * self.vocab_size
        if self.outputs is not None:
            head = _num_head_parameters(width, self.outputs)
        return (self.vocab_size + self.max_tokens) * width + self.num_layers * block + 2 * width + head


def _linear(given: int, returned: int) -> int:
    return (given + 1) * returned


ZOO: Mapping[str, type[ZooConfig]] = MappingProxyType(
    {config.name: config for config in (MLPConfig, GRUConfig, GPTConfig)}
)
"""The built-in models by name."""


def is_zoo(ref: str) -> bool:
    """Whether a model reference names a built-in model."""
    return ref.startswith(_SCHEME)


def zoo_name(ref: str) -> str:
    """``mlp`` of ``zoo:mlp``."""
    return ref.removeprefix(_SCHEME)


def config_of(name: str, options: Mapping[str, object]) -> ZooConfig:
    """The config of the built-in model `name` with these options, checked.

    Raises:
        ModelError: there is no such model, or an option is unknown, missing or impossible.
    """
    if name not in ZOO:
        known = ", ".join(_SCHEME + known for known in ZOO)
        raise ModelError(f"there is no built-in model 'zoo:{name}'; there are {known}{nearest(name, ZOO)}")
    try:
        return ZOO[name].model_validate(dict(options))
    except ValidationError as error:
        raise ModelError(_said(name, faults(error)[0])) from None


_FORMS = ("number", "heads")
"""Of outputs, which pydantic names among the keys."""


def _said(name: str, fault: Fault) -> str:
    """Message on what pydantic finds wrong, in our words."""
    options = ZOO[name].model_fields
    where = f"model 'zoo:{name}'"
    key = ".".join(str(part) for part in fault.where if part not in _FORMS)
    if len(fault.where) > 1 and fault.kind in ("unknown", "missing"):
        problem = "is not allowed there" if fault.kind == "unknown" else "is missing"
        return f"{where}: {key} {problem}; a head has classes, and reads with layer and subspace"
    if fault.kind == "unknown":
        return f"{where} has no option {key!r}; its options are {', '.join(options)}{nearest(key, options)}"
    if fault.kind == "missing":
        needed = ", ".join(option for option, field in options.items() if field.is_required())
        return f"{where} needs the option {key!r}; it needs {needed}"
    if fault.kind == "raised":
        return f"{where}: {fault.wanted}"
    return f"{where}: {key} is {fault.given!r}; it must be {fault.wanted}"
