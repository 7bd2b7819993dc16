"""Checks of a model's config, before anything is loaded. No torch here.

Each refusal names the folder, the key, its value and what to do. What is known of a type alone decides: of
types that nobody here knows no more is asked than that their numbers are numbers.
"""

__all__ = ["check_config"]

from collections.abc import Iterator, Mapping

from workers.errors import ModelError, nearest
from workers.libraries.transformers_source import (
    QUANTISED_KEYS,
    activations,
    causal_types,
    model_types,
    rope_types,
)
from workers.model.families import FAMILIES

_KNOWN_HERE = tuple(sorted(name for family in FAMILIES for name in family.model_types))

_ENCODER_DECODERS = frozenset(
    {"bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus"}
    | {"plbart", "prophetnet", "trocr", "whisper"}
)
"""Types that the library lists as causal for their decoders, but whose folders hold both."""
_WITHOUT_ATTENTION = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})

_MOST: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 100_000),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "head_dim"), 100_000),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 10_000_000),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 100_000_000),
    **dict.fromkeys(("moe_intermediate_size", "vocab_size"), 100_000_000),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 1_000_000),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 10**12),
}
"""Numbers that planning reads, and the largest that it believes."""

_ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation", "activation")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_OWN_HEAD_WIDTH = ("head_dim", "head_size", "kv_channels", "qk_head_dim", "v_head_dim", "qk_nope_head_dim")
_OTHER_HEADS = (
    *("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"),
    *("ImageClassification", "AudioClassification", "RewardModel", "DoubleHeadsModel", "ForPreTraining"),
)
"""Parts of the names of classes whose head predicts no token."""
_RENAMED = frozenset({"mrope", "su"})
"""Kinds of rotary embeddings in older configs, which the library's own classes rename."""
_MOST_SHOWN = 60


def check_config(
    config: Mapping[str, object], where: str, ref: str, *, has_own_code: bool = False, may_lack: bool = False
) -> None:
    """Refuse a config that no model here can be made of.

    Args:
        config: as ``config.json`` has it.
        where: the file.
        ref: as the study names the model.
        has_own_code: whether the folder's own code may make the model, so that its words are not known.
        may_lack: whether what the checkpoint lacks, such as the head, is drawn.

    Raises:
        ModelError: naming the file, the key and the value.
    """
    problem = next(_problems(config, has_own_code=has_own_code, may_lack=may_lack), None)
    if problem is not None:
        raise ModelError(f"{ref} cannot be used: {where}: {problem}")


def _problems(config: Mapping[str, object], *, has_own_code: bool, may_lack: bool) -> Iterator[str]:
    yield from _quantised(config)
    if not has_own_code:
        yield from _type(config)
    yield from _other_head(config, may_lack=may_lack)
    text = config.get("text_config")
    if text is not None and not isinstance(text, Mapping):
        yield f"text_config is {_shown(text)}; allowed: a mapping; fetch or save the model again"
        return
    inner = {**config, **(text or {})}
    yield from _numbers(inner)
    yield from _division(inner)
    if not has_own_code:
        yield from _words(inner)


def _quantised(config: Mapping[str, object]) -> Iterator[str]:
    for key in QUANTISED_KEYS:
        found = config.get(key)
        if found is None:
            continue
        method = found.get("quant_method") if isinstance(found, Mapping) else None
        named = f" (quant_method {_shown(method)})" if method is not None else ""
        yield (
            f"{key} is there{named}: quantised weights are not supported, for an intervention would change"
            " numbers that they do not have; give a checkpoint in float32, bfloat16 or float16, such as"
            " the one"
            " that this was made of"
        )


def _type(config: Mapping[str, object]) -> Iterator[str]:
    kind = config.get("model_type")
    if kind is None:
        yield (
            "it has no model_type, so that nobody knows which model it is of; give the config.json that was"
            " saved with the weights"
        )
    elif not isinstance(kind, str):
        yield f"model_type is {_shown(kind)}; allowed: text, such as {_KNOWN_HERE[0]!r}"
    elif why := _unsupported(kind, config):
        yield f"models of type {_shown(kind)} are not supported: {why}; {_SUPPORTED}"


