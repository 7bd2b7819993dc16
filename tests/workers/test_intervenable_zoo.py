"""Promise: the built-in models show in the wrapper what seeds 002 and 003 show: halves of a rotation make the
source's output, and time steps have real recurrent semantics."""

import plain_gru
import pytest
import torch
from torch import Tensor, nn

from workers.intervene.intervenable import IntervenableModel
from workers.intervene.positions import per_example
from workers.intervene.subspaces import LowRankRotation, Rotation
from workers.intervene.units import From, Unit

WIDTH = 2


def vectors(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 4 - 2


BASE, SOURCE = vectors(0, 3, 10, WIDTH), vectors(1, 3, 10, WIDTH)
TORCH_GRU = nn.GRU(WIDTH, WIDTH, num_layers=2, batch_first=True)


@pytest.fixture
def net() -> IntervenableModel:
    net = IntervenableModel.load("zoo:gru", width=WIDTH, num_layers=2, outputs=2, seed=0)
    net.module.copy_weights(TORCH_GRU)
    return net


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def by_hand(net: IntervenableModel, site: str, layer: int, steps: list[dict[int, int]]) -> Tensor:
    """The logits [B, C] of a loop written out, in which each example swaps its own steps."""
    states = [
        plain_gru.swapped(TORCH_GRU, base, source, site, layer, own)[-1]
        for base, source, own in zip(BASE, SOURCE, steps, strict=True)
    ]
    return net.module.head(torch.stack(states))


@pytest.mark.parametrize("site", plain_gru.SITES)
def test_a_step_that_is_not_swapped_keeps_its_own_state(net: IntervenableModel, site: str) -> None:
    unit = Unit(site, layer=0, position=[0, 2, 4], from_=From("source", position=[0, 5, 7]))
    found = net(BASE, SOURCE, units=[unit]).logits[:, 0]
    same(found, by_hand(net, site, 0, [{0: 0, 2: 5, 4: 7}] * 3))
    ragged = Unit(
        site,
        layer=0,
        position=per_example([[-1, 3], None, 2]),
        from_=From("source", position=per_example([[1, 2], None, 9])),
    )
    found = net(BASE, SOURCE, units=[ragged]).logits[:, 0]
    same(found, by_hand(net, site, 0, [{9: 1, 3: 2}, {}, {2: 9}]))


@pytest.mark.parametrize(("several", "last"), [([0, 2, 4], 4), ([0, 2], 2)])
def test_the_last_state_that_is_swapped_overrides_earlier_ones(several: list[int], last: int) -> None:
    origins = {0: 0, 2: 5, 4: 7}
    net = IntervenableModel.load("zoo:gru", width=WIDTH, num_layers=1, outputs=2, seed=0)
    every = Unit(
        "cell_output",
        layer=0,
        position=several,
        from_=From("source", position=[origins[step] for step in several]),
    )
    alone = Unit("cell_output", layer=0, position=last, from_=From("source", position=origins[last]))
    one, other = (net(BASE, SOURCE, units=[unit]).logits for unit in (every, alone))
    same(one, other)
    assert one.abs().min() > 0
    assert (one - net(BASE).logits).abs().max() > 1e-4


def test_two_halves_of_one_step_are_the_whole_and_gradients_go_through_time(net: IntervenableModel) -> None:
    rotation = LowRankRotation(WIDTH, WIDTH)
    halves = [
        Unit("cell_output", layer=1, position=3, subspace=rotation[0:1], from_="source"),
        Unit("cell_output", layer=1, position=3, subspace=rotation[1:2], from_="source_2"),
    ]
    net = IntervenableModel(net.module, halves)
    base = BASE.clone().requires_grad_()
    logits = net(base, {"source": SOURCE, "source_2": SOURCE}).logits
    torch.testing.assert_close(
        logits[:, 0], by_hand(net, "cell_output", 1, [{3: 3}] * 3), atol=1e-5, rtol=1e-5
    )
    # From one source the rotation would not matter, and its gradient would be 0.
    net(base, {"source": SOURCE, "source_2": SOURCE + 1}).logits.square().sum().backward()
    assert net.trainable_parameters()[0].grad.abs().sum() > 1e-3
    assert base.grad[:, 4:].abs().sum() > 0


def test_both_halves_of_the_mlp_from_two_sources_give_the_sources_output() -> None:
    rotation = Rotation(32, seed=0)
    halves = [
        Unit("block_output", layer=0, position=0, subspace=rotation[16:32]),
        Unit("block_output", layer=0, position=0, subspace=rotation[0:16], from_="source_2"),
    ]
    net = IntervenableModel.load("zoo:mlp", halves, width=32, num_layers=1, outputs=2, seed=0)
    base, source = vectors(2, 10, 1, 32), vectors(3, 10, 1, 32)
    found = net(base, {"source": source, "source_2": source}).logits
    torch.testing.assert_close(found, net(source, units=()).logits, atol=1e-5, rtol=1e-5)
    assert net.num_parameters(trainable=True) == 32 * 32
