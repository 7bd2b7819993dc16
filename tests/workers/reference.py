"""Interventions written out by hand: three decoders in plain torch, one job at a time, nothing shared.

Slow and obvious on purpose, and it imports torch only, so that it can be wrong in no way that the engine
is. Shapes: T tokens, W width, H heads, D width of a head, V vocabulary.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Touch = Callable[[str, int, Tensor], Tensor]
"""Called with (site, layer, value [T, W]); returns the value that the network goes on with."""


def intervene(
    kind: str, module: Any, cell: Any, pair: Any, fits: Mapping[str, Any] = {}, noise: Any = None
) -> Tensor:
    """The next-token logits [V] at the cell's read token, for one cell on one pair.

    `fits` are rotations [W, W] and vectors [C] or [T, C] by identity; `noise(unit, token, width)` is what a
    unit draws.
    """
    runs = {run: record(kind, module, tokens) for run, tokens in pair.tokens.items()}
    spans = dict(pair.spans)
    for run in cell.runs:
        units = Units(run.units, runs, spans, module.config, fits, noise)
        spans[run.name] = pair.spans.get("base", {})
        runs[run.name] = record(kind, module, pair.tokens["base"], units.touch)
    units = Units(cell.units, runs, spans, module.config, fits, noise)
    logits = NETWORKS[kind](module.state_dict(), module.config, pair.tokens["base"], units.touch)
    (read,) = located((cell.read,), pair.spans.get("base", {}))
    return logits[read]


def record(
    kind: str, module: Any, tokens: tuple[int, ...], change: Touch | None = None
) -> dict[tuple[str, int], Tensor]:
    """Every site's value, clean or changed, and the logits under ("logits", -1)."""
    values: dict[tuple[str, int], Tensor] = {}

    def touch(site: str, layer: int, value: Tensor) -> Tensor:
        values[site, layer] = value if change is None else change(site, layer, value)
        return values[site, layer]

    values["logits", -1] = NETWORKS[kind](module.state_dict(), module.config, tokens, touch)
    return values


@dataclass
class Units:
    """The units of one run, done one after the other."""

    units: Any
    runs: Mapping[str, Any]
    spans: Mapping[str, Any]
    config: Any
    fits: Mapping[str, Any]
    noise: Any

    def touch(self, site: str, layer: int, value: Tensor) -> Tensor:
        for one in self.units:
            if (one.place.site, one.place.layer) == (site, layer):
                value = self.change(value, one)
        return value

    def change(self, value: Tensor, one: Any) -> Tensor:
        """`value` [T, W] after one unit."""
        value = value.clone()
        to = located(one.place.position, self.spans.get("base", {}))
        dims = one.dims if one.fit is None else None
        columns = wanted_columns(one.place, dims, value.shape[-1], self.config)
        for number, token in enumerate(to):
            old = value[token, columns]
            other = self.other(one, dims, number, token, value.shape[-1], columns)
            value[token, columns] = self.exchanged(one, old, other)
        return value

    def other(self, one: Any, dims: Any, number: int, token: int, width: int, columns: list[int]) -> Tensor:
        """What a unit writes at its `number`-th token."""
        if one.run == "zero":
            return torch.zeros(len(columns))
        if one.run == "noise":
            return self.noise(one, token, width)[columns]
        if one.run == "fit":
            vector = self.fits[one.value_fit]
            vector = vector if vector.dim() == 1 else vector[token]
            heads = vector.reshape(len(one.place.heads or (0,)), -1)
            wanted = dims or ((0, heads.shape[-1]),)
            parts = [head[low:high] for head in heads for low, high in wanted]
            return torch.cat(parts) * (1 if one.scale is None else one.scale)
        there = self.runs[one.run][one.origin.site, one.origin.layer]
        origins = located(one.origin.position, self.spans.get(one.run, {}))
        pooled = any(isinstance(p, str) and p.endswith(".mean") for p in one.origin.position)
        vector = there[origins].mean(0) if pooled else there[origins[number]]
        return vector[wanted_columns(one.origin, dims, there.shape[-1], self.config)]

    def exchanged(self, one: Any, old: Tensor, other: Tensor) -> Tensor:
        if one.fit is None:
            return done(one.operation, old, other)
        rotation = self.fits[one.fit]
        new = []
        for mine, given in zip(old.split(len(rotation)), other.split(len(rotation)), strict=True):
            before, after = rotation.T @ mine, rotation.T @ given
            wanted = [k for low, high in one.dims or ((0, len(before)),) for k in range(low, high)]
            mixed = before.clone()
            mixed[wanted] = done(one.operation, before[wanted], after[wanted])
            new.append(rotation @ mixed)
        return torch.cat(new)


