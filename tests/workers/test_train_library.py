"""Promise: a language model of the transformers library is trained and resumed as a built-in one is."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.workers.tiny import tiny_module
from tests.workers.trainings import CAUSAL, DATA, sent, swap
from workers.iit.spec import LossTerm, Node, TorchClass, TrainSpec
from workers.iit.trainer import Trainer
from workers.vocabulary import ModelSpec

WORDS = {name: [20 + number for number in range(len(CAUSAL.domain(name)))] for name in ("O", "S2")}
"""The token of each value; tokens 0 to 3 are the digits."""
SPEC = TrainSpec(
    model=ModelSpec(ref="tiny"),
    alignment={"S1": Node(site="block_output", layer=1, position=1)},
    variables_of={"logits": "O"},
    losses=(LossTerm(kind="task", head="logits"), replace(swap("S1", weight=1.0), head="logits")),
    optimizer=TorchClass("AdamW", {"lr": 3e-3}),
    schedule=TorchClass("OneCycleLR", {"max_lr": 3e-3}),
    num_steps=60,
    batch_size=16,
    seed=0,
    measure_every=20,
)


def trainer(family: str) -> Trainer:
    return Trainer(SPEC, tiny_module(family), replace(DATA, classes=WORDS))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_its_losses_fall_and_it_is_resumed_to_the_last_bit(family: str) -> None:
    whole = trainer(family)
    whole.advance()
    for metric in ("task_loss", "interchange_loss"):
        losses: list[Any] = [one.value for one in whole.curve if (one.split, one.metric) == ("train", metric)]
        assert losses[-1] < losses[0] - 0.5
    first, second = trainer(family), trainer(family)
    first.advance(num_steps=23)
    second.load(sent(first.state()))
    second.advance()
    pairs = zip(whole.module.parameters(), second.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert second.curve == whole.curve
    json.dumps(whole.result().config)
