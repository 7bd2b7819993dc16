"""Families of models: for each the modules that hold the named sites, in one small table. No torch here.

A family is a kind of block, not a model type: ``llama`` and ``qwen3`` name their modules alike. What
differs between members (biases, norms of queries, windows, scales) is the library's business.
"""

__all__ = [
    "BUILT_IN",
    "FAMILIES",
    "Family",
    "Fusion",
    "Part",
    "Positions",
    "SiteRow",
    "Spot",
    "describe",
    "family_of",
    "num_positions",
    "sites_of",
]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from workers.errors import ModelError, nearest
from workers.model.facts import ModelFacts
from workers.model.sites import SITES, Side, num_heads

Part = Literal["query", "key", "value"]
"""A share of a projection that makes queries, keys and values at once."""

Fusion = Literal["concatenated", "interleaved"]
"""Layout of queries, keys and values in it: all queries, then all keys, then all values; or the three of each
head in turn."""

Positions = Literal["token", "step", "run"]
"""Meaning of a position at a family's sites: tokens; time steps, each of which is a run of the module; or
one for the whole run."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Hook point of a site in a block: a module, and its input or output."""

    module: str
    """Path of the module inside the block; empty for the block itself."""
    side: Side
    part: Part | None = None
    """Share of a fused projection; None for the whole width."""
    times: str | None = None
    """Attribute of the block that the tensor is multiplied by before it goes on; None where by nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Names that the models of one family have for their modules."""

    name: str
    model_types: tuple[str, ...]
    """The names of its members in the transformers library, or of built-in models."""
    blocks: str
    """Path of the list of blocks."""
    sites: Mapping[str, Spot]
    fusion: Fusion | None = None
    """Layout of queries, keys and values that share one projection; None where each has its own."""
    positions: Positions = "token"
    norm_of_heads: Mapping[str, str] = field(default_factory=dict)
    """Sites that a norm over all heads at once follows, each with the site after the norm."""
    note: str = ""
    """Remark on its blocks, for users."""


def _block_sites(
    attention: str, qkv: tuple[str, str, str] | str, mixed: str, mlp: str, neurons: str
) -> dict[str, Spot]:
    """The sites of a block, from the names of its modules; `qkv` is one name where they are fused."""
    if isinstance(qkv, str):
        query, key, value = (
            Spot(f"{attention}.{qkv}", "output", "query"),
            Spot(f"{attention}.{qkv}", "output", "key"),
            Spot(f"{attention}.{qkv}", "output", "value"),
        )
    else:
        query, key, value = (Spot(f"{attention}.{name}", "output") for name in qkv)
    return {
        "block_input": Spot("", "input"),
        "attention_input": Spot(attention, "input"),
        "query_output": query,
        "key_output": key,
        "value_output": value,
        "attention_value_output": Spot(f"{attention}.{mixed}", "input"),
        "attention_output": Spot(attention, "output"),
        "attention_added": Spot(attention, "output"),
        "mlp_input": Spot(mlp, "input"),
        "mlp_activation": Spot(f"{mlp}.{neurons}", "input"),
        "mlp_output": Spot(mlp, "output"),
        "mlp_added": Spot(mlp, "output"),
        "block_output": Spot("", "output"),
    }


_SPLIT = ("q_proj", "k_proj", "v_proj")
_LLAMA = _block_sites("self_attn", _SPLIT, "o_proj", "mlp", "down_proj")
_AFTER_ATTENTION = Spot("post_attention_layernorm", "output")
_AFTER_MLP = Spot("post_feedforward_layernorm", "output")
_POST_NORMS = {
    **{"attention_post_norm_output": _AFTER_ATTENTION, "attention_added": _AFTER_ATTENTION},
    **{"mlp_post_norm_output": _AFTER_MLP, "mlp_added": _AFTER_MLP},
}
_MULTIPLIED = {
    "attention_added": Spot("self_attn", "output", times="residual_multiplier"),
    "mlp_added": Spot("mlp", "output", times="residual_multiplier"),
}
_HEAD_NORMS = {
    "query_norm_output": Spot("self_attn.q_norm", "output"),
    "key_norm_output": Spot("self_attn.k_norm", "output"),
}
_POST_NORM_NOTE = (
    "The attention's and the MLP's outputs pass a norm before they are added: attention_added and mlp_added "
    "are attention_post_norm_output and mlp_post_norm_output."
)
_PARALLEL_NOTE = "Attention and MLP both read the block's input: there is no residual stream between them."