def done(operation: str, old: Tensor, other: Tensor) -> Tensor:
    return {"vanilla": other, "add": old + other, "subtract": old - other}[operation]


def wanted_columns(place: Any, dims: Any, width: int, config: Any) -> list[int]:
    """The columns of a site's value, head by head, that a unit means."""
    if place.heads is None:
        blocks = [list(range(width))]
    else:
        is_kv = place.site in ("key_output", "value_output")
        heads = getattr(config, "num_key_value_heads", None) if is_kv else None
        head_width = width // (heads or config.num_attention_heads)
        blocks = [list(range(h * head_width, (h + 1) * head_width)) for h in place.heads]
    if dims is None:
        return [column for block in blocks for column in block]
    return [column for block in blocks for low, high in dims for column in block[low:high]]


def located(position: tuple[int | str, ...], spans: Mapping[str, tuple[int, int]]) -> list[int]:
    """Token indices of a position."""
    found: list[int] = []
    for item in position:
        if isinstance(item, int):
            found.append(item)
            continue
        name = re.split(r"\.|\[", item)[0]
        tokens = list(range(*spans[name]))
        if item.endswith(".first"):
            tokens = tokens[:1]
        elif item.endswith(".last"):
            tokens = tokens[-1:]
        elif item.endswith("]"):
            tokens = [tokens[int(item.split("[")[1][:-1])]]
        found += tokens
    return found


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention, head by head: [T, H, D] with [T, K, D] twice gives [T, H * D]."""
    num_tokens, num_heads, width = queries.shape
    group = num_heads // keys.shape[1]
    mixed = torch.zeros_like(queries)
    for head in range(num_heads):
        for token in range(num_tokens):
            scores = keys[: token + 1, head // group] @ queries[token, head] / math.sqrt(width)
            mixed[token, head] = scores.softmax(0) @ values[: token + 1, head // group]
    return mixed.reshape(num_tokens, num_heads * width)


def rotate(heads: Tensor, num_rotated: int, theta: float = 10000.0) -> Tensor:
    """Rotary embedding of the first `num_rotated` dimensions of [T, H, D]; halves are paired."""
    angles = torch.arange(len(heads))[:, None] * theta ** (-torch.arange(0, num_rotated, 2) / num_rotated)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    low, high, rest = heads.split([num_rotated // 2, num_rotated // 2, heads.shape[-1] - num_rotated], -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], -1)


def rms_norm(value: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return value / (value.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight


def added(touch: Touch, part: str, layer: int, returned: Tensor) -> Tensor:
    """What the attention or the MLP adds to the residual stream: in these networks, what it returns."""
    return touch(f"{part}_added", layer, touch(f"{part}_output", layer, returned))


def gpt2(w: Mapping[str, Tensor], config: Any, tokens: tuple[int, ...], touch: Touch) -> Tensor:
    def norm(value: Tensor, name: str) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(value: Tensor, name: str) -> Tensor:
        return value @ w[f"{name}.weight"] + w[f"{name}.bias"]

    hidden = w["transformer.wte.weight"][list(tokens)] + w["transformer.wpe.weight"][: len(tokens)]
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        hidden = touch("block_input", layer, hidden)
        given = touch("attention_input", layer, norm(hidden, f"{block}.ln_1"))
        parts = linear(given, f"{block}.attn.c_attn").chunk(3, -1)
        heads = [
            touch(site, layer, part).reshape(len(tokens), config.n_head, -1)
            for site, part in zip(("query_output", "key_output", "value_output"), parts, strict=True)
        ]
        mixed = touch("attention_value_output", layer, attend(*heads))
        hidden = hidden + added(touch, "attention", layer, linear(mixed, f"{block}.attn.c_proj"))
        given = touch("mlp_input", layer, norm(hidden, f"{block}.ln_2"))
        neurons = F.gelu(linear(given, f"{block}.mlp.c_fc"), approximate="tanh")
        neurons = touch("mlp_activation", layer, neurons)
        hidden = hidden + added(touch, "mlp", layer, linear(neurons, f"{block}.mlp.c_proj"))
        hidden = touch("block_output", layer, hidden)
    return norm(hidden, "transformer.ln_f") @ w["lm_head.weight"].T


def llama(w: Mapping[str, Tensor], config: Any, tokens: tuple[int, ...], touch: Touch) -> Tensor:
    def norm(value: Tensor, name: str) -> Tensor:
        return rms_norm(value, w[f"{name}.weight"], config.rms_norm_eps)

    hidden = w["model.embed_tokens.weight"][list(tokens)]
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        hidden = touch("block_input", layer, hidden)
        given = touch("attention_input", layer, norm(hidden, f"{block}.input_layernorm"))
        heads = []
        for site, name, count in (
            ("query_output", "q_proj", config.num_attention_heads),
            ("key_output", "k_proj", config.num_key_value_heads),
            ("value_output", "v_proj", config.num_key_value_heads),
        ):
            projected = given @ w[f"{block}.self_attn.{name}.weight"].T
            heads.append(touch(site, layer, projected).reshape(len(tokens), count, -1))
        query, key = (rotate(h, h.shape[-1]) for h in heads[:2])
        mixed = touch("attention_value_output", layer, attend(query, key, heads[2]))
        output = mixed @ w[f"{block}.self_attn.o_proj.weight"].T
        hidden = hidden + added(touch, "attention", layer, output)
        given = touch("mlp_input", layer, norm(hidden, f"{block}.post_attention_layernorm"))
        gate, up = (given @ w[f"{block}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        neurons = touch("mlp_activation", layer, F.silu(gate) * up)
        hidden = hidden + added(touch, "mlp", layer, neurons @ w[f"{block}.mlp.down_proj.weight"].T)
        hidden = touch("block_output", layer, hidden)
    return norm(hidden, "model.norm") @ w["lm_head.weight"].T


def gpt_neox(w: Mapping[str, Tensor], config: Any, tokens: tuple[int, ...], touch: Touch) -> Tensor:
    def norm(value: Tensor, name: str) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(value: Tensor, name: str) -> Tensor:
        return value @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    hidden = w["gpt_neox.embed_in.weight"][list(tokens)]
    for layer in range(config.num_hidden_layers):
        block = f"gpt_neox.layers.{layer}"
        hidden = touch("block_input", layer, hidden)
        given = touch("attention_input", layer, norm(hidden, f"{block}.input_layernorm"))
        fused = linear(given, f"{block}.attention.query_key_value")
        by_head = fused.reshape(len(tokens), config.num_attention_heads, 3, -1)
        heads = [
            touch(site, layer, by_head[:, :, part].flatten(1)).reshape(by_head[:, :, part].shape)
            for part, site in enumerate(("query_output", "key_output", "value_output"))
        ]
        num_rotated = int(heads[0].shape[-1] * 0.25)
        query, key = (rotate(h, num_rotated) for h in heads[:2])
        mixed = touch("attention_value_output", layer, attend(query, key, heads[2]))
        attention = added(touch, "attention", layer, linear(mixed, f"{block}.attention.dense"))
        given = touch("mlp_input", layer, norm(hidden, f"{block}.post_attention_layernorm"))
        neurons = touch("mlp_activation", layer, F.gelu(linear(given, f"{block}.mlp.dense_h_to_4h")))
        mlp = added(touch, "mlp", layer, linear(neurons, f"{block}.mlp.dense_4h_to_h"))
        hidden = touch("block_output", layer, mlp + attention + hidden)
    unembedding = w["embed_out.weight"] if "embed_out.weight" in w else w["lm_head.weight"]
    return norm(hidden, "gpt_neox.final_layer_norm") @ unembedding.T


NETWORKS = {"gpt2": gpt2, "llama": llama, "gpt_neox": gpt_neox}
