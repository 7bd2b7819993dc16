"""Promise: a training step is that of the paper: task loss on base and source, loss after an interchange, and
gradients through the base and through the source, at whichever places; weights, delays and L1 as written."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.workers.trainings import ALIGNMENT, DATA, SPEC, TASKS, ByHand, swap, trained, trainer
from workers.errors import DivergedError
from workers.iit.losses import AlignedNetwork, chosen, order
from workers.iit.spec import Draw, LossTerm, Node, TorchClass
from workers.zoo.build import make


def by_hand(
    variables: tuple[str, ...], *, weight: float = 2.0, detach: bool = False
) -> tuple[Tensor, Tensor, ByHand]:
    """Loss and interchange loss of the first batch in plain torch, and the network with its gradients."""
    net = ByHand()
    num = len(DATA.train)
    values, ids = DATA.train.values, DATA.train.given["input_ids"]
    rows = {run: order(SPEC.seed, run, 0, num)[: SPEC.batch_size] for run in ("base", "source")}
    w, x, y = (values[rows["base"], at] for at in range(3))
    held = dict(zip("wxyz", (values[rows["source"], at] for at in range(4)), strict=True))
    labels = {}
    for run, some in rows.items():
        labels[f"{run}.T1"] = torch.tensor(values[some].sum(1))
        labels[f"{run}.T2"] = torch.tensor(values[some][:, :3].sum(1))
    s1 = held["w"] + held["x"] if "S1" in variables else (held["w"] if "w" in variables else w) + x
    s2 = s1 + (held["y"] if "C1" in variables else y)
    label = torch.tensor(np.where("S2" in variables, held["w"] + held["x"] + held["y"], s2))
    base, source = ids[rows["base"]], ids[rows["source"]]
    interchange = cross_entropy(net.swapped(base, source, variables, detach=detach), label)
    loss = net.loss(base, source, labels) + weight * interchange
    loss.backward()
    return loss.detach(), interchange.detach(), net


def change(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: before[name].detach() - after[name] for name in before}


@pytest.mark.parametrize("variables", [("w",), ("S1",), ("C1",), ("S2",), ("S1", "C1")])
def test_a_step_is_that_of_plain_torch(variables: tuple[str, ...]) -> None:
    loss, interchange, net = by_hand(variables)
    made = trainer(losses=(*TASKS, swap(*variables)))
    made.advance()
    said = {one.metric + one.head: one.value for one in made.curve if one.split == "train"}
    assert said["interchange_lossT2"] == pytest.approx(float(interchange), abs=1e-6)
    total = 0.5 * said["task_lossT1"] + said["task_lossT2"] + 2.0 * said["interchange_lossT2"]
    assert total == pytest.approx(float(loss), abs=1e-6)
    weights = dict(net.net.named_parameters())
    moved = change(weights, dict(made.module.named_parameters()))
    for name, weight in weights.items():
        torch.testing.assert_close(moved[name].detach(), weight.grad, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_source_and_not_only_the_base() -> None:
    gradients = [by_hand(("S1",), detach=detach)[2].net.embed.weight.grad for detach in (False, True)]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3
    weights = dict(make("mlp", **SPEC.model.options).named_parameters())
    moved = change(weights, trained())["embed.weight"]
    assert (moved - gradients[0]).abs().max() < 1e-5


def test_the_control_is_the_training_without_that_loss() -> None:
    control = trained(losses=(*TASKS, swap("S1", weight=0.0)), num_steps=10)
    plain = trained(losses=TASKS, num_steps=10)
    assert all(torch.equal(control[name], plain[name]) for name in plain)
    assert any(not torch.equal(control[name], one) for name, one in trained(num_steps=10).items())


def test_a_delay_and_a_warm_up_count_epochs() -> None:
    assert [swap("S1", delay=1, warmup=4).weight_at(epoch) for epoch in range(7)] == [0, 0.5, 1, 1.5, 2, 2, 2]
    assert [swap("S1", delay=2).weight_at(epoch) for epoch in range(4)] == [0, 0, 2, 2]
    made = trainer(losses=(*TASKS, swap("S1", delay=1)))
    of_epoch, same = made.steps_per_epoch, trained(losses=TASKS, num_steps=made.steps_per_epoch)
    late = trained(losses=(*TASKS, swap("S1", delay=1)), num_steps=of_epoch)
    assert all(torch.equal(late[name], one) for name, one in same.items())
    later = trained(losses=(*TASKS, swap("S1", delay=1)), num_steps=of_epoch + 1)
    other = trained(losses=TASKS, num_steps=of_epoch + 1)
    assert any(not torch.equal(later[name], one) for name, one in other.items())


def test_l1_adds_the_sign_of_each_weight_to_its_gradient() -> None:
    before, plain, with_l1 = (
        dict(make("mlp", **SPEC.model.options).named_parameters()),
        trained(),
        trained(l1=0.01),
    )
    for name, weight in before.items():
        torch.testing.assert_close(
            plain[name] - with_l1[name], 0.01 * weight.detach().sign(), rtol=0, atol=1e-6
        )


def test_the_schedule_is_stepped_after_each_step() -> None:
    stopped = TorchClass("StepLR", {"step_size": 2, "gamma": 0.0})
    ends = [trained(schedule=stopped, num_steps=num) for num in (1, 2, 6)]
    assert not torch.equal(ends[0]["embed.weight"], ends[1]["embed.weight"])
    assert all(torch.equal(ends[1][name], one) for name, one in ends[2].items())


def test_draws_come_as_often_as_they_weigh_and_all_of_them_are_trained() -> None:
    drawn = [chosen(0, "draw", step, (2.0, 1.0, 1.0)) for step in range(4000)]
    shares = [drawn.count(number) / len(drawn) for number in range(3)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    draws = (Draw(("S1",), 2.0), Draw(("w",)), Draw(("S1", "C1")))
    made = trainer(
        losses=(LossTerm(kind="interchange", head="T2", draws=draws),), num_steps=20, measure_every=20
    )
    made.advance()
    assert {one.variable for one in made.curve if one.split == "train"} == {"S1", "w", "S1+C1"}


def test_a_loss_that_is_no_number_is_an_error_with_its_step_and_the_curve_stays() -> None:
    made = trainer(optimizer=TorchClass("SGD", {"lr": 1e38}), num_steps=50, measure_every=1)
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) after \d+ steps; take a smaller lr"
    ) as caught:
        made.advance()
    assert caught.value.step == made.step < 50
    assert {one.step for one in made.curve} >= {0}


def test_an_interchange_at_a_layer_and_a_token_of_a_transformer_happens_and_reaches_the_source() -> None:
    gpt = make("gpt", width=16, num_layers=3, num_heads=2, vocab_size=10, outputs=7, seed=0)
    network = AlignedNetwork(gpt, {"S": Node(site="block_output", layer=1, position=1)}, ("logits",))
    base = {"input_ids": torch.tensor([[0, 1, 2], [2, 1, 0]])}
    source = {"input_ids": torch.tensor([[5, 6, 9], [7, 8, 9]])}
    ran = network.interchange(base, source, ("S",))
    assert (ran.swapped["logits"] - ran.base["logits"]).abs().min() > 1e-6
    ran.swapped["logits"].square().sum().backward()
    reached = gpt.embed.weight.grad.abs().sum(1)  # type: ignore[union-attr]
    assert (reached[[0, 2, 5, 6, 7, 8]] > 0).all(), "all but what only the last source token could bring"
    assert reached[9] == reached[3] == reached[4] == 0


def test_of_places_at_once_all_are_interchanged() -> None:
    network = AlignedNetwork(make("mlp", **SPEC.model.options), ALIGNMENT, ("T2",))
    base, source = (DATA.train.rows(np.arange(start, start + 8)) for start in (0, 8))
    both = network.swapped(base, source, ("S1", "C1"))["T2"]
    assert not torch.equal(both, network.swapped(base, source, ("S1",))["T2"])
    assert torch.equal(network.swapped(base, base, ("S1", "C1"))["T2"], network.run(base)["T2"])
    assert replace(SPEC, losses=(swap("S1", "C1"),)).draws[-1].name == "S1+C1"
