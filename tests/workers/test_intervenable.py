"""Promise: the wrapper shows what the source documents show, on tiny models; it leaves the module as it was;
and swaps obey the laws that follow from what they mean."""

from typing import Any

import pytest
import torch
from tiny import tiny_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Model

from workers.errors import ModelError, RunError
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.positions import per_example
from workers.intervene.regions import Box, Coordinates
from workers.intervene.subspaces import LowRankRotation, Rotation
from workers.intervene.units import From, IntervenedRun, Mean, Noise, Unit

W = 32


def ids(seed: int, rows: int = 3, length: int = 5) -> Tensor:
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


BASE, SOURCE, SECOND = ids(0), ids(1), ids(2)


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.fixture
def model() -> Any:
    return tiny_module("gpt2")


@pytest.fixture
def net(model: Any) -> IntervenableModel:
    return IntervenableModel(model)


# Seed 000: interchange intervention training


def test_iit_trains_all_parameters_through_one_swap(model: Any) -> None:
    model.config.resid_pdrop = 0.5
    model.train()
    net = IntervenableModel(model.transformer, [Unit("mlp_activation", layer=1, position=3)])
    assert net.num_parameters(trainable=True) == 0
    net.enable_gradients()
    assert net.num_parameters(trainable=True) == sum(p.numel() for p in model.transformer.parameters())
    out = net(BASE, SOURCE, base_output=True)
    difference = (out.output.last_hidden_state - out.base.last_hidden_state).abs().amax((0, 2))
    assert difference[:3].tolist() == [0, 0, 0]
    assert (difference[3:] > 0).all()
    out.output.last_hidden_state.sum().backward()
    assert model.transformer.h[0].mlp.c_fc.weight.grad.abs().sum() > 0
    assert net.disable_gradients().num_parameters(trainable=True) == 0


def test_gpt2_small_has_this_many_parameters() -> None:
    from transformers import GPT2Config

    with torch.device("meta"):
        net = IntervenableModel(GPT2Model(GPT2Config()))
    assert net.num_parameters(trainable=True) == 0
    assert net.enable_gradients().num_parameters(trainable=True) == 124_439_808


# Seed 002: an MLP, halves of a rotation


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(W, W), nn.Tanh(), nn.Linear(W, W), nn.Tanh())
        self.score = nn.Linear(W, 2)

    def forward(self, inputs_embeds: Tensor) -> tuple[Tensor, None]:
        return self.score(self.layers(inputs_embeds)), None


@pytest.mark.parametrize("rotation", [Rotation(W), LowRankRotation(W, W)])
def test_swapping_both_halves_of_a_rotation_gives_the_sources_output(rotation: Any) -> None:
    base, source = torch.rand(10, 1, W), torch.rand(10, 1, W)
    halves = [
        Unit("layers.1", position=0, subspace=rotation[16:32], from_="source"),
        Unit("layers.1", position=0, subspace=rotation[0:16], from_="source_2"),
    ]
    net = IntervenableModel(MLP(), halves)
    out = net(base, {"source": source, "source_2": source})
    same(out.output[0], net.module(source)[0])
    assert net.num_parameters(trainable=True) == W * W
    out.output[0].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.trainable_parameters())
    one = net(base, source, units=halves[:1]).output[0]
    assert (one - net.module(source)[0]).abs().max() > 1e-3


def test_vectors_without_tokens_are_one_position() -> None:
    net, base, source = IntervenableModel(MLP()), torch.rand(4, W), torch.rand(4, W)
    for position in ("all", 0, -1):
        same(net(base, source, units=[Unit("layers", position=position)]).output[0], net.module(source)[0])


# Laws


def test_a_whole_residual_swap_gives_the_sources_output(net: IntervenableModel) -> None:
    for layer in range(3):
        same(net(BASE, SOURCE, units=[Unit("block_output", layer=layer)]).logits, net.module(SOURCE).logits)


@pytest.mark.parametrize(
    "subspace",
    [None, "0:5", Rotation(W)[2:9], LowRankRotation(W, 4), BoundlessRotation(W), Mask(W), Mask(Rotation(W))],
)
def test_a_swap_with_itself_changes_nothing(net: IntervenableModel, subspace: Any) -> None:
    for value, source in (("source", BASE), ("base", None)):
        unit = Unit("block_output", layer=1, subspace=subspace, from_=value)
        assert torch.equal(net(BASE, source, units=[unit]).logits, net.module(BASE).logits)


