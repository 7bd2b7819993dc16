"""Promise: a unit that does the same in every example is done at once, and gives what it gives one by one."""

from typing import Any

import pytest
import torch

from workers.intervene.intervenable import IntervenableModel
from workers.intervene.positions import per_example
from workers.intervene.units import From, Unit
from workers.zoo.build import make

BASE, SOURCE = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]]), torch.tensor([[4, 4, 5, 6], [5, 6, 6, 4]])
GPT = make("gpt", width=8, num_layers=2, num_heads=2, vocab_size=7, seed=0)
GRU = make("gru", width=8, num_layers=2, vocab_size=7, outputs=3, seed=0)


@pytest.mark.parametrize("source", [SOURCE, SOURCE[:1]], ids=["as-many", "one"])
@pytest.mark.parametrize(
    ("module", "site", "more"),
    [
        (GPT, "block_output", {"position": 1}),
        (GPT, "block_output", {"position": [3, 0], "subspace": ["0:2", "5:8"]}),
        (GPT, "attention_value_output", {"position": -1, "head": [1], "intervention": "add"}),
        (GPT, "block_output", {"position": "all"}),
        (GRU, "cell_output", {"position": [0, 2]}),
    ],
)
def test_at_once_is_as_one_by_one(module: Any, site: str, more: dict[str, Any], source: torch.Tensor) -> None:
    net = IntervenableModel(module).enable_gradients()
    position = more.pop("position") if "position" in more else 0
    found = []
    for form in (position, per_example([position, position])):
        unit = Unit(site, layer=0, position=form, **more)
        logits = net(BASE, source, units=[unit], source_gradients=True).logits
        module.zero_grad()
        logits.square().sum().backward()
        found.append((logits.detach(), module.embed.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert (found[0][0] - net(BASE, units=[]).logits).abs().max() > 1e-4


def test_other_positions_of_the_source_and_later_units_override() -> None:
    net = IntervenableModel(GPT)
    moved = Unit("block_output", layer=0, position=[0, 2], from_=From("source", position=[3, 1]))
    back = Unit("block_output", layer=0, position=[0, 2], from_="base")
    one_by_one = Unit(
        "block_output",
        layer=0,
        position=per_example([[0, 2]] * 2),
        from_=From("source", position=per_example([[3, 1]] * 2)),
    )
    torch.testing.assert_close(
        net(BASE, SOURCE, units=[moved]).logits, net(BASE, SOURCE, units=[one_by_one]).logits
    )
    assert torch.equal(net(BASE, SOURCE, units=[moved, back]).logits, net(BASE, units=[]).logits)
