"""``zoo:gpt``: a small decoder, plain on purpose.

Shapes: B rows, T tokens, W width, H heads, D width of a head (W / H), C words of the vocabulary or classes.
"""

__all__ = ["GPT"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.errors import ModelError
from workers.zoo.base import ZooModel, head_of
from workers.zoo.configs import GPTConfig


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, arXiv 1706.03762, equation 1), [B, T, W] to [B, T, W]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.project = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What each token takes from itself and the tokens before it, where `mask` [B, 1, T, T] lets it."""
        query, key, value = (
            layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # [B, H, T, D]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """``down(gelu(up(x)))``, four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.activation = nn.GELU()
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        returned: Tensor = self.down(self.activation(self.up(hidden)))
        return returned


class Block(nn.Module):
    """Attention and MLP, each given the norm of the residual stream and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        hidden = hidden + self.attention(self.attention_norm(hidden), mask)
        after: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return after


class GPT(ZooModel):
    """Blocks over token and position embeddings; the head reads every token, or classifies the last."""

    config: GPTConfig

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_tokens, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        if config.outputs is None:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        else:
            self.head = head_of(config.width, config.outputs)

    def heads(self, vectors: Tensor, own: Tensor | None) -> Mapping[str, Tensor]:
        """The logits of each head, [B, T, C] of a language model, [B, 1, C] of a classifier.

        Raises:
            ModelError: there are more tokens than positions, or the vectors are not as wide as the model.
        """
        num_tokens, width = vectors.shape[1:]
        if not 0 < num_tokens <= self.config.max_tokens or width != self.config.width:
            raise ModelError(
                f"zoo:gpt is given {num_tokens} tokens of {width} dimensions; give 1 to "
                f"{self.config.max_tokens} (max_tokens), each {self.config.width} wide"
            )
        mask = None if own is None else _mask(own)
        own = torch.ones_like(vectors[..., 0], dtype=torch.bool) if own is None else own
        numbers = own.cumsum(1) - 1  # [B, T]: of each token among its example's own
        hidden = vectors + self.positions(numbers.clamp_min(0))
        for block in self.blocks:
            hidden = block(hidden, mask)
        if self.config.outputs is None:
            return self._read(self.norm(hidden))
        last = hidden[torch.arange(len(hidden), device=hidden.device), numbers.argmax(1)]
        return self._read(self.norm(last))


def _mask(own: Tensor) -> Tensor:
    """Which tokens each token sees [B, 1, T, T]: its example's own up to itself.

    Padding sees itself: a token that sees none would have no weights, and give NaN.
    """
    shape = (own.shape[1],) * 2
    before = torch.ones(shape, dtype=torch.bool, device=own.device).tril()
    itself = torch.eye(*shape, dtype=torch.bool, device=own.device)
    return (before & own[:, None] | itself)[:, None]