def test_swapping_each_part_of_a_partition_swaps_the_whole(net: IntervenableModel) -> None:
    whole = net(BASE, SOURCE, units=[Unit("mlp_output", layer=0, position=2)]).logits
    rotation = Rotation(W, parts={"a": "0:10", "b": ["10:12", "20:32"], "c": "12:20"})
    for parts in (["0:10", ["10:12", "20:32"], "12:20"], [rotation[name] for name in "abc"]):
        units = [Unit("mlp_output", layer=0, position=2, subspace=part) for part in parts]
        same(net(BASE, SOURCE, units=units).logits, whole)


def test_independent_units_commute_and_later_ones_override_earlier_ones(net: IntervenableModel) -> None:
    apart = [Unit("mlp_output", layer=1, position=1), Unit("mlp_output", layer=1, position=3, from_="zero")]
    same(net(BASE, SOURCE, units=apart).logits, net(BASE, SOURCE, units=apart[::-1]).logits)
    twice = [Unit("mlp_output", layer=1, from_="zero"), Unit("mlp_output", layer=1)]
    assert torch.equal(net(BASE, SOURCE, units=twice).logits, net(BASE, SOURCE, units=twice[1:]).logits)
    added = [Unit("mlp_output", layer=1), Unit("mlp_output", layer=1, intervention="subtract")]
    zero = Unit("mlp_output", layer=1, from_="zero")
    same(net(BASE, SOURCE, units=added).logits, net(BASE, units=[zero]).logits)


def test_batched_equals_single_and_each_example_has_its_own_place_and_part(net: IntervenableModel) -> None:
    rotation = Rotation(W)
    positions, parts = [1, [2, 4], None], ["0:7", rotation[3:9], rotation]
    noise = [
        Unit("block_output", layer=0, position=2, intervention="add", from_=Noise(0.5, 1, first))
        for first in (0, 0, 1, 2)
    ]
    unit = Unit("block_output", layer=1, position=per_example(positions), subspace=per_example(parts))
    together = net(BASE, SOURCE, units=[noise[0], unit]).logits
    for row in range(3):
        alone = Unit(
            "block_output",
            layer=1,
            position=per_example([positions[row]]),
            subspace=per_example([parts[row]]),
        )
        found = net(BASE[row : row + 1], SOURCE[row : row + 1], units=[noise[row + 1], alone]).logits
        same(found[0], together[row])


def test_noise_belongs_to_its_seed_place_and_token(net: IntervenableModel) -> None:
    def drawn(seed: int = 0, layer: int = 0, **where: Any) -> Tensor:
        unit = Unit("block_output", layer=layer, from_=Noise(2.0, seed), **where)
        look = Unit("block_output", layer=layer, intervention="collect")
        return net(BASE, units=[unit, look]).collected[0]

    whole = drawn()
    assert torch.equal(drawn(position=3)[:, 3], whole[:, 3])
    assert torch.equal(drawn(subspace="4:9")[..., 4:9], whole[..., 4:9])
    for other in (drawn(seed=1), drawn(layer=1)):
        assert (other - whole).abs().min() > 0
    embeddings = net.module.get_input_embeddings().weight
    assert (whole / embeddings.std()).std().item() == pytest.approx(2.0, rel=0.1)
    vectors = IntervenableModel(MLP())  # has no token embeddings
    look = Unit("layers", intervention="collect")
    drawn = vectors(torch.zeros(64, W), units=[Unit("layers", from_=Noise(2.0)), look]).collected[0]
    assert drawn.std().item() == pytest.approx(2.0, rel=0.1)


# Composition


def test_a_value_from_an_intervened_run_is_serial(net: IntervenableModel) -> None:
    first = Unit("mlp_output", layer=0, position=1)
    sent = IntervenedRun([first], base="base")
    units = [Unit("block_output", layer=1, from_=sent)]
    same(net(BASE, SOURCE, units=units).logits, net(BASE, SOURCE, units=[first]).logits)
    on_source = IntervenedRun([Unit("mlp_output", layer=0, position=1, from_="source_2")], base="source")
    nested = IntervenedRun([Unit("block_output", layer=1, from_=on_source)])
    found = net(
        BASE, {"source": SOURCE, "source_2": SECOND}, units=[Unit("block_output", layer=2, from_=nested)]
    )
    same(found.logits, net(SOURCE, SECOND, units=[first]).logits)


def test_mean_ablation_takes_the_mean_over_runs(net: IntervenableModel) -> None:
    look = Unit("mlp_output", layer=1, intervention="collect")
    mean = net(SOURCE, units=[look]).collected[0].mean((0, 1))
    swap = net(BASE, units=[Unit("mlp_output", layer=1, from_=mean)]).logits
    for value in (Mean(SOURCE), mean[None], mean.expand(3, -1), mean.expand(1, 5, -1)):
        same(net(BASE, units=[Unit("mlp_output", layer=1, from_=value)]).logits, swap)


