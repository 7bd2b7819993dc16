"""Facts of a model, read from its config in the words of the transformers library. No torch here."""

__all__ = ["facts_of_config"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.errors import ModelError
from workers.model.facts import ModelFacts
from workers.model.families import FAMILIES

# Families outside these tables are Llama-like: gated MLPs, no table of positions.
_LEARNED_POSITIONS = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "opt"})
_POSITION_TABLES = _LEARNED_POSITIONS | {"codegen", "gptj"}
"""Families that look up positions, learned or computed once, in a table."""
_UNGATED = _LEARNED_POSITIONS | {
    "bloom",
    "codegen",
    "falcon",
    "gpt_neox",
    "gptj",
    "mpt",
    "phi",
    "starcoder2",
}

_SCALED_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary embeddings that are others in longer runs."""

_OWN_HEAD_WIDTH = frozenset({"gemma", "gemma2", "gemma3_text", "qwen3"})
"""Families whose heads are not as wide as the model divided by them, where the config does not say it."""


def facts_of_config(
    outer: Mapping[str, Any], where: str, *, ref: str, revision: str, dtype: str, folder: Path | None
) -> ModelFacts:
    """The facts of a language model with the config `outer`, which was found at `where`.

    Raises:
        ModelError: the config does not give a number that planning needs.
    """
    # Models of text and images keep the text model's shape one level down.
    config = {**outer, **(outer.get("text_config") or {})}
    heads = _number(where, config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    return ModelFacts(
        ref=ref,
        revision=revision,
        dtype=dtype,
        folder=folder,
        model_type=str(outer.get("model_type", "")),
        num_layers=_number(where, config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        num_heads=heads,
        num_kv_heads=_num_kv_heads(config, heads),
        width=_number(where, config, "hidden_size", "n_embd", "d_model"),
        vocab_size=_number(where, config, "vocab_size"),
        num_parameters=_num_parameters(where, config, heads),
        head_width=_head_width(config, heads),
        num_neurons=_num_neurons(config),
        input_width=_optional(config, "word_embed_proj_dim", "hidden_size", "n_embd", "d_model"),
        residual_multiplier=_residual_multiplier(config.get("residual_multiplier")),
        max_positions=_optional(config, "max_position_embeddings", "n_positions", "max_seq_len"),
        has_position_table=config.get("model_type") in _POSITION_TABLES,
        depends_on_length=_depends_on_length(config.get("rope_parameters") or config.get("rope_scaling")),
    )


def _residual_multiplier(said: object) -> float:
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else 1.0


def _depends_on_length(rotary: object) -> bool:
    """Whether rotary embeddings are scaled by a run's length; some configs say it for kinds of layers."""
    if not isinstance(rotary, Mapping):
        return False
    said = rotary.get("rope_type", rotary.get("type"))
    return said in _SCALED_BY_LENGTH or any(_depends_on_length(inner) for inner in rotary.values())


def _head_width(config: Mapping[str, object], heads: int) -> int | None:
    said = _optional(config, "head_dim")
    width = _optional(config, "hidden_size", "n_embd", "d_model")
    if said is not None or width is None or config.get("model_type") in _OWN_HEAD_WIDTH:
        return said
    return width // heads


def _num_neurons(config: Mapping[str, object]) -> int | None:
    said = _optional(config, "intermediate_size", "n_inner")
    width = _optional(config, "n_embd")
    if said is None and width is not None and config.get("model_type") == "gpt2":
        return 4 * width
    return said


def _number(where: str, config: Mapping[str, object], *names: str) -> int:
    """The first of `names` that the config has as a number."""
    value = _optional(config, *names)
    if value is None:
        kind = config.get("model_type")
        known = any(kind in family.model_types for family in FAMILIES)
        raise ModelError(
            f"{where} gives none of {', '.join(names)}, which planning needs; "
            + (
                "save the model again with its full config (config.to_json_file(path, use_diff=False))"
                if known
                else f"models of type {kind!r} may be of a kind that is not supported: what is supported"
                " are causal"
                " language models with attention"
            )
        )
    return value


def _optional(config: Mapping[str, object], *names: str) -> int | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def _num_kv_heads(config: Mapping[str, object], heads: int) -> int:
    """GPT-BigCode and Falcon say ``multi_query`` for one head; Falcon's newer design does not mean it."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    nested = config.get("attn_config")  # MPT
    inner = _optional(nested, "kv_n_heads") if isinstance(nested, Mapping) else None
    return _optional(config, "num_key_value_heads", "num_kv_heads") or inner or heads


def _num_parameters(where: str, config: Mapping[str, object], heads: int) -> int:
    """Weights of embeddings, attention and MLPs; norms and biases are below one per cent."""
    family = config.get("model_type")
    width = _number(where, config, "hidden_size", "n_embd", "d_model")
    layers = _number(where, config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    tables = 1 if config.get("tie_word_embeddings", True) else 2
    rows = tables * _number(where, config, "vocab_size")
    if family in _LEARNED_POSITIONS:
        rows += _optional(config, "n_positions", "max_position_embeddings") or 0
    head_dim = _optional(config, "head_dim") or width // heads
    attention = 2 * width * head_dim * (heads + _num_kv_heads(config, heads))
    return width * rows + layers * (attention + _mlp_parameters(config, width, gated=family not in _UNGATED))


def _mlp_parameters(config: Mapping[str, object], width: int, *, gated: bool) -> int:
    hidden = _optional(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * width
    experts = _optional(config, "num_local_experts", "num_experts", "n_routed_experts")
    if experts is not None:
        hidden = experts * (_optional(config, "moe_intermediate_size") or hidden)
    return (3 if gated else 2) * width * hidden
