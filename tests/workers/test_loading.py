"""Promise: a model is loaded from its folder as asked for, quietly, and only then trusted to be causal when a
run has shown it; what is missing is said in one sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import facts_of as tiny_facts
from tiny import tiny_module
from torch import nn

from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.model.hooks import Tap
from workers.model.loading import LoadedModel, facts_of, load
from workers.model.references import resolve
from workers.vocabulary import ModelSpec

pytestmark = pytest.mark.versions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_module("llama").save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_as_the_spec_says_and_nothing_is_printed(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = tiny_facts(tiny_module("llama"), "llama", folder)
    capfd.readouterr()
    model = probed(load(ModelSpec(ref="m", dtype="bfloat16", attention="eager", device="cpu"), facts))
    assert capfd.readouterr() == ("", "")
    assert next(model.module.parameters()).dtype == torch.bfloat16
    assert model.module.config._attn_implementation == "eager"
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.is_causal
    assert model.head == Tap("lm_head", "input")


def test_loading_gives_the_saved_weights_and_reads_only_where_asked(folder: Path) -> None:
    saved = tiny_module("llama")
    model = probed(load(ModelSpec(ref="m"), tiny_facts(saved, "llama", folder), device="cpu"))
    tokens = torch.tensor([[4, 5, 6], [9, 8, 7]])
    logits, seen = model.forward(tokens, torch.tensor([[2], [0]]))
    assert logits.shape == (2, 1, saved.config.vocab_size)
    assert seen.faults() == {}
    full = saved(input_ids=tokens).logits
    torch.testing.assert_close(logits[:, 0], torch.stack([full[0, 2], full[1, 0]]))


def test_a_folder_without_weights_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot be loaded from {tmp_path}"):
        probed(load(ModelSpec(ref="m"), tiny_facts(tiny_module("llama"), "llama", tmp_path), device="cpu"))


def test_blocks_that_are_not_as_the_config_says_are_an_error() -> None:
    module = tiny_module("llama")
    with pytest.raises(ModelError, match="has 3 blocks, but its config says 4"):
        probed(LoadedModel.wrap(module, replace(tiny_facts(module, "llama"), num_layers=4)))
    with pytest.raises(ModelError, match=r"is a gpt2, but has no blocks at 'transformer\.h'"):
        probed(LoadedModel.wrap(module, tiny_facts(module, "gpt2")))


def test_a_model_without_an_unembedding_is_refused() -> None:
    module = tiny_module("llama")
    with pytest.raises(ModelError, match="Linear has no unembedding"):
        probed(LoadedModel.wrap(nn.Linear(2, 2), replace(tiny_facts(module, "llama"), model_type="mine")))


def test_a_type_without_a_table_has_module_paths_and_no_names() -> None:
    module = tiny_module("llama")
    model = probed(LoadedModel.wrap(module, tiny_facts(module, "mine")))
    assert model.places.family is None
    assert model.is_causal
    assert model.target("model.layers.1.mlp:input", None, None, None).tap == Tap(
        "model.layers.1.mlp", "input"
    )
    with pytest.raises(ModelError, match="models of type 'mine' have no named sites"):
        model.target("mlp_output", 1, None, None)
    with pytest.raises(ModelError, match="takes neither a layer nor heads"):
        model.target("model.layers.1.mlp", 1, None, None)


def test_damaged_weights_and_impossible_devices_are_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    module = tiny_module("llama")
    module.save_pretrained(folder)
    facts = tiny_facts(module, "llama", folder)
    with pytest.raises(ModelError, match=r"device .nosuch. cannot be used here .*leave device out"):
        probed(load(ModelSpec(ref="tiny", device="nosuch"), facts))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded from"):
        probed(load(ModelSpec(ref="tiny"), facts))


def test_vectors_may_take_the_place_of_token_ids() -> None:
    module = tiny_module("gpt2")
    model = probed(LoadedModel.wrap(module, tiny_facts(module, "gpt2")))
    ids, reads = torch.tensor([[4, 5, 6], [9, 8, 7]]), torch.tensor([[2], [0]])
    found, _ = model.forward(module.transformer.wte(ids).double(), reads)
    torch.testing.assert_close(found, model.forward(ids, reads)[0])


def test_a_built_in_model_is_made_as_the_spec_says() -> None:
    spec = ModelSpec(
        ref="zoo:gru", dtype="bfloat16", options={"width": 4, "num_layers": 1, "outputs": 2, "seed": 0}
    )
    model = probed(load(spec, resolve(spec), device="cpu"))
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.bfloat16}
    assert model.places.family is not None and model.places.family.positions == "step"
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox", "qwen3"])
def test_a_module_in_memory_says_what_is_known_of_it(model_type: str) -> None:
    module = tiny_module(model_type)
    facts = facts_of(module)
    assert facts == replace(
        tiny_facts(module, model_type),
        ref=type(module).__name__,
        revision="",
        folder=None,
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def test_a_module_without_a_config_is_told_to_use_paths() -> None:
    with pytest.raises(ModelError, match="Linear has no config of the transformers library: name its sites"):
        facts_of(nn.Linear(2, 2))


@pytest.mark.parametrize("ref", ["folder", "smollm2-135m"])
def test_a_model_that_is_not_built_in_takes_no_options(folder: Path, ref: str) -> None:
    spec = ModelSpec(ref=str(folder) if ref == "folder" else ref, options={"width": 3})
    with pytest.raises(ModelError, match=r"takes no options, only built-in ones .*; leave out width"):
        resolve(spec, fetch=False)