def test_what_is_collected_is_what_earlier_units_left(net: IntervenableModel) -> None:
    rotation = LowRankRotation(W, 3)
    units = [
        Unit("block_output", layer=1, intervention="collect"),
        Unit("block_output", layer=1, position=2, from_="zero"),
        Unit("block_output", layer=1, position=[4, 2], intervention="collect"),
        Unit("block_output", layer=1, position=per_example([0, None, [1, 3]]), intervention="collect"),
        Unit("block_output", layer=1, intervention="collect", subspace=rotation),
    ]
    whole, some, ragged, coordinates = net(BASE, units=units).collected
    assert some.shape == (3, 2, W)
    assert some[:, 1].abs().max() == 0
    assert torch.equal(some[:, 0], whole[:, 4])
    assert [None if row is None else row.shape for row in ragged] == [(1, W), None, (2, W)]
    same(coordinates[:, 0], whole[:, 0] @ rotation.weight)


# Inputs of other forms


def test_positions_count_the_prompts_own_tokens_whatever_the_padding(net: IntervenableModel) -> None:
    short = BASE[:1, :3]
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 2, dtype=torch.long), short], 1),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1]]),
        "position_ids": torch.tensor([[0, 0, 0, 1, 2]]),
    }
    for position in (0, -1, "all", [1, 2]):
        unit = Unit("block_output", layer=1, position=position, from_=From("source", layer=0))
        alone = net(short, SOURCE[:1, :3], units=[unit]).logits
        same(net(padded, SOURCE[:1, :3], units=[unit]).logits[:, 2:], alone)
    swap = Unit("block_output", layer=1, position=-1)
    ragged = net([[5, 6, 7], [8, 9, 10, 11, 12]], SOURCE[:1], units=[swap])
    same(ragged.logits[0, :3], net([[5, 6, 7]], SOURCE[:1], units=[swap]).logits[0])


def test_one_source_example_serves_every_base(net: IntervenableModel) -> None:
    unit = Unit("block_output", layer=1, position=2)
    repeated = net(BASE, SOURCE[:1].expand(3, -1), units=[unit]).logits
    same(net(BASE, SOURCE[:1], units=[unit]).logits, repeated)
    with pytest.raises(RunError, match="2 examples for 3 of the base"):
        net(BASE, SOURCE[:2], units=[unit])


def test_the_likeliest_tokens_are_those_of_the_last_own_token(net: IntervenableModel) -> None:
    probs = net.next_token_probs([[5, 6, 7], [8, 9, 10, 11, 12]])
    same(probs[0], net.module(torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1))
    (token, p), *_ = net.top_tokens([[5, 6, 7]], k=3)
    assert token == str(probs[0].argmax().item())
    assert p == pytest.approx(probs[0].max().item())
    swap = Unit("block_output", layer=2, position=-1)
    changed = net.next_token_probs([[5, 6, 7], [8, 9, 10, 11, 12]], [[5, 6, 7]], units=[swap])
    same(changed, probs[:1].expand(2, -1))
    assert net.top_tokens([[8, 9]], [[5, 6, 7]], units=[swap], k=3)[0][0] == token


# Regions


def test_a_rectangle_and_a_getter_with_a_setter_change_what_they_name(net: IntervenableModel) -> None:
    def put(tensor: Tensor, values: Tensor) -> Tensor:
        tensor[:, 1:3, 4:9] = values  # in place: it is a copy
        return tensor

    slices = Coordinates(get=lambda tensor: tensor[:, 1:3, 4:9], set=put)
    expected = net(BASE, SOURCE, units=[Unit("block_output", layer=1, position=[1, 2], subspace="4:9")])
    net.enable_gradients()
    for coordinates in (Box[1:3, 4:9], slices):
        found = net(BASE, SOURCE, units=[Unit("transformer.h.1", coordinates=coordinates)])
        same(found.logits, expected.logits)
        found.logits.sum().backward()
    corner = Unit("transformer.h.1", coordinates=Box[0, 0], from_=From("source", coordinates=Box[1, 2]))
    look = Unit("transformer.h.1", coordinates=Box[0, 0], intervention="collect")
    source = net(
        SOURCE, units=[Unit("transformer.h.1", coordinates=Box[1, 2], intervention="collect")]
    ).collected
    same(net(BASE, SOURCE, units=[corner, look]).collected[0], source[0])


def test_a_region_takes_no_value_of_another_shape(net: IntervenableModel) -> None:
    block = {"site": "transformer.h.1", "coordinates": Coordinates(lambda t: t[:, 1:], lambda t, _: t)}
    with pytest.raises(RunError, match=r"a value of \[6, 32\] at .*, where the base has \[4, 32\]"):
        net(BASE, ids(1, length=7), units=[Unit(**block)])
    with pytest.raises(RunError, match=r"a value of \[5\] at"):
        net(BASE, units=[Unit(**block, from_=torch.zeros(5))])


