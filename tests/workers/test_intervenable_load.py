"""Promise: a model is loaded by name from Python as in a study, and weights that are missing are refused or
drawn there too."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.errors import ModelError
from workers.intervene.intervenable import IntervenableModel


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    from tiny import tiny_module
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tiny_module("llama").save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_missing_weights_are_refused_or_drawn_from_a_seed(headless: Path) -> None:
    ref = str(headless)
    with pytest.raises(ModelError, match=r"1 missing in the checkpoint: lm_head\.weight; give a checkpoint"):
        IntervenableModel.load(ref)
    one, same, other = (
        IntervenableModel.load(ref, missing_weights="initialise", seed=seed).module.lm_head.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_keys_that_do_not_go_together_are_told(headless: Path) -> None:
    with pytest.raises(ModelError, match="the key 'seed' is missing"):
        IntervenableModel.load(str(headless), missing_weights="initialise")
    with pytest.raises(ModelError, match="'seed' goes with missing_weights"):
        IntervenableModel.load(str(headless), seed=0)
    with pytest.raises(ModelError, match="a built-in model lacks no weights"):
        IntervenableModel.load("zoo:gru", width=2, missing_weights="initialise", seed=0)
    with pytest.raises(ModelError, match="seed -1 is not allowed; allowed: greater than or equal to 0"):
        IntervenableModel.load(str(headless), missing_weights="initialise", seed=-1)


def test_the_seed_of_a_built_in_model_is_its_own() -> None:
    options = {"width": 2, "num_layers": 1, "outputs": 2}
    one, same, other = (IntervenableModel.load("zoo:gru", seed=seed, **options).module for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in module.parameters()]) for module in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
