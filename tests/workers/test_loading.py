"""Promise: a model is loaded from its folder as asked for, quietly, and only then trusted to be causal when a
run has shown it; what is missing is said in one sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import facts_of, tiny_module
from torch import nn

from workers.errors import ModelError
from workers.hooks import Tap
from workers.loading import LoadedModel, load
from workers.vocabulary import ModelSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_module("llama").save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_as_the_spec_says_and_nothing_is_printed(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = facts_of(tiny_module("llama"), "llama", folder)
    capfd.readouterr()
    model = load(ModelSpec(ref="m", dtype="bfloat16", attention="eager", device="cpu"), facts)
    assert capfd.readouterr() == ("", "")
    assert next(model.module.parameters()).dtype == torch.bfloat16
    assert model.module.config._attn_implementation == "eager"
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.is_causal
    assert model.head == Tap("lm_head", "input")


def test_loading_gives_the_saved_weights_and_reads_only_where_asked(folder: Path) -> None:
    saved = tiny_module("llama")
    model = load(ModelSpec(ref="m"), facts_of(saved, "llama", folder), device="cpu")
    tokens = torch.tensor([[4, 5, 6], [9, 8, 7]])
    logits, seen = model.forward(tokens, torch.tensor([[2], [0]]))
    assert logits.shape == (2, 1, saved.config.vocab_size)
    assert seen.faults() == {}
    full = saved(input_ids=tokens).logits
    torch.testing.assert_close(logits[:, 0], torch.stack([full[0, 2], full[1, 0]]))


def test_a_folder_without_weights_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot be loaded from {tmp_path}"):
        load(ModelSpec(ref="m"), facts_of(tiny_module("llama"), "llama", tmp_path), device="cpu")


def test_blocks_that_are_not_as_the_config_says_are_an_error() -> None:
    module = tiny_module("llama")
    with pytest.raises(ModelError, match="has 3 blocks, but its config says 4"):
        LoadedModel.wrap(module, replace(facts_of(module, "llama"), num_layers=4))
    with pytest.raises(ModelError, match=r"is a gpt2, but has no blocks at 'transformer\.h'"):
        LoadedModel.wrap(module, facts_of(module, "gpt2"))


def test_a_model_without_an_unembedding_is_refused() -> None:
    module = tiny_module("llama")
    with pytest.raises(ModelError, match="Linear has no unembedding"):
        LoadedModel.wrap(nn.Linear(2, 2), replace(facts_of(module, "llama"), model_type="mine"))


def test_a_type_without_a_table_has_module_paths_and_no_names() -> None:
    module = tiny_module("llama")
    model = LoadedModel.wrap(module, facts_of(module, "mine"))
    assert model.family is None
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
    facts = facts_of(module, "llama", folder)
    with pytest.raises(ModelError, match=r"device .nosuch. cannot be used here .*leave device out"):
        load(ModelSpec(ref="tiny", device="nosuch"), facts)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded from"):
        load(ModelSpec(ref="tiny"), facts)
