"""Checks of a checkpoint by its headers and the config, before a weight is read. No torch here.

Only what is sure is refused here: loading compares every tensor once more. A folder without any weights
passes, for it can be planned for.
"""

__all__ = ["check_weights", "weight_files"]

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.errors import ModelError
from workers.model.families import FAMILIES, Family
from workers.model.weight_files import HeaderError, Stored, odd_ones, shards_of, tensors_of

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MOST_INDEX_BYTES = 32 * 1024**2
_MOST_NAMED = 8
"""Tensors that a message names."""

_QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|weight_scale|weight_scale_inv|weight_format|weight_packed|absmax|quant_map)$"
    r"|\.weight\.(absmax|quant_map|quant_state\.\w+|nested_absmax)$"
)
"""Tensors that GPTQ, AWQ, bitsandbytes, fp8 and compressed-tensors keep beside a weight, or in its place."""
_WHOLE_NUMBERS = frozenset({"I8", "U8", "I32", "U32"})
_OTHER_HEADS = re.compile(r"^(score|classifier|qa_outputs|v_head|summary|reward_head|value_head)\b")
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_BESIDE_BLOCKS = re.compile(
    r"(^|\.)(embed_tokens|wte|wpe|embed_in|norm|ln_f|final_layer_norm|final_layernorm|lm_head|embed_out)"
    r"\.(weight|bias)$|rotary|rope|position|masked_bias"
)
_COMPUTED = re.compile(r"rotary|rope|masked_bias|causal_mask|(attn|attention)\.bias$")
"""Tensors that older releases of the library saved in each block, or in some, and newer ones compute."""
_NORMS = ("norm.weight", "ln_f.weight", "final_layer_norm.weight")
_UNTIED = frozenset({"gpt_neox", "llama", "mistral", "olmo", "olmo2", "phi3", "qwen2", "qwen3", "stablelm"})
"""Types whose head is a tensor of its own where the config says nothing."""

_GATED = frozenset(
    {"cohere", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "olmo2", "qwen2"}
    | {"qwen3", "smollm3", "stablelm"}
)
_EVEN = frozenset({*_GATED, "gpt2", "gpt_neox", "phi3", "starcoder2"})
"""Types whose blocks are alike."""


def check_weights(folder: Path, config: Mapping[str, object], ref: str, *, may_lack: bool = False) -> None:
    """Refuse weights that are not whole, not those of the config, or quantised.

    Args:
        folder: where the weights lie, if there are any.
        config: as ``config.json`` has it, and known to be sound.
        ref: as the study names the model.
        may_lack: whether what is missing is drawn, and what is surplus left out.

    Raises:
        ModelError: naming the folder, the file or tensor, and what to do.
    """
    files = weight_files(folder, ref)
    tensors: dict[str, Stored] = {}
    for file in files:
        try:
            tensors |= tensors_of(file)
        except (OSError, HeaderError) as error:
            raise ModelError(
                f"{ref} cannot be used: {file} is damaged: {error}; fetch or copy it again, whole"
            ) from error
    if not files:
        return
    _check_index(folder, tensors, ref)
    if quantised := next(_quantised(tensors), None):
        raise ModelError(f"{ref} cannot be used: the weights in {folder}: {quantised}")
    problems = () if may_lack else tuple(_differences(tensors, config))
    if problems:
        raise ModelError(f"{ref} cannot be used: the weights in {folder}: {problems[0]}{_advice(ref)}")


def weight_files(folder: Path, ref: str) -> list[Path]:
    """The files of weights that the library would read in a folder; none where there are none.

    Raises:
        ModelError: an index cannot be read, or names files that are not there or not in the folder.
    """
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        others = sorted(file.name for file in folder.glob("*.safetensors") if file.is_file())
        if others:
            what = " (an adapter: merge it into its model and save that)" if "adapter" in others[0] else ""
            raise ModelError(
                f"{ref} cannot be used: {folder} has {_some(others)}{what}, but neither {_WEIGHTS} nor"
                f" {_INDEX},"
                " which alone are read; save the model again (save_pretrained), or name the file so"
            )
        return []
    _weight_map(folder, ref)
    names = sorted(shards_of(folder / _INDEX))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{ref} cannot be used: {folder / _INDEX} names {_many(missing, 'file')} not there:"
            f" {_some(missing)}; fetch or copy the model again, whole"
        )
    return [folder / name for name in names]


def _weight_map(folder: Path, ref: str) -> dict[str, str]:
    file = folder / _INDEX
    try:
        if file.stat().st_size > _MOST_INDEX_BYTES:
            raise ValueError(f"it is larger than {_MOST_INDEX_BYTES:,} bytes")
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{ref} cannot be used: {file} cannot be read: {error}; fetch or save the model again"
        ) from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(one, str) for one in found.values()):
        raise ModelError(
            f"{ref} cannot be used: {file} has no weight_map from tensors to files; fetch or save the"
            " model again"
        )
    return found


