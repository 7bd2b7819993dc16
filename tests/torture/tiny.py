"""A tiny random model on disk, saved as a user would save one."""

__all__ = ["save_tiny_model"]

from pathlib import Path

_WORDS = ["the", "capital", "of", "Spain", "Italy", "France", "Peru", "is"]
_WORDS += ["Madrid", "Rome", "Paris", "Lima", "a"]


def save_tiny_model(folder: Path, *, num_layers: int) -> None:
    """Save a random Llama with a tokeniser of whole words as `folder`; always the same one."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = {word: n for n, word in enumerate(["[UNK]", *(f"Ġ{w}" for w in _WORDS), "The"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        initializer_range=0.3,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
