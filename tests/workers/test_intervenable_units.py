"""Promise: a unit that cannot be is refused with the forms that can; saved units come back as they were, and
share what they shared; any module and any family is changed at its real places."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_module
from torch import Tensor, nn

from workers.errors import ModelError, RunError, StoreError, StudyError, SwapyardError
from workers.intervene.features import PCA, SparseAutoencoder
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.positions import per_example
from workers.intervene.regions import Box
from workers.intervene.subspaces import LowRankRotation, Rotation
from workers.intervene.units import From, IntervenedRun, Mean, Noise, Unit

W = 32


def ids(seed: int, rows: int = 2, length: int = 5) -> Tensor:
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


BASE, SOURCE = ids(0), ids(1)
NET = IntervenableModel(tiny_module("gpt2"))


@pytest.mark.parametrize(
    "form", [[[3]], [[[3]]], 1.5, "last", None, True, [], torch.tensor([1, 2]), {"a": 1}]
)
def test_a_wrong_position_is_answered_with_the_forms(form: Any) -> None:
    says = r"an index such as 3 or -1, a list of them such as \[1, 4\], 'all', or sy.per_example"
    with pytest.raises(StudyError, match=says):
        Unit("block_output", layer=1, position=form)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"intervention": "vanila"}, "interventions are vanilla, add, .* did you mean 'vanilla'"),
        ({"from_": "sauce"}, "write 'source', 'source_2' …, 'base', .*, 'zero', a tensor"),
        ({"from_": 3.0}, "from_ 3.0; write 'source'"),
        ({"subspace": "a"}, "names no dimensions"),
        ({"head": "1"}, "head '1'; write a number"),
        ({"kind": "word"}, "kinds are 'token' and 'step'"),
        ({"coordinates": Box[0], "position": 2}, "leave head, position, kind"),
        ({"coordinates": Box[0], "from_": Noise(1.0)}, "taken from a run, zero or a tensor"),
    ],
)
def test_what_no_unit_can_say_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        Unit("block_output", layer=1, **given)


@pytest.mark.parametrize(
    ("unit", "says"),
    [
        (Unit("block_outptu", layer=1), "did you mean 'block_output'"),
        (Unit("block_output"), "block_output needs a layer: .* has layers 0 to 2"),
        (Unit("block_output", layer=3), "layers 0 to 2"),
        (Unit("transformer.h.7"), "no module 'transformer.h.7'"),
        (Unit("mlp_output", layer=1, head=0), "has no heads"),
        (Unit("value_output", layer=1, head=4), "heads 0 to 3"),
        (Unit("block_output", layer=1, position=5), "position 5 of example 0, which has 5: 0 to 4"),
        (Unit("block_output", layer=1, position=[1, -4]), "a token of example 0 twice"),
        (Unit("block_output", layer=1, position=per_example([1])), "1 positions for 2 examples"),
        (Unit("block_output", layer=1, from_=From(position=[1, 2])), "2 tokens of source cannot change 5"),
        (Unit("block_output", layer=1, subspace=per_example(["0:2"])), "1 subspaces for 2 examples"),
        (Unit("block_output", layer=1, subspace="30:40"), "there are 32"),
        (Unit("block_output", layer=1, subspace=Rotation(8)), "a subspace of 8 dimensions at a place of 32"),
        (Unit("block_output", layer=1, from_=torch.zeros(5)), "5 wide cannot change 32"),
        (Unit("block_output", layer=1, from_=torch.zeros(5, W)), "for 2 examples: give"),
        (Unit("block_output", layer=1, from_="source_2"), "needs 'source_2', but only base, source"),
        (Unit("block_output", layer=1, kind="step"), "has tokens, no time steps"),
        (Unit("transformer.h.0.attn.c_proj:input", intervention="skip"), "only what a module returns"),
        (Unit("query_output", layer=1, intervention="skip"), "skip works where both have one shape"),
        (Unit("block_output", layer=1, intervention=lambda old, new: new[0]), "returned"),
        (Unit("transformer.h.0", coordinates=Box[0:9]), r"Box\[0:9\] in a tensor of \[5, 32\]"),
        (Unit("transformer.h.0", coordinates=Box[1:, 40]), r"Box\[1:, 40\] in a tensor of \[5, 32\]"),
        (Unit("transformer.h.0", coordinates=Box[2:2]), "name indices and ranges that are there"),
        (Unit("transformer.h.0", coordinates=Box[0, 0, 0]), r"Box\[0, 0, 0\]"),
    ],
)
def test_what_a_model_cannot_do_is_an_error_and_leaves_it_as_it_was(unit: Unit, says: str) -> None:
    with pytest.raises(SwapyardError, match=says):
        NET(BASE, SOURCE, units=[unit])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in NET.module.modules())


@pytest.mark.parametrize(
    ("base", "source", "says"),
    [
        ("a text", None, "no tokenizer"),
        (3, None, "an input of type int; give a tensor, a dict"),
        ([], None, "an input of type list"),
        ([[1], []], None, "without tokens"),
        (BASE, {"source": BASE, "base": BASE}, "a source named 'base'"),
        ({"input_ids": BASE, "attention_mask": torch.tensor([[1, 0, 1, 1, 1]] * 2)}, None, "mask with holes"),
        ({"flag": True}, None, "no tensor with a row"),
        ([[1, 2, 61]], None, "token id 61: the model has ids 0 to 60"),
        (torch.tensor([[1, -1]]), None, "token id -1: the model has ids 0 to 60"),
        (BASE, {"input_ids": torch.full((2, 5), 99)}, "token id 99: the model has ids 0 to 60"),
    ],
)
def test_a_wrong_input_is_answered_with_the_forms(base: Any, source: Any, says: str) -> None:
    with pytest.raises(RunError, match=says):
        NET(base, source)


def units_of_every_kind() -> list[Unit]:
    rotation, mask = Rotation(W, seed=1, parts={"a": "0:4"}), Mask(LowRankRotation(W, 4), temperature=0.3)
    boundless = BoundlessRotation(W, temperature=4.0, boundary=0.3)
    pca = PCA.fit(torch.randn(9, W), 2)
    sae = SparseAutoencoder(torch.randn(W, 6), torch.randn(6, W), threshold=torch.rand(6))
    torch.nn.init.normal_(mask.mask)
    run = IntervenedRun([Unit("mlp_output", layer=0, position=1, subspace=rotation["a"])], base="source")
    return [
        Unit("block_output", layer=1, position=per_example([1, [2, 3]]), subspace=rotation["a"]),
        Unit("block_output", layer=1, subspace=per_example([rotation[4:8], "0:3"])),
        Unit("mlp_output", layer=0, position=-1, subspace=mask, intervention="add", from_=torch.randn(W)),
        Unit("block_output", layer=0, subspace=boundless, from_=From(run, layer=1)),
        Unit("block_output", layer=0, position=[0, 1], subspace=pca, from_=From("source", position=[3, 4])),
        Unit("block_output", layer=2, subspace=sae[2:4]),
        Unit("attention_value_output", layer=2, head=[0, 2], subspace="1:3", from_="zero"),
        Unit("transformer.h.1.mlp", subspace=["0:2", 5], intervention="subtract", from_=Noise(0.1, 2)),
    ]


def test_saved_units_do_what_they_did_and_share_what_they_shared(tmp_path: Path) -> None:
    net = IntervenableModel(NET.module, units_of_every_kind())
    net.to(torch.float32).save(tmp_path / "units")
    again = IntervenableModel(NET.module, IntervenableModel.load_units(tmp_path / "units"))
    assert torch.equal(again(BASE, SOURCE).logits, net(BASE, SOURCE).logits)
    assert len(again.subspaces) == len(net.subspaces) == 5
    first, second = again.units[0].subspace, again.units[1].subspace[0]
    assert first.of is second.of
    assert first.of["a"].ranges == ((0, 4),)
    for one, other in zip(net.trainable_parameters(), again.trainable_parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_rotation_that_is_masked_in_one_unit_is_still_that_of_the_other(tmp_path: Path) -> None:
    rotation = Rotation(W)
    units = [
        Unit("block_output", layer=1, subspace=Mask(rotation)),
        Unit("block_output", layer=1, subspace=rotation[0:4]),
    ]
    IntervenableModel(NET.module, units).save(tmp_path)
    masked, part = IntervenableModel.load_units(tmp_path)
    assert masked.subspace.of is part.subspace.of
    assert torch.equal(part.subspace.of.weight, rotation.weight)


def test_a_copy_is_whole_and_does_the_same() -> None:
    net = IntervenableModel(tiny_module("gpt2"), units_of_every_kind())
    twin = copy.deepcopy(net)
    assert torch.equal(twin(BASE, SOURCE).logits, net(BASE, SOURCE).logits)
    assert twin.units[0].subspace.of is twin.subspaces[0]
    assert twin.subspaces[0] is not net.subspaces[0]


def test_a_bfloat16_model_is_changed_through_float32_rotations() -> None:
    units = [Unit("block_output", layer=1, subspace=Rotation(W)[0:8]), *units_of_every_kind()[2:]]
    net = IntervenableModel(tiny_module("gpt2"), units).to(torch.bfloat16)
    logits = net(BASE, SOURCE).logits
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert net.units[0].subspace.of.weight.dtype == torch.float32
    assert net.trainable_parameters()[0].grad.abs().sum() > 0


def test_what_no_file_can_hold_is_not_saved_by_halves(tmp_path: Path) -> None:
    for unit, says in (
        (Unit("block_output", layer=1, intervention=torch.add), "a function of its own"),
        (Unit("mlp_output", layer=1, from_=From(coordinates=Box[0])), "a function of its own"),
        (Unit("block_output", layer=1, from_=Mean(BASE)), "give the mean itself"),
    ):
        with pytest.raises(StudyError, match=says):
            IntervenableModel(NET.module, [unit]).save(tmp_path / "units")
    assert not (tmp_path / "units").exists()
    with pytest.raises(StoreError, match="no units that can be read"):
        IntervenableModel.load_units(tmp_path / "units")


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "phi3", "qwen3"])
def test_every_family_and_its_base_model_have_named_sites(family: str) -> None:
    module = tiny_module(family)
    for one in (module, module.base_model):
        net = IntervenableModel(one)
        unit = Unit("value_output", layer=1, head=1, position=2)
        look = Unit("value_output", layer=1, intervention="collect")
        found = net(BASE, SOURCE, units=[unit, look]).collected[0]
        base, source = (net(x, units=[look]).collected[0] for x in (BASE, SOURCE))
        width = base.shape[-1] // (4 if family in ("gpt_neox", "phi3") and base.shape[-1] == 32 else 2)
        expected = base.clone()
        expected[:, 2, width : 2 * width] = source[:, 2, width : 2 * width]
        torch.testing.assert_close(found, expected)


class Loop(nn.Module):
    """A recurrent module of nobody's family, that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        state = x.new_zeros(len(x), 4)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return state, "rest"