# The module stays as it was


class Recomputed(nn.Module):
    """Checkpoints whatever mode it is in."""

    def __init__(self, is_reentrant: bool) -> None:
        super().__init__()
        self.one, self.is_reentrant = nn.Linear(4, 4), is_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.one, x, use_reentrant=self.is_reentrant)


def test_hooks_of_ours_go_and_hooks_of_others_stay(model: Any) -> None:
    net, calls = IntervenableModel(model), []
    model.transformer.h[1].register_forward_hook(lambda *_: calls.append(1))

    def fail(old: Tensor, new: Tensor) -> Tensor:
        raise ZeroDivisionError

    model.train()
    modes = [part.training for part in model.modules()]
    with pytest.raises(ZeroDivisionError):
        net(BASE, units=[Unit("block_output", layer=1, from_="zero", intervention=fail)])
    net(BASE, units=[Unit("block_output", layer=1, from_="zero")])
    assert len(calls) == 2
    assert [part.training for part in model.modules()] == modes
    hooks = [hook for part in model.modules() for hook in (*part._forward_hooks, *part._forward_pre_hooks)]
    assert len(hooks) == 1


def test_a_module_that_does_not_run_is_an_error(net: IntervenableModel) -> None:
    net.module.spare = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"module 'spare' did not run"):
        net(BASE, units=[Unit("spare", from_="zero")])


def test_a_call_inside_a_call_is_a_run_of_its_own(net: IntervenableModel) -> None:
    inner: list[Tensor] = []

    def look(old: Tensor, new: Tensor) -> Tensor:
        inner.append(net(BASE, units=[Unit("mlp_output", layer=1, from_="base")]).logits)
        return new

    unit = Unit("block_output", layer=1, from_="zero", intervention=look)
    outer = net(BASE, units=[unit]).logits
    assert torch.equal(inner[0], net.module(BASE).logits)
    assert torch.equal(outer, net(BASE, units=[Unit("block_output", layer=1, from_="zero")]).logits)


# Gradients


def test_gradients_reach_the_source_only_where_they_are_asked_for(net: IntervenableModel) -> None:
    embeds = {name: torch.randn(1, 5, W, requires_grad=True) for name in ("base", "source")}
    unit = Unit("block_output", layer=1, position=2)
    for asked in (False, True):
        out = net(embeds["base"], embeds["source"], units=[unit], source_gradients=asked)
        grads = torch.autograd.grad(out.logits.sum(), list(embeds.values()), allow_unused=True)
        assert grads[0].abs().sum() > 0
        assert (grads[1] is not None and bool(grads[1].abs().sum() > 0)) is asked


def test_gradients_are_those_of_the_function_written_out() -> None:
    module = MLP()
    mask = Mask(Rotation(W), temperature=0.7)
    net = IntervenableModel(module, [Unit("layers.1", subspace=mask)])
    base, source = torch.rand(3, W), torch.rand(3, W)
    net(base, source).output[0].square().sum().backward()
    found = [parameter.grad.clone() for parameter in net.trainable_parameters()]
    net.zero_grad()
    b, s = (torch.tanh(module.layers[0](x)) for x in (base, source))
    gates, r = torch.sigmoid(mask.mask / 0.7), mask.of.weight
    new = ((1 - gates) * (b @ r) + gates * (s @ r)) @ r.T
    module.score(module.layers[2:](new)).square().sum().backward()
    for one, parameter in zip(found, net.trainable_parameters(), strict=True):
        same(one, parameter.grad)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(model: Any) -> None:
    net = IntervenableModel(model, [Unit("mlp_output", layer=1, position=2)]).enable_gradients()
    gradients = []
    for is_checkpointed in (False, True):
        if is_checkpointed:
            model.gradient_checkpointing_enable()
            model.train()
        net.zero_grad()
        net(BASE, SOURCE).logits.sum().backward()
        gradients.append(model.transformer.h[0].mlp.c_fc.weight.grad.clone())
    same(*gradients)


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_a_module_that_checkpoints_itself_is_refused_and_not_run_wrongly(is_reentrant: bool) -> None:
    net, base = IntervenableModel(Recomputed(is_reentrant)), torch.rand(3, 4, requires_grad=True)
    unit = Unit("one", from_="zero")
    with pytest.raises(ModelError, match="one:output lies inside gradient checkpointing"):
        net(base, units=[unit])
    with torch.no_grad():
        net(base, units=[unit])
