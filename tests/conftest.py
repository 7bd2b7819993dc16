"""What all tests share: an own cache, one torch thread, and a tiny model on disk that studies can name."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"

WORDS = ["the", "capital", "of", "Spain", "Italy", "France", "Peru", "is"]
WORDS += ["Madrid", "Rome", "Paris", "Lima", "a"]


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the user's cache, but for those that need the real weights in it."""
    if request.node.get_closest_marker("smollm2") is None:
        monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 3 layers with a tokeniser of whole words, saved as a user would save a model."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    vocabulary = {word: n for n, word in enumerate(["[UNK]", *(f"Ġ{w}" for w in WORDS), "The"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        initializer_range=0.3,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