def test_a_cell_that_runs_in_a_loop_is_changed_at_time_steps() -> None:
    module, base, source = Loop(), torch.rand(3, 6, 4), torch.rand(3, 6, 4)
    net = IntervenableModel(module)
    last = Unit("cell", kind="step", position=4, from_=From("source", position=2))
    more = Unit("cell", kind="step", position=[0, 4], from_=From("source", position=[5, 2]))
    one, other = (net(base, source, units=[unit]).output[0] for unit in (last, more))
    state = module(source[:, :3])[0]
    expected = module.cell(base[:, 5], state)
    torch.testing.assert_close(one, expected)
    torch.testing.assert_close(other, expected)
    with pytest.raises(ModelError, match="ran 6 times in one forward"):
        net(base, source, units=[Unit("cell")])


def test_a_module_that_writes_in_place_does_not_reach_what_was_kept() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x).add_(1.0)

    net, look = IntervenableModel(Writes()), Unit("one", intervention="collect")
    base, source = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    expected = source.clone()
    found = net(base.clone(), source.clone(), units=[Unit("one"), look])
    torch.testing.assert_close(found.collected[0], expected)
    torch.testing.assert_close(found.output, expected + 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Unit("block_output", layer="1"), "layer '1'; write a block's number"),  # type: ignore[arg-type]
        (lambda: Unit("query_output", layer=0, head=[1, 1]), r"head \[1, 1\] names one twice"),
        (lambda: Noise(-1.0), "noise of scale -1.0; write a number above 0"),
        (lambda: IntervenableModel(nn.Linear(2, 2), Unit("0")), "give a list of sy.Unit"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_unit_is_refused_in_one_sentence(make: Any, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        make()