def _check_index(folder: Path, tensors: Mapping[str, Stored], ref: str) -> None:
    """Whether shards hold the tensors that the index says they hold."""
    if (folder / _WEIGHTS).is_file():
        return
    said = _weight_map(folder, ref)
    absent = [name for name, shard in said.items() if name not in tensors or tensors[name].file.name != shard]
    if absent:
        raise ModelError(
            f"{ref} cannot be used: {folder / _INDEX} names {_many(absent, 'tensor')} not in their"
            " files:"
            f" {_some(absent)}; fetch or save the model again"
        )


def _quantised(tensors: Mapping[str, Stored]) -> Iterator[str]:
    found = [
        name
        for name, tensor in tensors.items()
        if tensor.dtype.startswith("F8")
        or _QUANTISED.search(name)
        or (tensor.dtype in _WHOLE_NUMBERS and name.endswith("proj.weight"))
    ]
    if found:
        yield (
            f"{_some(found)} ({tensors[found[0]].dtype}) are of a quantised model, which is not"
            " supported; give a"
            " checkpoint in float32, bfloat16 or float16"
        )


def _differences(tensors: Mapping[str, Stored], outer: Mapping[str, object]) -> Iterator[str]:
    """In what the weights differ from what a config of a known type says."""
    kind = outer.get("model_type")
    family = next((one for one in FAMILIES if kind in one.model_types), None)
    if family is None or not any(layer == 0 for layer, _ in _in_layers(tensors, family)):
        return
    yield from _other_head(tensors, outer)
    yield from _layers(tensors, outer, family)
    yield from _shapes(tensors, outer, family)
    if kind in _EVEN:
        yield from _uneven(tensors, family)
    if kind in _EVEN and (odd := odd_ones(tensors)):
        yield f"{len(odd)} unlike those of other blocks: {_some(odd)}"
    yield from _ends(tensors, outer)
    if kind in _EVEN:
        yield from _surplus(tensors, family)


def _advice(ref: str) -> str:
    return (
        "; give a checkpoint of this model or correct its config.json; to draw what has no value at random"
        " and leave out what is unexpected, add missing_weights: initialise and a seed to the model, as in"
        f" {{ref: {ref}, missing_weights: initialise, seed: 0}}"
    )


def _in_layers(tensors: Mapping[str, Stored], family: Family) -> Iterator[tuple[int, str]]:
    """The number of the block of each tensor that is in one, and its name there."""
    last = family.blocks.rpartition(".")[2]
    pattern = re.compile(rf"^(?:[\w.]*\.)?{re.escape(last)}\.(\d{{1,9}})\.(.+)$")
    for name in tensors:
        if match := pattern.match(name):
            yield int(match[1]), match[2]


def _other_head(tensors: Mapping[str, Stored], config: Mapping[str, object]) -> Iterator[str]:
    others = [name for name in tensors if _OTHER_HEADS.match(name)]
    if others and not any(name.endswith(_HEADS) for name in tensors):
        yield (
            f"{len(others)} unexpected, of the head of another class: {_some(others)}, and the head of a"
            " language model is missing in the checkpoint"
        )


def _layers(tensors: Mapping[str, Stored], config: Mapping[str, Any], family: Family) -> Iterator[str]:
    key = next((key for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), None)
    there = 1 + max(layer for layer, _ in _in_layers(tensors, family))
    if key is not None and config[key] != there:
        last = family.blocks.rpartition(".")[2]
        what = (
            "missing in the checkpoint" if there < config[key] else "unexpected, without a place in the model"
        )
        yield (
            f"{key} is {config[key]:,}, but they have {there:,} blocks ({last}.0 to {last}.{there - 1}):"
            " tensors"
            f" are {what}"
        )


def _uneven(tensors: Mapping[str, Stored], family: Family) -> Iterator[str]:
    """Tensors that some blocks have and others lack."""
    blocks: dict[int, set[str]] = {}
    for layer, name in _in_layers(tensors, family):
        blocks.setdefault(layer, set())
        if not _COMPUTED.search(name):
            blocks[layer].add(name)
    every = sorted(set().union(*blocks.values()))
    lacking = [
        f"{family.blocks}.{layer}.{name}"
        for layer, names in sorted(blocks.items())
        for name in every
        if name not in names
    ]
    if lacking:
        yield f"{len(lacking)} missing in the checkpoint: {_some(lacking)}"


