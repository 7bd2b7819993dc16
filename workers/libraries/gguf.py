"""Models in GGUF files as the transformers library reads them: what is mended before they can be saved."""

__all__ = ["PLACES", "read_model", "read_tokenizer", "save_model"]

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workers.libraries import LibraryPlace

_FILE = "gguf_file"
_OF_MODEL, _OF_CONFIG = "hf_quantizer", "quantization_config"
"""Attributes of a model and of its config by which the library takes it for quantised."""


def read_model(gguf: Path) -> Any:
    """The causal language model of a GGUF file, its weights expanded to float32."""
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    return library.from_pretrained(gguf.parent, **{_FILE: gguf.name}, dtype=torch.float32)


def save_model(model: Any, folder: Path) -> None:
    """Write a model of `read_model` as safetensors with its config.

    The library refuses to save one that says it is quantised. Its weights no longer are: what says so is
    taken off; where it is refused all the same, a new model of the same class gets its weights.
    """
    setattr(model, _OF_MODEL, None)
    if hasattr(model.config, _OF_CONFIG):
        delattr(model.config, _OF_CONFIG)
    try:
        model.save_pretrained(folder)
    except (AttributeError, NotImplementedError, ValueError):
        twin = type(model)(model.config)
        twin.load_state_dict(model.state_dict())
        twin.save_pretrained(folder)


def read_tokenizer(gguf: Path) -> Any:
    """The tokeniser of SmolLM2's GGUF file.

    The library's reader drops the splitting of digits that SmolLM2 was trained with, which shows only where
    several blanks or newlines come before a number.

    Raises:
        AttributeError: there is no way to put it back.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    library: Any = AutoTokenizer
    tokenizer = library.from_pretrained(gguf.parent, **{_FILE: gguf.name})
    backend = getattr(tokenizer, "backend_tokenizer", None) or tokenizer._tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


# What is tried by `make versions`

_WIDTH, _HIDDEN = 16, 32


def _write(file: Path) -> None:
    """A Llama of one layer with a byte-level tokeniser."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet()), "Ġa"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // 2)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    square, wide = (_WIDTH, _WIDTH), (_HIDDEN, _WIDTH)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), _WIDTH),
        "output_norm.weight": (_WIDTH,),
        **{f"blk.0.{name}.weight": square for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{f"blk.0.{name}.weight": wide for name in ("ffn_gate", "ffn_up")},
        "blk.0.ffn_down.weight": (_WIDTH, _HIDDEN),
        **{f"blk.0.{name}.weight": (_WIDTH,) for name in ("attn_norm", "ffn_norm")},
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _probe_model() -> str | None:
    from workers.libraries.transformers import quiet

    with tempfile.TemporaryDirectory() as made, quiet():
        file, folder = Path(made) / "tiny.gguf", Path(made) / "model"
        _write(file)
        model: nn.Module = read_model(file)
        dtypes = {parameter.dtype for parameter in model.parameters()}
        save_model(model, folder)
        if dtypes != {torch.float32} or not (folder / "model.safetensors").is_file():
            raise LookupError(f"a GGUF file is read as {dtypes}, and saved in other files")
    return None


def _probe_tokenizer() -> str | None:
    from workers.libraries.transformers import quiet

    with tempfile.TemporaryDirectory() as made, quiet():
        file = Path(made) / "tiny.gguf"
        _write(file)
        tokenizer = read_tokenizer(file)
        tokenizer.save_pretrained(made)
        ids = tokenizer("12  3", add_special_tokens=False)["input_ids"]
        if not (Path(made) / "tokenizer.json").is_file() or len(ids) != 5:
            raise LookupError(f"the tokeniser of a GGUF file makes {len(ids)} tokens of 5")
    return None


_SEEN = "0.17 to 0.19, read by transformers 5.20.0 to 5.24.0"

PLACES = (
    LibraryPlace(
        library="gguf",
        name="from_pretrained(gguf_file=…), and what marks a model as quantised",
        used_for="making smollm2-135m from the package index, once",
        seen_with=_SEEN,
        without="a new model gets its weights; where it cannot be read, fetching it fails, and says so",
        marks=(_FILE, _OF_MODEL, _OF_CONFIG),
        probe=_probe_model,
    ),
    LibraryPlace(
        library="gguf",
        name="backend_tokenizer.pre_tokenizer, which the reader of GGUF files leaves incomplete",
        used_for="the splitting of digits that SmolLM2 was trained with",
        seen_with=_SEEN,
        without="fetching it fails, and says so: never another tokeniser in silence",
        marks=("backend_tokenizer", "pre_tokenizer"),
        probe=_probe_tokenizer,
    ),
)
