"""Data of a training: inputs of a causal model beside the network's inputs for them, and their labels.

Shapes: N examples, I inputs of the causal model, T tokens, E width of a token's vector, B rows of a batch.
"""

__all__ = ["CausalLabels", "Data", "Examples", "one_hot", "token_ids"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.causal.model import CausalModel, Values
from workers.errors import RunError
from workers.vocabulary import Prompt, Vectors

Rows = NDArray[np.intp] | slice


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs of a causal model, each beside the network's inputs for it."""

    values: NDArray[np.int64]
    """[N, I]."""
    given: Mapping[str, Tensor]
    """The arguments of the network's forward, a row for each example."""

    def __post_init__(self) -> None:
        sizes = {len(self.values), *map(len, self.given.values())}
        if len(sizes) > 1 or not len(self.values) or not self.given:
            raise RunError(f"examples of {sorted(sizes)} rows; give one row of each for every example")

    @classmethod
    def of_prompts(cls, prompts: Sequence[Prompt], values: NDArray[np.int64]) -> Self:
        """From token ids or vectors, all of one shape.

        Raises:
            RunError: they differ in kind or in shape.
        """
        shapes = {(type(prompt).__name__, getattr(prompt, "shape", len(prompt))) for prompt in prompts}
        if len(shapes) != 1:
            raise RunError(f"inputs of {len(shapes)} shapes; a training takes inputs of one length")
        vectors = [prompt for prompt in prompts if isinstance(prompt, Vectors)]
        if not vectors:
            return cls(values, {"input_ids": torch.tensor(prompts)})
        numbers = np.frombuffer(b"".join(vector.data for vector in vectors), "<f4").astype(np.float32)
        return cls(values, {"inputs_embeds": torch.from_numpy(numbers.reshape(-1, *vectors[0].shape))})

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, rows: Rows) -> dict[str, Tensor]:
        """Network inputs of some of them."""
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return {name: tensor[chosen] for name, tensor in self.given.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Examples that a network is trained on, and pairs that it is measured on.

    Raises:
        RunError: an input that is tested is trained on, or there is not one source for each base.
    """

    causal: CausalModel
    train: Examples
    """The bases of each epoch, in an order of its own, with these as sources in another order."""
    base: Examples
    """Bases of the test pairs; none of them is trained on."""
    source: Examples
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Class of each value, of a variable whose values are not numbered in the order of its domain, such as
    token ids of a language model."""

    def __post_init__(self) -> None:
        if len(self.base) != len(self.source):
            raise RunError(f"{len(self.source)} sources for {len(self.base)} bases; give one for each")
        trained = set(map(bytes, np.ascontiguousarray(self.train.values)))
        tested = np.concatenate([self.base.values, self.source.values])
        shared = next((row for row in tested if row.tobytes() in trained), None)
        if shared is not None:
            raise RunError(
                f"the input {shared.tolist()} is trained on and tested; draw tests from the split 'test'"
            )


@dataclass(frozen=True, slots=True)
class CausalLabels:
    """Classes that a causal model gives its variables, as they are and after interchanges."""

    data: Data
    _ran: dict[int, Values] = field(default_factory=dict)
    _domains: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def clean(self, variable: str, examples: Examples, rows: Rows) -> Tensor:
        """The class of a variable in some examples [B]."""
        return self._classes(variable, self._run(examples)[variable][rows])

    def swapped(
        self,
        variable: str,
        swap: Sequence[str],
        base: tuple[Examples, Rows],
        source: tuple[Examples, Rows],
    ) -> Tensor:
        """The class of a variable [B] in bases that have the variables `swap` from sources."""
        (bases, rows), (sources, source_rows) = base, source
        held = {name: self._run(sources)[name][source_rows] for name in swap}
        return self._classes(variable, self.data.causal.run(bases.values[rows], held)[variable])

    def values(self, variable: str, classes: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The values that classes stand for; None where they are not numbered in order."""
        if variable in self.data.classes:
            return None
        domain = self._domain(variable)
        return domain[np.minimum(classes, len(domain) - 1)]

    def _run(self, examples: Examples) -> Values:
        if id(examples) not in self._ran:
            self._ran[id(examples)] = self.data.causal.run(examples.values)
        return self._ran[id(examples)]

    def _classes(self, variable: str, values: NDArray[np.int64]) -> Tensor:
        numbers = np.searchsorted(self._domain(variable), values)
        if variable in self.data.classes:
            numbers = np.asarray(self.data.classes[variable], np.int64)[numbers]
        return torch.from_numpy(np.ascontiguousarray(numbers, np.int64))

    def _domain(self, variable: str) -> NDArray[np.int64]:
        if variable not in self._domains:
            self._domains[variable] = self.data.causal.domain(variable)
        return self._domains[variable]


def token_ids(causal: CausalModel, inputs: Values) -> Examples:
    """Inputs as a token each: the number of its value in its domain [N, T]."""
    return Examples(_stacked(causal, inputs), {"input_ids": torch.from_numpy(_numbers(causal, inputs))})


def one_hot(causal: CausalModel, inputs: Values) -> Examples:
    """Inputs as a vector each [N, T, E], 1 at the number of its value, as wide as the largest domain."""
    width = max(len(causal.domain(name)) for name in causal.inputs)
    vectors = torch.nn.functional.one_hot(torch.from_numpy(_numbers(causal, inputs)), width).float()
    return Examples(_stacked(causal, inputs), {"inputs_embeds": vectors})


def _numbers(causal: CausalModel, inputs: Values) -> NDArray[np.int64]:
    columns = [np.searchsorted(causal.domain(name), inputs[name]) for name in causal.inputs]
    return np.stack(columns, -1).astype(np.int64)


def _stacked(causal: CausalModel, inputs: Values) -> NDArray[np.int64]:
    return np.stack([inputs[name] for name in causal.inputs], -1)
