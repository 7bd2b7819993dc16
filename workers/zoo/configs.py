"""What a built-in model is made of, checked, and what is known of it before it is made. No torch here.

A config is the model: the same options give the same weights on every machine, so the revision is the
hash of the options.
"""

__all__ = ["ZOO", "GPTConfig", "GRUConfig", "MLPConfig", "ZooConfig", "config_of", "is_zoo", "zoo_name"]

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workers.errors import ModelError, nearest
from workers.facts import ModelFacts, Reads

_SCHEME = "zoo:"
_WEIGHTS_VERSION = 1
"""Goes up whenever the same options would give other weights: it is part of the revision."""

Count = Annotated[int, Field(gt=0)]
Activation = Literal["relu", "leaky_relu", "gelu", "tanh"]


class ZooConfig(BaseModel, ABC):
    """What all built-in models have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str]
    about: ClassVar[str]

    width: Count
    """Size of a hidden state."""
    num_layers: Count
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Which random weights."""

    @property
    def model_type(self) -> str:
        """The name by which `workers.families` knows its sites, such as ``zoo:mlp``."""
        return _SCHEME + self.name

    @property
    def revision(self) -> str:
        """SHA-256 (hex) of the options, defaults included."""
        content = {"zoo": self.name, "version": _WEIGHTS_VERSION, **self.model_dump()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def facts(self, *, dtype: str) -> ModelFacts:
        """What planning needs to know."""
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

    def _input_width(self) -> int | None:
        return self.width


class MLPConfig(ZooConfig):
    """A classifier of one vector, or of the vectors of a few tokens side by side."""

    name = "mlp"
    about = "MLP classifier: hidden layers of one width, each a linear map and an activation"

    outputs: Count
    """Number of classes."""
    activation: Activation = "relu"
    vocab_size: Count | None = None
    """How many token ids there are; None for a model that is given vectors only."""
    num_inputs: Count = 1
    """How many tokens a prompt has; each fills ``width / num_inputs`` dimensions of the first layer."""

    @model_validator(mode="after")
    def _check(self) -> "MLPConfig":
        if self.width % self.num_inputs:
            raise ValueError(f"num_inputs {self.num_inputs} must divide the width {self.width}")
        return self

    def _vocab_size(self) -> int | None:
        return self.vocab_size

    def _num_classes(self) -> int:
        return self.outputs

    def _reads(self) -> Reads:
        return "run"

    def _num_parameters(self) -> int:
        table = (self.vocab_size or 0) * (self.width // self.num_inputs)
        return table + self.num_layers * _linear(self.width, self.width) + _linear(self.width, self.outputs)

    def _input_width(self) -> None:
        # Tokens lie side by side: together they are as wide as the model, whatever each of them is.
        return None


class GRUConfig(ZooConfig):
    """A recurrent classifier, of the whole run or at each step."""

    name = "gru"
    about = "GRU classifier: layers unrolled in time, equal to torch.nn.GRU"

    outputs: Count
    """Number of classes."""
    per_step: bool = False
    """Whether each step has its own logits; else the last step's state is classified."""
    vocab_size: Count | None = None
    """How many token ids there are; None for a model that is given vectors only."""

    def _vocab_size(self) -> int | None:
        return self.vocab_size

    def _num_classes(self) -> int:
        return self.outputs

    def _reads(self) -> Reads:
        return "token" if self.per_step else "run"

    def _num_parameters(self) -> int:
        cell = 2 * _linear(self.width, 3 * self.width)
        return (
            (self.vocab_size or 0) * self.width + self.num_layers * cell + _linear(self.width, self.outputs)
        )


class GPTConfig(ZooConfig):
    """A small decoder: a language model, or a classifier of the whole run."""

    name = "gpt"
    about = "small GPT: norms before attention and MLP, learned positions; a language model or a classifier"

    num_heads: Count
    vocab_size: Count
    outputs: Count | None = None
    """Number of classes that the last token tells apart; None for a language model."""
    max_tokens: Count = 128
    """How many positions are known."""

    @model_validator(mode="after")
    def _check(self) -> "GPTConfig":
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide the width {self.width}")
        return self

    def _vocab_size(self) -> int:
        return self.vocab_size

    def _num_classes(self) -> int | None:
        return self.outputs

    def _reads(self) -> Reads:
        return "token" if self.outputs is None else "run"

    def _num_heads(self) -> int:
        return self.num_heads

    def _num_neurons(self) -> int:
        return 4 * self.width

    def _num_parameters(self) -> int:
        width = self.width
        block = 4 * _linear(width, width) + _linear(width, 4 * width) + _linear(4 * width, width) + 4 * width
        head = width * self.vocab_size if self.outputs is None else _linear(width, self.outputs)
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


def config_of(name: str, options: Mapping[str, Any]) -> ZooConfig:
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
        raise ModelError(_said(name, error.errors()[0])) from None


def _said(name: str, fault: Any) -> str:
    """One of pydantic's entries in our words."""
    options = ZOO[name].model_fields
    where = f"model 'zoo:{name}'"
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"{where} has no option {key!r}; its options are {', '.join(options)}{nearest(key, options)}"
    if fault["type"] == "missing":
        needed = ", ".join(option for option, field in options.items() if field.is_required())
        return f"{where} needs the option {key!r}; it needs {needed}"
    if fault["type"] == "value_error":
        return f"{where}: {fault['ctx']['error']}"
    wanted = fault["msg"].removeprefix("Input should be ")
    return f"{where}: {key} is {fault['input']!r}; it must be {wanted}"
