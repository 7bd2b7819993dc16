"""Tiny models that break what the names of sites promise, each in one way that research code does."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from tiny import tiny_module
from torch import Tensor, nn


def layer_scaled(make: Callable[[], nn.Module] | None) -> Any:
    """A Llama whose blocks scale what they add: by a module of their own, or by a number."""
    module = tiny_module("llama")
    for block in module.model.layers:
        for name in ("first", "second"):
            setattr(block, name, make() if make else 0.4)
        block.forward = MethodType(_scaled_block, block)
    return module


class Scale(nn.Module):
    """Multiplies each dimension by a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.2, 0.9, 32))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight


def _scaled_block(self: Any, hidden_states: Tensor, **given: Any) -> Tensor:
    def scaled(by: Any, added: Tensor) -> Tensor:
        return by(added) if isinstance(by, nn.Module) else by * added

    attention, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **given)
    hidden = hidden_states + scaled(self.first, attention)
    return hidden + scaled(self.second, self.mlp(self.post_attention_layernorm(hidden)))


class NormOfAllHeads(nn.Module):
    """Norm over all heads of queries [B, T, H, D]."""

    def forward(self, queries: Tensor) -> Tensor:
        return queries / queries.flatten(2).square().mean(-1)[..., None, None].sqrt()


def normed_over_all_heads() -> Any:
    """A Qwen-3 whose queries' norm spans all heads."""
    module = tiny_module("qwen3")
    for block in module.model.layers:
        block.self_attn.q_norm = NormOfAllHeads()
    return module


def normed_inside_attention() -> Any:
    """A Llama whose attention norms what its heads sum to."""
    module = tiny_module("llama")
    for block in module.model.layers:
        block.self_attn.o_proj = nn.Sequential(block.self_attn.o_proj, nn.LayerNorm(32))
    return module


def with_third_branch() -> Any:
    """A Llama whose blocks add something beside attention and MLP."""
    module = tiny_module("llama")
    for block in module.model.layers:
        block.register_forward_hook(lambda _, given, output: output + 0.1 * torch.tanh(given[0]))
    return module


def not_finite() -> Any:
    """A Llama whose numbers are none."""
    module = tiny_module("llama")
    nn.init.constant_(module.model.layers[0].mlp.down_proj.weight, float("nan"))
    return module
