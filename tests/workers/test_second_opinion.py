"""Promise: where pyvene 0.1.8 is right, it and this wrapper agree on the logits to 1e-5.

A fresh model for each case, since pyvene remembers the form of its first location; positions as lists, since
it reads ``[1, 4]`` as from 1 to 4. Not compared, because pyvene is wrong there: different subspaces in one
batch, time steps of a GRU, attention weights of GPT-2, models whose head width is not width / heads.

It needs an environment of its own: this project's dependencies, and ``pip install pyvene==0.1.8``; run it
with ``HF_HUB_OFFLINE=1``, or pyvene looks for a hub.
"""

from typing import Any

import pytest
import torch
from tiny import tiny_module
from torch import Tensor

from workers.intervene.intervenable import IntervenableModel
from workers.intervene.masks import BoundlessRotation
from workers.intervene.subspaces import Directions, LowRankRotation, Rotation
from workers.intervene.units import From, Unit

pyvene: Any = pytest.importorskip("pyvene", reason="a second opinion needs pyvene 0.1.8")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

W, LAYER = 32, 1
FAMILIES = ("gpt2", "llama", "mistral")
SITES = ("block_input", "block_output", "mlp_output", "attention_output", "attention_value_output")
PROJECTED = ("query_output", "key_output", "value_output")
POSITIONS = ([2], [4], [0, 3], [0, 1, 2, 3, 4])


def ids(seed: int) -> Tensor:
    return torch.randint(3, 61, (3, 5), generator=torch.Generator().manual_seed(seed))


BASE, SOURCE = ids(0), ids(1)


def asked(
    family: str, site: str, to: list[int], at: list[int], kind: Any, weight: Tensor | None = None, **more: Any
) -> Tensor:
    """The logits that pyvene gives, from a model made anew; `more` goes to its configuration."""
    part = more.pop("part", None)
    given = {"layer": LAYER, "component": site, "unit": "pos", "intervention_type": kind, **more}
    net = pyvene.IntervenableModel(pyvene.IntervenableConfig([given]), tiny_module(family))
    (intervention,) = net.interventions.values()
    if weight is not None:
        intervention.rotate_layer.weight = weight.detach()
    if kind is pyvene.BoundlessRotatedSpaceIntervention:
        intervention.set_intervention_boundaries(0.4)
        intervention.set_temperature(torch.tensor(3.0))
    where = {"sources->base": ([[at] * len(BASE)], [[to] * len(BASE)])}
    subspaces = None if part is None else [[[part]] * len(BASE)]
    return net({"input_ids": BASE}, [{"input_ids": SOURCE}], where, subspaces=subspaces)[1].logits


def agree(family: str, unit: Unit, theirs: Tensor) -> None:
    net = IntervenableModel(tiny_module(family))
    with torch.no_grad():
        ours = net(BASE, SOURCE, units=[unit]).logits
        assert (ours - net.module(BASE).logits).abs().max() > 0.1, "the swap shows"
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", [*SITES, *PROJECTED])
def test_vanilla_swaps_agree(family: str, site: str) -> None:
    for to in POSITIONS:
        unit = Unit(site, layer=LAYER, position=to)
        agree(family, unit, asked(family, site, to, to, pyvene.VanillaIntervention))
    elsewhere = Unit(site, layer=LAYER, position=[1, 4], from_=From("source", position=[3, 0]))
    agree(family, elsewhere, asked(family, site, [1, 4], [3, 0], pyvene.VanillaIntervention))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", SITES)
def test_rotated_swaps_agree(family: str, site: str) -> None:
    rotation, low_rank = Rotation(W, seed=1), LowRankRotation(W, 5, seed=2)
    boundless = BoundlessRotation(W, boundary=0.4, temperature=3.0, seed=3)
    halves = {"subspace_partition": [[0, 10], [10, 32]], "part": 1}
    cases: list[tuple[Any, Directions, Any, dict[str, Any]]] = [
        (rotation, rotation, pyvene.RotatedSpaceIntervention, {}),
        (rotation[10:32], rotation, pyvene.RotatedSpaceIntervention, halves),
        (low_rank, low_rank, pyvene.LowRankRotatedSpaceIntervention, {"low_rank_dimension": 5}),
        (boundless, boundless, pyvene.BoundlessRotatedSpaceIntervention, {}),
    ]
    for subspace, learned, kind, more in cases:
        for to in ([2], [4]):  # of several positions at once pyvene makes one long vector
            unit = Unit(site, layer=LAYER, position=to, subspace=subspace)
            agree(family, unit, asked(family, site, to, to, kind, learned.weight, **more))


@pytest.mark.parametrize("family", FAMILIES)
def test_additions_subtractions_and_zeros_agree(family: str) -> None:
    for intervention, kind in (
        ("add", pyvene.AdditionIntervention),
        ("subtract", pyvene.SubtractionIntervention),
    ):
        unit = Unit("block_output", layer=LAYER, position=[1, 2], intervention=intervention)
        agree(family, unit, asked(family, "block_output", [1, 2], [1, 2], kind))
    zero = Unit("mlp_output", layer=LAYER, position=2, from_="zero")
    agree(family, zero, asked(family, "mlp_output", [2], [2], pyvene.ZeroIntervention))
