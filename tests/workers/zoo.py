"""Built-in models for tests, loaded as workers load them, and pairs of vectors for them."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel, load
from workers.model.references import resolve
from workers.vocabulary import ModelSpec, Pair, Vectors

torch.set_num_threads(1)

MLP = {"width": 8, "num_layers": 2, "outputs": 3, "seed": 0, "activation": "tanh"}
GRU = {"width": 4, "num_layers": 2, "outputs": 3, "seed": 0}
GPT = {"width": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 61, "seed": 0}
OPTIONS: dict[str, dict[str, Any]] = {"zoo:mlp": MLP, "zoo:gru": GRU, "zoo:gpt": GPT}


@cache
def zoo(ref: str, **more: Any) -> LoadedModel:
    """A built-in model, made once for all tests: leave it as it is."""
    spec = ModelSpec(ref=ref, options=OPTIONS[ref] | more, device="cpu")
    return probed(load(spec, resolve(spec)))


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 4 - 2


def as_prompt(run: Tensor) -> Vectors:
    """Vectors [T, E] as what a capture is known by."""
    return Vectors.of(run.tolist())


def vector_pairs(base: Tensor, source: Tensor) -> list[Pair]:
    """A pair for each row of [P, T, E] and [P, T, E]; class 1 is expected, class 0 is the base's."""
    return [
        Pair(number, {"base": as_prompt(one), "source": as_prompt(other)}, {}, (1,), (0,))
        for number, (one, other) in enumerate(zip(base, source, strict=True))
    ]
