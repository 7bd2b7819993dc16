"""Promise: a training that was stopped and went on elsewhere ends as if it had not been, to the last bit."""

import random
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.workers.trainings import DATA, MLP, SPEC, TASKS, sent, trainer
from workers.errors import StoreError
from workers.iit.spec import Draw, LossTerm, TorchClass
from workers.iit.trainer import Trainer
from workers.zoo.build import make

DRAWN = (Draw(("S1",), 2.0), Draw(("w",)), Draw(("S1", "C1")))
LONG: dict[str, Any] = {
    "losses": (*TASKS, LossTerm(kind="interchange", head="T2", draws=DRAWN, delay=3, warmup=5)),
    "schedule": TorchClass("OneCycleLR", {"max_lr": 0.02}),
    "num_steps": 200,
    "l1": 1e-5,
    "measure_every": 7,
}
ADAMW = TorchClass("AdamW", {"lr": 0.02})
OPTIMIZERS = [ADAMW, TorchClass("SGD", {"lr": 0.02, "momentum": 0.9}), TorchClass("Adagrad", {"lr": 0.01})]


def long(optimizer: TorchClass = ADAMW, **more: Any) -> Trainer:
    return trainer(optimizer=optimizer, **LONG | more)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: one.name)
def test_in_pieces_in_fresh_objects_it_ends_equal_to_the_last_bit(optimizer: TorchClass) -> None:
    more = {} if optimizer.name == "AdamW" else {"schedule": TorchClass("CosineAnnealingLR")}
    whole = long(optimizer, **more)
    assert whole.advance()
    random.seed(7)
    made, num_resumed = long(optimizer, **more), 0
    while not made.advance(num_steps=random.randint(1, 60)):
        state = sent(made.state())
        made.advance(num_steps=2)  # lost, as after a kill
        made, num_resumed = long(optimizer, **more), num_resumed + 1
        made.load(state)
    pairs = zip(whole.module.parameters(), made.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert made.curve == whole.curve
    assert (made.num_executed, made.num_resumed) == (200, num_resumed)
    assert num_resumed > 2


def test_the_random_state_is_neither_used_nor_changed() -> None:
    before = torch.get_rng_state()
    first = long(num_steps=5)
    first.advance()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)
    second = long(num_steps=5)
    second.advance()
    torch.set_rng_state(before)
    assert first.result().weights == second.result().weights


def test_another_seed_is_another_training() -> None:
    made = [long(num_steps=3, seed=seed) for seed in (0, 1)]
    for one in made:
        one.advance()
    assert made[0].result().weights != made[1].result().weights


def test_it_stops_when_the_time_is_over_after_one_step_at_least() -> None:
    made = long()
    assert not made.advance(seconds=0.0)
    assert made.step == 1


def test_a_state_of_another_training_and_a_damaged_one_are_refused() -> None:
    made = long()
    made.advance(num_steps=1)
    state = sent(made.state())
    with pytest.raises(StoreError, match="that of another training; resume with the spec"):
        long(seed=1).load(state)
    with pytest.raises(StoreError, match="cannot be read"):
        long().load(type(state)(state.tensors[:-9], state.meta))


def test_the_result_is_the_network_with_what_it_is_made_of_and_a_report() -> None:
    made = long(num_steps=4)
    made.advance()
    done = made.result()
    again = make("mlp", **done.config["options"])
    again.load_state_dict(safetensors.torch.load(done.weights))
    ids = DATA.train.given["input_ids"]
    assert torch.equal(again(ids).logits, made.module(ids).logits)
    assert done.report["num_steps"] == 4
    assert {"task_accuracy", "interchange_accuracy"} < {one["metric"] for one in done.report["measures"]}
    assert done.config == {"ref": "zoo:mlp", "options": dict(MLP)}


def test_a_curve_has_losses_and_tests_of_every_output_and_alignment() -> None:
    made = long(num_steps=8, measure_every=None)
    made.advance()
    assert sorted({one.step for one in made.curve}) == [0, 4, 8]
    assert {one.epoch for one in made.curve if one.step == 4} == {1}
    last = [one for one in made.curve if one.step == 8 and one.split == "test"]
    swapped = {(one.head, one.variable) for one in last if one.metric == "interchange_accuracy"}
    assert swapped == {(head, name) for head in ("T1", "T2") for name in (*SPEC.alignment, "S1+C1")}
    errors = [one for one in last if one.metric == "task_errors" and one.head == "T1"]
    accuracy = next(one.value for one in last if one.metric == "task_accuracy" and one.head == "T1")
    right = sum(one.value for one in errors if one.error == 0)
    assert sum(one.value for one in errors) == len(DATA.base)
    assert right / len(DATA.base) == pytest.approx(accuracy)
