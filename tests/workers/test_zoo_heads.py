"""Promise: a built-in model may have several named outputs, of which one may read a node only, and a model
with one output stays what it was."""

from typing import Any

import pytest
import torch

from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.units import Unit
from workers.model.loading import LoadedModel, facts_of
from workers.zoo.base import ZooModel
from workers.zoo.build import make
from workers.zoo.configs import config_of

NODE = {"T1": {"classes": 7}, "T2": {"classes": 5, "reads": {"layer": 1, "subspace": "0:4"}}}
WHOLE = {"T1": {"classes": 7}, "T2": {"classes": 5}}
IDS = torch.tensor([[0, 1, 2], [3, 1, 0]])
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 12, "num_layers": 3, "vocab_size": 4, "num_inputs": 3, "outputs": NODE},
    "gru": {"width": 8, "num_layers": 2, "vocab_size": 4, "outputs": WHOLE},
    "gpt": {"width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 4, "outputs": WHOLE},
}


def with_heads(name: str, **more: Any) -> ZooModel:
    return make(name, **OPTIONS[name] | more, seed=0)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_head_has_its_logits_and_the_first_ones_are_the_logits(name: str) -> None:
    model = with_heads(name)
    output = model(IDS)
    assert {head: list(logits.shape) for head, logits in output.heads.items()} == {
        "T1": [2, 1, 7],
        "T2": [2, 1, 5],
    }
    assert output.logits is output.heads["T1"]
    facts = facts_of(model)
    assert (facts.num_classes, facts.num_logits) == (7, model.head.out_features)
    assert facts.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert probed(LoadedModel.wrap(model, facts)).facts == facts


def test_heads_of_each_step_are_read_at_each_step() -> None:
    assert list(with_heads("gru", per_step=True)(IDS).heads["T2"].shape) == [2, 3, 5]


def test_a_head_that_reads_a_node_sees_nothing_else() -> None:
    model = with_heads("mlp")
    net = IntervenableModel(model)
    inside, outside = (Unit("block_output", layer=1, subspace=dims, from_="zero") for dims in ("0:4", "4:12"))
    clean = model(IDS).heads
    changed = {dims: net(IDS, units=[unit]).output.heads for dims, unit in (("in", inside), ("out", outside))}
    assert not torch.equal(changed["in"]["T2"], clean["T2"])
    assert torch.equal(changed["out"]["T2"], clean["T2"])
    assert not torch.equal(changed["out"]["T1"], clean["T1"])


def test_one_output_is_called_logits_and_its_revision_is_as_ever() -> None:
    options = {"width": 8, "num_layers": 2, "outputs": 3, "seed": 0, "activation": "tanh"}
    output = make("mlp", **options)(inputs_embeds=torch.ones(1, 8))
    assert list(output.heads) == ["logits"]
    assert output.heads["logits"] is output.logits
    revision = "9595130c71b4eda85e8e122a306b9155957a82124eeda95cd182c4997f88f8db"
    assert config_of("mlp", options).revision == revision


@pytest.mark.parametrize(
    ("name", "outputs", "says"),
    [
        ("mlp", {"T1": {"clases": 3}}, "outputs.T1.classes is missing; a head has classes, and reads with"),
        ("mlp", {"T1": {"classes": 3, "read": 1}}, "outputs.T1.read is not allowed there"),
        ("mlp", {"T1": {"classes": 0}}, "outputs.T1.classes is 0; it must be greater than 0"),
        ("mlp", {"T1": {"classes": 3, "reads": {"layer": 3, "subspace": "0:4"}}}, "layers 0 to 2"),
        ("mlp", {"T1": {"classes": 3, "reads": {"layer": 1, "subspace": "8:14"}}}, "dimensions 0:12 of"),
        ("mlp", {"T 1": {"classes": 3}}, "a head is called 'T 1'; a name has letters, digits and _"),
        ("gru", NODE, "head T2 reads a node, which only heads of zoo:mlp can; leave reads out"),
    ],
)
def test_impossible_heads_are_refused(name: str, outputs: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        with_heads(name, outputs=outputs)
