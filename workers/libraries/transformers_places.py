"""Places where the transformers library may move a forward's keywords, its cache and its outputs; each is
tried on a tiny model."""

__all__ = ["PLACES", "tiny"]

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from workers.libraries import LibraryPlace
from workers.libraries.transformers import (
    attention_of,
    cache_class,
    find_keywords,
    hidden_keyword,
    layer_class,
    logits_of,
    quiet,
)

_CACHE_MODULE = "transformers.cache_utils"
_CACHE, _USE_CACHE, _POSITIONS, _VECTORS = (
    *(("cache", "past_key_values"), ("use_cache",)),
    *(("position_ids",), ("inputs_embeds",)),
)
"""Names of each, by the versions seen."""
_HIDDEN = "hidden_states"


def tiny() -> Any:
    """A decoder of two blocks, made from a config."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=11,
        max_position_embeddings=16,
    )
    module: Any = LlamaForCausalLM(config)
    return module.eval().requires_grad_(False)


def _cache(filled: Callable[[], None]) -> object:
    """Cache of the library's own classes, which calls `filled` as soon as keys reach it."""
    kind: Any = layer_class()

    class Layer(kind):  # type: ignore[misc]
        def update(self, *states: object, **more: object) -> object:
            filled()
            return super().update(*states, **more)

    return cache_class()(layers=[Layer(), Layer()])


def _keyword_probe(names: tuple[str, ...], kind: str, lost: str) -> Callable[[], str | None]:
    def probe() -> str | None:
        found = getattr(find_keywords(tiny(), torch.tensor([[0, 1]]), 16, _cache), kind)
        return None if found in names else f"{lost} (found: {found})"

    return probe


def _probe_classes() -> str | None:
    module = importlib.import_module(_CACHE_MODULE)
    gone = [name for name in ("Cache", "DynamicLayer") if not isinstance(getattr(module, name, None), type)]
    if not (cache_class().__module__ == layer_class().__module__ == _CACHE_MODULE):
        return "no class does what they did: nothing is resumed"
    return f"{', '.join(gone)} found by what it does" if gone else None


def _probe_hidden() -> str | None:
    seen: list[str | None] = []

    def look(_: nn.Module, __: object, given: dict[str, object]) -> None:
        seen.append(hidden_keyword(given))

    module = tiny()
    module.model.layers[0].self_attn.register_forward_pre_hook(look, with_kwargs=True)
    with torch.inference_mode():
        module(input_ids=torch.tensor([[1, 2]]))
    return None if seen[0] in (None, _HIDDEN) else f"found by its shape: {seen[0]}"


def _probe_output() -> str | None:
    with torch.inference_mode():
        output = tiny()(input_ids=torch.tensor([[1, 2]]))
    logits_of(output)
    return None if hasattr(output, "logits") else "logits found by their shape"


def _probe_embeddings() -> str | None:
    module = tiny()
    if module.get_output_embeddings() is not module.lm_head:
        raise AttributeError("get_output_embeddings is not the unembedding")
    return None if module.get_input_embeddings() is module.model.embed_tokens else "vectors for tokens"


def _probe_config() -> str | None:
    config = tiny().config
    return None if callable(getattr(config, "get_text_config", None)) else "text_config is read instead"


def _probe_attention() -> str | None:
    return "the report says 'unknown'" if attention_of(tiny()) == "unknown" else None


def _probe_quiet() -> str | None:
    from transformers.utils import logging

    library: Any = logging
    before = library.get_verbosity()
    with quiet():
        changed = library.get_verbosity() != before or before == library.ERROR
    return None if changed and library.get_verbosity() == before else "its warnings are shown"


_place = partial(LibraryPlace, library="transformers", seen_with="5.20.0 to 5.24.0")

PLACES = (
    _place(
        name="forward(cache=…), before 5.24 forward(past_key_values=…)",
        used_for="handing a forward the keys and values of what comes before the first changed token",
        without="another argument that fills a cache is found by calling; else models run hooked, and say so",
        marks=_CACHE[1:],
        probe=_keyword_probe(_CACHE, "cache", "another keyword, found by calling"),
    ),
    _place(
        name="forward(use_cache=…)",
        used_for="runs that make no cache where none is wanted",
        without="every whole run makes a cache that nobody reads: slower, the same numbers",
        marks=('"use_cache"', "use_cache="),
        probe=_keyword_probe(_USE_CACHE, "use_cache", "whole runs make a cache that nobody reads"),
    ),
    _place(
        name="forward(position_ids=…)",
        used_for="telling a resumed forward where its tokens lie",
        without="the model counts positions by its cache, which the check at load tries",
        marks=('"position_ids"', "position_ids="),
        probe=_keyword_probe(_POSITIONS, "positions", "positions are counted by the cache"),
    ),
    _place(
        name="forward(inputs_embeds=…)",
        used_for="resumed forwards, whose first hidden states come from the base's clean run",
        without="token ids stand in: their embeddings are looked up and thrown away",
        marks=(),
        probe=_keyword_probe(_VECTORS, "vectors", "token ids stand in"),
    ),
    _place(
        name="cache_utils.Cache and DynamicLayer; a layer's update, get_seq_length, get_mask_sizes",
        used_for="a cache of our own, whose rows grow from block to block",
        without="classes are found by what they do; where none is, nothing is resumed, and the run says so",
        marks=("cache_utils", "DynamicLayer"),
        probe=_probe_classes,
    ),
    _place(
        name="forward(hidden_states=…) of modules inside a block",
        used_for="finding what a module is given, where it is given by keyword",
        without="the only activations [B, T, W] among the arguments are taken; several are refused",
        marks=(f'"{_HIDDEN}"', f"{_HIDDEN}:"),
        probe=_probe_hidden,
    ),
    _place(
        name="output.logits",
        used_for="reading a run",
        without="the first tensor [B, T, V] of the output is taken",
        marks=(),
        probe=_probe_output,
    ),
    _place(
        name="get_output_embeddings, get_input_embeddings",
        used_for="finding the unembedding, and the width of vectors for tokens",
        without="the model is refused: it has no unembedding",
        marks=(),
        probe=_probe_embeddings,
    ),
    _place(
        name="config.get_text_config",
        used_for="the window of sliding attention, and the most positions, of models of text and images",
        without="text_config, or the config itself, is read",
        marks=("get_text_config",),
        probe=_probe_config,
    ),
    _place(
        name="config._attn_implementation",
        used_for="the report of a loaded model",
        without="the report calls the attention kernel unknown",
        marks=("_attn_implementation",),
        probe=_probe_attention,
    ),
    _place(
        name="utils.logging: verbosity and progress bars",
        used_for="loading without lines that are not ours",
        without="the library's own lines are shown",
        marks=("set_verbosity_error",),
        probe=_probe_quiet,
    ),
)
