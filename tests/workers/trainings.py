"""Small trainings for tests: sums of few digits, and the same network and losses in plain torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workers.causal.named import digit_sum
from workers.causal.sampling import Sampler
from workers.iit.data import Data, token_ids
from workers.iit.spec import Draw, LossTerm, Node, TorchClass, TrainSpec
from workers.iit.trainer import Trainer, TrainingState
from workers.vocabulary import ModelSpec
from workers.zoo.build import make

torch.set_num_threads(1)

VALUES = 4
PART = 4
"""Columns of a digit, and of a node."""
WIDTH = 4 * PART
MLP: Mapping[str, Any] = {
    "width": WIDTH,
    "num_layers": 3,
    "seed": 3,
    "activation": "tanh",
    "vocab_size": VALUES,
    "num_inputs": 4,
    "outputs": {"T1": {"classes": 13}, "T2": {"classes": 10, "reads": {"layer": 1, "subspace": f"0:{PART}"}}},
}
ALIGNMENT = {
    "w": Node(site="block_input", layer=0, dims=(f"0:{PART}",)),
    "x": Node(site="block_input", layer=0, dims=(f"{PART}:{2 * PART}",)),
    "S1": Node(site="block_output", layer=0, dims=(f"0:{PART}",)),
    "C1": Node(site="block_output", layer=0, dims=(f"{PART}:{2 * PART}",)),
    "S2": Node(site="block_output", layer=1, dims=(f"0:{PART}",)),
}
PLACES = {
    name: (node.site, node.layer or 0, *map(int, (node.dims or ("",))[0].split(":")))
    for name, node in ALIGNMENT.items()
}
CAUSAL = digit_sum(digits=4, values=VALUES)
TASKS = (LossTerm(kind="task", head="T1", weight=0.5), LossTerm(kind="task", head="T2"))


def swap(*variables: str, weight: float = 2.0, **more: Any) -> LossTerm:
    """An interchange of T2 that always draws these."""
    return LossTerm(kind="interchange", head="T2", weight=weight, draws=(Draw(variables),), **more)


SPEC = TrainSpec(
    model=ModelSpec(ref="zoo:mlp", options=MLP),
    alignment=ALIGNMENT,
    variables_of={"T1": "O", "T2": "S2"},
    losses=(*TASKS, swap("S1")),
    optimizer=TorchClass("SGD", {"lr": 1.0}),
    num_steps=1,
    batch_size=16,
    seed=5,
)
"""One step of plain gradient descent with rate 1: the weights change by their gradient."""


def data(num_train: int = 60) -> Data:
    train = Sampler(model=CAUSAL, seed=0, split="train").inputs(num_train)
    base, source = Sampler(model=CAUSAL, seed=1, split="test").pairs(30)
    return Data(
        causal=CAUSAL,
        train=token_ids(CAUSAL, train),
        base=token_ids(CAUSAL, base),
        source=token_ids(CAUSAL, source),
    )


DATA = data()


def trainer(spec: TrainSpec = SPEC, **more: Any) -> Trainer:
    return Trainer(replace(spec, **more), make("mlp", **MLP), DATA)


def trained(spec: TrainSpec = SPEC, **more: Any) -> dict[str, Tensor]:
    """The weights after a training."""
    made = trainer(spec, **more)
    assert made.advance()
    return {name: weight.detach().clone() for name, weight in made.module.named_parameters()}


def sent(state: TrainingState) -> TrainingState:
    """A state that was written and read."""
    return TrainingState(bytes(state.tensors), json.loads(json.dumps(state.meta)))


class ByHand(nn.Module):
    """The same network without any of our code but its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make("mlp", **MLP)

    def states(self, ids: Tensor, put: Sequence["Put"]) -> dict[Any, Tensor]:
        """All states of a run; `put` says which columns of which have other values."""
        weights = dict(self.net.named_parameters())
        found: dict[Any, Tensor] = {}
        hidden = weights["embed.weight"][ids].flatten(1)
        for layer in range(3):
            hidden = found["block_input", layer] = _with(hidden, put, "block_input", layer)
            linear = f"layers.{layer}.linear."
            hidden = torch.tanh(hidden @ weights[linear + "weight"].T + weights[linear + "bias"])
            hidden = found["block_output", layer] = _with(hidden, put, "block_output", layer)
        node = found["block_output", 1][:, :PART]
        found["T1"] = hidden @ weights["head.T1.weight"].T + weights["head.T1.bias"]
        found["T2"] = node @ weights["head.T2.weight"].T + weights["head.T2.bias"]
        return found

    def swapped(self, base: Tensor, source: Tensor, variables: tuple[str, ...], *, detach: bool) -> Tensor:
        """T2 of the bases with the places of the variables from the sources."""
        clean = self.states(source, ())
        put = []
        for site, layer, first, end in (PLACES[name] for name in variables):
            values = clean[site, layer][:, first:end]
            put.append((site, layer, first, end, values.detach() if detach else values))
        return self.states(base, put)["T2"]

    def loss(self, base: Tensor, source: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """The task terms of `TASKS`."""
        runs = {"base": self.states(base, ()), "source": self.states(source, ())}
        return sum(
            (
                weight / 2 * cross_entropy(runs[run][head], labels[f"{run}.{head}"])
                for head, weight in (("T1", 0.5), ("T2", 1.0))
                for run in runs
            ),
            start=torch.zeros(()),
        )


Put = tuple[str, int, int, int, Tensor]
"""Site, layer, the first column and the one after the last, and their values."""


def _with(hidden: Tensor, put: Sequence[Put], site: str, layer: int) -> Tensor:
    for first, end, values in (one[2:] for one in put if one[:2] == (site, layer)):
        hidden = torch.cat([hidden[:, :first], values, hidden[:, end:]], 1)
    return hidden