def _shapes(tensors: Mapping[str, Stored], config: Mapping[str, object], family: Family) -> Iterator[str]:
    expected = _expected(config)
    blocks: dict[int, set[str]] = {}
    for layer, name in _in_layers(tensors, family):
        blocks.setdefault(layer, set()).add(name)
    lacking = [
        f"{family.blocks}.{layer}.{name}"
        for layer, names in sorted(blocks.items())
        for name in expected
        if name not in names
    ]
    if lacking:
        yield f"{len(lacking)} missing in the checkpoint: {_some(lacking)}"
    wrong = [
        f"{name} ({list(tensor.shape)}, the model's {list(shape)})"
        for name, tensor in tensors.items()
        for end, shape in expected.items()
        if name.endswith(f".{end}") and tensor.shape != shape
    ]
    if wrong:
        yield f"{len(wrong)} mismatched in shape: {_some(wrong)}"


def _expected(config: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Weights of each block by their name there, with their shapes, as far as the config says all of it."""
    kind = config.get("model_type")
    width = _int(config, "hidden_size", "n_embd")
    heads = _int(config, "num_attention_heads", "n_head")
    hidden = _int(config, "intermediate_size")
    if width is None or heads is None:
        return {}
    if kind == "gpt2":
        hidden = _int(config, "n_inner") or 4 * width
        return {
            **{"attn.c_attn.weight": (width, 3 * width), "attn.c_proj.weight": (width, width)},
            **{"mlp.c_fc.weight": (width, hidden), "mlp.c_proj.weight": (hidden, width)},
        }
    if kind == "gpt_neox" and hidden is not None:
        return {
            **{
                "attention.query_key_value.weight": (3 * width, width),
                "attention.dense.weight": (width, width),
            },
            **{"mlp.dense_h_to_4h.weight": (hidden, width), "mlp.dense_4h_to_h.weight": (width, hidden)},
        }
    if kind not in _GATED or hidden is None:
        return {}
    found: dict[str, tuple[int, ...]] = {
        **{"mlp.gate_proj.weight": (hidden, width), "mlp.up_proj.weight": (hidden, width)},
        "mlp.down_proj.weight": (width, hidden),
    }
    head = _int(config, "head_dim")
    if head is None and kind in {"gemma", "gemma2", "gemma3_text", "qwen3"}:
        return found  # Their class says how wide a head is.
    head = head or width // heads
    shared = _int(config, "num_key_value_heads") or heads
    queries, keys = (heads * head, width), (shared * head, width)
    found |= {"self_attn.q_proj.weight": queries, "self_attn.k_proj.weight": keys}
    return found | {"self_attn.v_proj.weight": keys, "self_attn.o_proj.weight": (width, heads * head)}


def _ends(tensors: Mapping[str, Stored], config: Mapping[str, object]) -> Iterator[str]:
    """The embedding and the head."""
    size = (_int(config, "vocab_size"), _int(config, "hidden_size", "n_embd"))
    tables = [name for name in tensors if name.endswith(_EMBEDDINGS)]
    heads = [name for name in tensors if name.endswith(_HEADS)]
    wrong = [
        f"{name} ({list(tensors[name].shape)}, the model's {list(size)})"
        for name in (*tables, *heads)
        if None not in size and tensors[name].shape != size
    ]
    if wrong:
        yield f"{len(wrong)} mismatched in shape: {_some(wrong)}"
    if not tables:
        yield f"the embedding is missing in the checkpoint ({' or '.join(_EMBEDDINGS)})"
    if config.get("model_type") not in ("olmo", "cohere") and not any(
        name.endswith(_NORMS) and not re.search(r"\.\d+\.", name) for name in tensors
    ):
        yield f"the last norm is missing in the checkpoint ({' or '.join(_NORMS)})"
    tied = config.get("tie_word_embeddings", config.get("model_type") not in _UNTIED)
    if not heads and tied is False:
        head = "embed_out.weight" if config.get("model_type") == "gpt_neox" else "lm_head.weight"
        yield f"1 missing in the checkpoint: {head}"


def _surplus(tensors: Mapping[str, Stored], family: Family) -> Iterator[str]:
    """Tensors that lie beside the blocks and are no part of a language model."""
    last = family.blocks.rpartition(".")[2]
    found = [
        name
        for name in tensors
        if not re.search(rf"(^|\.){re.escape(last)}\.\d", name) and not _BESIDE_BLOCKS.search(name)
    ]
    if found:
        yield f"{len(found)} unexpected, without a place in the model: {_some(found)}"


def _int(config: Mapping[str, object], *keys: str) -> int | None:
    return next((value for key in keys if type(value := config.get(key)) is int), None)


def _many(names: Sequence[str], what: str) -> str:
    return f"1 {what} that is" if len(names) == 1 else f"{len(names)} {what}s that are"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(name[:200] for name in names[:_MOST_NAMED]) + more
