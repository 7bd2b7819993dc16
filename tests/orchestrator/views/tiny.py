"""Two tiny random models on disk, a Llama and a GPT-2, each with a tokeniser of whole words of its own.

One word begins every prompt of the Llama, and the two know the words by other numbers: a number that got into
the other model's rows is seen.
"""

from pathlib import Path

import torch

START = "<s>"
WORDS = (
    *("The", "A", "capital", "old", "town", "of", "in", "is", "Spain", "Italy", "France", "Peru", "Chile"),
    *("Madrid", "Rome", "Paris", "Lima", "Santiago", "river", "near"),
)
TWINS = (("old", "in"), ("of", "capital"))
"""Words whose logits differ by about the last digit of a float32: where they are the first choice, nobody can
tell which is."""
NOT_A_WORD = 2
"""Ids that the GPT-2 can predict and its tokeniser has no word for."""


def vocabulary(name: str) -> list[str]:
    """The words of a model by id, as texts name them: with a space before all but those that begin."""
    words = [word if word in ("The", "A") else f" {word}" for word in WORDS]
    return ["[UNK]", START, *words] if name == "llama" else ["[UNK]", *reversed(words)]


def save(folder: Path) -> None:
    """Save both models below `folder`, always the same ones."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    size = len(vocabulary("llama"))
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=40,
            max_position_embeddings=32,
            initializer_range=0.3,
            **ids,
        )
    )
    size = len(vocabulary("gpt2")) + NOT_A_WORD
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_embd=18, n_layer=2, n_head=3, n_positions=24, initializer_range=0.4, **ids
        )
    )
    for name, model, rows in (
        ("llama", llama, llama.lm_head.weight),
        ("gpt2", gpt2, gpt2.transformer.wte.weight),
    ):
        words = vocabulary(name)
        with torch.no_grad():
            for one, other in TWINS:
                rows[words.index(f" {other}")] = rows[words.index(f" {one}")] * (1 + 2e-6)
        model.save_pretrained(folder / name)
        _save_tokenizer(words, folder / name)


def _save_tokenizer(words: list[str], folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = {word.replace(" ", "Ġ"): number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if START in words:
        begin = [(START, words.index(START))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=begin)
    tokenizer.save(str(folder / "tokenizer.json"))


def tokens(name: str, text: str) -> list[int]:
    """The ids of a prompt."""
    words = text.split(" ")
    known = vocabulary(name)
    ids = [known.index(words[0]), *(known.index(f" {word}") for word in words[1:])]
    return [known.index(START), *ids] if START in known else ids


def span(name: str, text: str, part: str) -> list[int]:
    """The tokens [start, end) of a part of a prompt, which begins with a word and ends with one."""
    before = len(text[: text.index(part)].split())
    shift = len(tokens(name, text)) - len(text.split(" "))
    return [before + shift, before + shift + len(part.split())]
