"""Examples that tests of fits share."""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from tests.workers.zoo import vectors
from workers.engine.replay.probe import probed
from workers.fits.fitted import Example, FitSpec
from workers.model.loading import LoadedModel, load
from workers.model.references import resolve
from workers.vocabulary import ModelSpec, Pair, Vectors

DAS = FitSpec(
    method="das",
    site="block_output",
    layer=0,
    rank=1,
    num_steps=200,
    batch_size=32,
    lr=0.02,
    of="source",
    seed=0,
)


@cache
def classifier(width: int = 16) -> LoadedModel:
    """An MLP whose answer lies in one direction of its last layer: that in which its head's rows differ."""
    options = {"width": width, "num_layers": 1, "outputs": 2, "seed": 3, "activation": "tanh"}
    spec = ModelSpec(ref="zoo:mlp", options=options, device="cpu")
    model = probed(load(spec, resolve(spec)))
    model.module.head.weight.data *= 50  # so that the answer is worth finding
    return model


def planted(model: LoadedModel) -> Tensor:
    """The direction [W], of length 1."""
    head = model.module.head.weight
    return (head[1] - head[0]) / (head[1] - head[0]).norm()


def hidden(model: LoadedModel, inputs: Tensor) -> Tensor:
    """What the last layer holds [B, W] for vectors [B, 1, W], reckoned by hand."""
    layer = model.module.layers[0]
    return torch.tanh(inputs[:, 0] @ layer.linear.weight.T + layer.linear.bias)


def interchanges(model: LoadedModel, num: int, seed: int) -> list[Example]:
    """Random pairs; the label is the class that the model gives the source."""
    width = model.facts.width
    base, source = vectors(num, 1, width, seed=2 * seed), vectors(num, 1, width, seed=2 * seed + 1)
    labels = (hidden(model, source) @ planted(model) + _bias(model) > 0).long().tolist()
    return [
        Example(
            Pair(number, {"base": as_vectors(b), "source": as_vectors(s)}, {}, (label,), (1 - label,)),
            {"base": (0,), "source": (0,)},
            0,
        )
        for number, (b, s, label) in enumerate(zip(base, source, labels, strict=True))
    ]


def as_vectors(run: Tensor) -> Vectors:
    return Vectors.of(run.tolist())


def with_classes(examples: list[Example], base: str, source: str) -> list[Example]:
    return [replace(example, classes=(base, source)) for example in examples]


def _bias(model: LoadedModel) -> Tensor:
    head = model.module.head
    return (head.bias[1] - head.bias[0]) / (head.weight[1] - head.weight[0]).norm()