FAMILIES: tuple[Family, ...] = (
    Family(
        name="gpt2",
        model_types=("gpt2",),
        blocks="transformer.h",
        sites=_block_sites("attn", "c_attn", "c_proj", "mlp", "c_proj"),
        fusion="concatenated",
    ),
    Family(
        name="llama",
        model_types=("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo", "smollm3"),
        blocks="model.layers",
        sites=_LLAMA,
    ),
    Family(
        name="granite",
        model_types=("granite",),
        blocks="model.layers",
        sites={**_LLAMA, **_MULTIPLIED},
        note=(
            "The attention's and the MLP's outputs are multiplied by the config's residual_multiplier before "
            "they are added: attention_added and mlp_added are the products."
        ),
    ),
    Family(
        name="starcoder2",
        model_types=("starcoder2",),
        blocks="model.layers",
        sites=_block_sites("self_attn", _SPLIT, "o_proj", "mlp", "c_proj"),
    ),
    Family(
        name="stablelm",
        model_types=("stablelm",),
        blocks="model.layers",
        sites=_LLAMA,
        note=f"With use_parallel_residual: {_PARALLEL_NOTE}",
    ),
    Family(name="cohere", model_types=("cohere",), blocks="model.layers", sites=_LLAMA, note=_PARALLEL_NOTE),
    Family(
        name="gemma2",
        model_types=("gemma2", "gemma3_text"),
        blocks="model.layers",
        sites={**_LLAMA, **_POST_NORMS},
        note=_POST_NORM_NOTE,
    ),
    Family(
        name="olmo2",
        model_types=("olmo2",),
        blocks="model.layers",
        sites={**_LLAMA, **_POST_NORMS, **_HEAD_NORMS},
        norm_of_heads={"query_output": "query_norm_output", "key_output": "key_norm_output"},
        note=(
            f"{_POST_NORM_NOTE} There is no norm before them. Queries and keys pass a norm over all heads: "
            "single heads are those of query_norm_output and key_norm_output."
        ),
    ),
    Family(
        name="phi3",
        model_types=("phi3",),
        blocks="model.layers",
        sites=_block_sites("self_attn", "qkv_proj", "o_proj", "mlp", "down_proj"),
        fusion="concatenated",
    ),
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        blocks="gpt_neox.layers",
        sites=_block_sites("attention", "query_key_value", "dense", "mlp", "dense_4h_to_h"),
        fusion="interleaved",
        note=f"With use_parallel_residual (the default): {_PARALLEL_NOTE}",
    ),
)
"""Every family of the transformers library that the tests run with tiny random models."""

BUILT_IN: tuple[Family, ...] = (
    Family(
        name="zoo:mlp",
        model_types=("zoo:mlp",),
        blocks="layers",
        sites={
            "block_input": Spot("", "input"),
            "mlp_activation": Spot("activation", "output"),
            "block_output": Spot("", "output"),
        },
        positions="run",
        note="A block is one linear map and its activation, so mlp_activation equals block_output.",
    ),
    Family(
        name="zoo:gru",
        model_types=("zoo:gru",),
        blocks="layers",
        sites={
            "cell_input": Spot("cell", "input"),
            "reset_gate_output": Spot("cell.reset_gate", "output"),
            "update_gate_output": Spot("cell.update_gate", "output"),
            "new_gate_output": Spot("cell.new_gate", "output"),
            "cell_output": Spot("cell", "output"),
        },
        positions="step",
        note="A position is a time step; a change there reaches every later step.",
    ),
    Family(
        name="zoo:gpt",
        model_types=("zoo:gpt",),
        blocks="blocks",
        sites=_block_sites("attention", ("query", "key", "value"), "project", "mlp", "down"),
    ),
)
"""The built-in models."""

_BY_TYPE = {model_type: family for family in (*FAMILIES, *BUILT_IN) for model_type in family.model_types}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """One line of the table that shows a model's sites."""

    site: str
    module: str
    """Path from the model, with ``*`` for the block's number."""
    side: Side
    heads: int | None
    note: str


def family_of(model_type: str) -> Family:
    """The family of a model type of the transformers library.

    Raises:
        ModelError: no table describes it.
    """
    if model_type not in _BY_TYPE:
        raise ModelError(
            f"models of type {model_type!r} have no named sites; types that have are "
            f"{', '.join(sorted(_BY_TYPE))}; a module path such as 'model.layers.3.mlp' works for any "
            f"model{nearest(model_type, _BY_TYPE)}"
        )
    return _BY_TYPE[model_type]


def sites_of(facts: ModelFacts) -> dict[str, int | None]:
    """The model's named sites, in the order of computing, each with its number of heads or None.

    Raises:
        ModelError: no table describes the model's type.
    """
    sites = family_of(facts.model_type).sites
    return {name: num_heads(name, facts) for name in SITES if name in sites}


def num_positions(site: str, facts: ModelFacts, num_tokens: int) -> int:
    """Number of positions that `site` has in a run of `num_tokens`: as many, or one for the whole run.

    Of a module path nobody knows before the model runs: it counts as having as many as there are tokens, and
    naming all of them stands for the one that there may be.
    """
    is_whole = site in SITES and family_of(facts.model_type).positions == "run"
    return 1 if is_whole else num_tokens


def describe(facts: ModelFacts) -> list[SiteRow]:
    """The model's named sites as a table for users, in the order of computing.

    Raises:
        ModelError: no table describes the model's type.
    """
    family = family_of(facts.model_type)
    return [
        SiteRow(
            site=name,
            module=".".join(filter(None, (family.blocks, "*", family.sites[name].module))),
            side=family.sites[name].side,
            heads=heads,
            note=_note(name, family),
        )
        for name, heads in sites_of(facts).items()
    ]


def _note(site: str, family: Family) -> str:
    spot = family.sites[site]
    share = f" (the {spot.part} share of a projection that makes all three, {family.fusion})"
    product = f" (what the module returns, times the block's {spot.times})"
    return SITES[site].about + (share if spot.part else "") + (product if spot.times else "")