def _unsupported(kind: str, config: Mapping[str, object]) -> str | None:
    """Why models of a type cannot be used; None where they can, or nobody knows."""
    if kind in _KNOWN_HERE:
        return None
    if config.get("is_encoder_decoder") is True or (
        kind in _ENCODER_DECODERS and config.get("is_encoder_decoder") is not False
    ):
        return "an encoder with a decoder"
    if kind in _WITHOUT_ATTENTION:
        return "a recurrent model without attention heads"
    known, causal = model_types(), causal_types()
    if not causal or kind in causal:
        return None
    if kind not in known:
        code = "; its own code (auto_map) runs with --trust-remote-code only" if "auto_map" in config else ""
        return f"the transformers library that is installed has no such type{nearest(kind, known)}{code}"
    return "not a causal language model of the transformers library"


_SUPPORTED = (
    f"supported are causal language models with attention: with named sites {', '.join(_KNOWN_HERE)}; by"
    " module"
    " paths every other type that AutoModelForCausalLM loads"
)


def _other_head(config: Mapping[str, object], *, may_lack: bool) -> Iterator[str]:
    names = config.get("architectures")
    saved = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if saved and not may_lack and all(any(part in name for part in _OTHER_HEADS) for name in saved):
        yield (
            f"architectures is {', '.join(map(_shown, saved))}: its head predicts no token, and as a"
            " language model"
            " it would have a random one; give a checkpoint of the language model, or draw the head on"
            " purpose"
            " (missing_weights: initialise and a seed)"
        )


def _numbers(config: Mapping[str, object]) -> Iterator[str]:
    for key, most in _MOST.items():
        value = config.get(key)
        if value is None or (type(value) is int and 0 < value <= most):
            continue
        # What says how many of a thing there are may say that there are none.
        if value == 0 and type(value) is int and "expert" in key:
            continue
        if isinstance(value, list | Mapping) and key not in (*_WIDTHS, "vocab_size"):
            continue  # Some types say it for each layer.
        yield (
            f"{key} is {_shown(value)}; allowed: a whole number from 1 to {most:,}; give the config.json"
            " that was"
            " saved with the weights"
        )


def _division(config: Mapping[str, object]) -> Iterator[str]:
    if config.get("model_type") not in _KNOWN_HERE:
        return
    heads_key, heads = _first(config, _HEADS)
    width_key, width = _first(config, _WIDTHS)
    if heads is None or width is None:
        return
    has_own_width = any(config.get(key) is not None for key in _OWN_HEAD_WIDTH)
    if width % heads and not has_own_width:
        yield (
            f"{heads_key} {heads} does not divide {width_key} {width}, and there is no head_dim; correct"
            " one of"
            " them, as the weights have it"
        )
    key, shared = _first(config, ("num_key_value_heads", "num_kv_heads"))
    if shared is not None and heads % shared:
        yield f"{key} {shared} does not divide {heads_key} {heads}; correct one, as the weights have it"


def _first(config: Mapping[str, object], keys: tuple[str, ...]) -> tuple[str, int | None]:
    for key in keys:
        if type(value := config.get(key)) is int:
            return key, value
    return keys[0], None


def _words(config: Mapping[str, object]) -> Iterator[str]:
    """Words that the library does not know, in configs of types whose words are known."""
    if config.get("model_type") not in _KNOWN_HERE:
        return
    said = [(key, config[key], activations()) for key in _ACTIVATIONS if config.get(key) is not None]
    for key in ("rope_parameters", "rope_scaling"):
        said += [(path, value, rope_types()) for path, value in _rope_kinds(config.get(key), key)]
    for path, value, known in said:
        if known and (not isinstance(value, str) or value not in known | _RENAMED):
            yield f"{path} is {_shown(value)}; allowed: {_listed(known)}{nearest(str(value), known)}"


def _rope_kinds(said: object, path: str) -> Iterator[tuple[str, object]]:
    """The kinds of rotary embeddings that a config names, also for each kind of layer."""
    if not isinstance(said, Mapping):
        return
    for key in ("rope_type", "type"):
        if said.get(key) is not None:
            yield f"{path}.{key}", said[key]
            return
    for key, inner in said.items():
        if isinstance(inner, Mapping):
            yield from _rope_kinds(inner, f"{path}.{key}")


def _listed(known: frozenset[str]) -> str:
    return ", ".join(sorted(known))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
