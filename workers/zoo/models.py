"""Modules of the built-in models: ``zoo:mlp``, ``zoo:gru`` and ``zoo:gpt``, plain on purpose.

Shapes: B rows, T tokens or time steps, E width of a token's vector, W width of a state, H heads, D width of a
head (W / H), C words of the vocabulary or classes.
"""

__all__ = ["GPT", "GRU", "MLP"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.errors import ModelError
from workers.zoo.base import ZooModel, head_of
from workers.zoo.configs import Activation, GPTConfig, GRUConfig, MLPConfig

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class MLPLayer(nn.Module):
    """One hidden layer: ``activation(linear(h))``, [B, W] to [B, W]."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, config.width)
        self.activation = _ACTIVATIONS[config.activation]()

    def forward(self, hidden: Tensor) -> Tensor:
        """The next hidden state."""
        activated: Tensor = self.activation(self.linear(hidden))
        return activated


class MLP(ZooModel):
    """Classifier of tokens whose vectors lie side by side in its first layer's input, at one position.

    Where the config has a vocabulary, an id becomes ``width / num_inputs`` dimensions of that input:
    token ``t`` is the dimensions ``[t · E, (t + 1) · E)`` of ``block_input`` at layer 0.
    """

    input_dims = (2, 3)
    config: MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = None
        if config.vocab_size is not None:
            self.embed = nn.Embedding(config.vocab_size, config.width // config.num_inputs)
        self.layers = nn.ModuleList(MLPLayer(config) for _ in range(config.num_layers))
        self.head = head_of(config.width, config.outputs)

    def heads(self, vectors: Tensor, own: Tensor | None) -> Mapping[str, Tensor]:
        """The logits [B, 1, C] of each head, of vectors [B, T, E] with T · E = W, or [B, W].

        Raises:
            ModelError: the vectors side by side are not as wide as the model, or some are padding.
        """
        hidden = vectors.flatten(1)
        if hidden.shape[1] != self.config.width or (own is not None and not own.all()):
            raise ModelError(
                f"zoo:mlp is {self.config.width} wide, and is given {list(vectors.shape[1:])} for each "
                f"example{'' if own is None else ', some of it padding'}: give what fills it"
            )
        layers: list[Tensor] = []
        for layer in self.layers:
            hidden = layer(hidden)
            layers.append(hidden)
        return self._read(hidden, layers)


class GRUCell(nn.Module):
    """One step of a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), as torch.nn.GRU computes it::

        r = σ(W_ir x + b_ir + W_hr h + b_hr)              reset gate
        z = σ(W_iz x + b_iz + W_hz h + b_hz)              update gate
        n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn))     new gate: the candidate state
        h' = (1 - z) ⊙ n + z ⊙ h

    The gates are modules of their own, so that what they return can be read and changed. The rows of
    both weights are those of r, z and n, in this order.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(width, 3 * width)
        self.from_state = nn.Linear(width, 3 * width)
        self.reset_gate = nn.Sigmoid()
        self.update_gate = nn.Sigmoid()
        self.new_gate = nn.Tanh()

    def forward(self, given: Tensor, state: Tensor) -> Tensor:
        """The state [B, W] after a step that is given [B, W] and the state [B, W] before it."""
        reset_x, update_x, new_x = self.from_input(given).chunk(3, -1)
        reset_h, update_h, new_h = self.from_state(state).chunk(3, -1)
        reset = self.reset_gate(reset_x + reset_h)
        update = self.update_gate(update_x + update_h)
        new = self.new_gate(new_x + reset * new_h)
        after: Tensor = (1 - update) * new + update * state
        return after


class GRULayer(nn.Module):
    """One cell run over all steps, from a state of zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = GRUCell(width)

    def forward(self, given: Tensor, own: Tensor | None) -> Tensor:
        """The states [B, T, W] of a run that is given [B, T, W]; at padding the state stays."""
        state = torch.zeros_like(given[:, 0])
        states = []
        for number, step in enumerate(given.unbind(1)):
            after = self.cell(step, state)
            state = after if own is None else torch.where(own[:, number, None], after, state)
            states.append(state)
        return torch.stack(states, 1)


class GRU(ZooModel):
    """Layers one above the other; the head classifies the last layer's last state, or each of its states."""

    config: GRUConfig

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = None if config.vocab_size is None else nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(GRULayer(config.width) for _ in range(config.num_layers))
        self.head = head_of(config.width, config.outputs)

    def heads(self, vectors: Tensor, own: Tensor | None) -> Mapping[str, Tensor]:
        """The logits of each head, of vectors [B, T, W]: [B, T, C] with ``per_step``, else [B, 1, C].

        Raises:
            ModelError: there is no step, or the vectors are not as wide as the model.
        """
        if vectors.shape[1] == 0 or vectors.shape[2] != self.config.width:
            raise ModelError(
                f"zoo:gru is given {vectors.shape[1]} steps of {vectors.shape[2]} dimensions; "
                f"give at least one step, each {self.config.width} wide"
            )
        hidden = vectors
        for layer in self.layers:
            hidden = layer(hidden, own)
        return self._read(hidden if self.config.per_step else hidden[:, -1])

    @torch.no_grad()
    def copy_weights(self, other: nn.GRU) -> None:
        """Take the weights of a torch.nn.GRU, whose states this model then computes.

        Raises:
            ModelError: it is not of this shape (as many layers, its input as wide as its state, one
                direction, biases).
        """
        width, layers = self.config.width, self.config.num_layers
        shape = (other.input_size, other.hidden_size, other.num_layers, other.bidirectional, other.bias)
        if shape != (width, width, layers, False, True):
            raise ModelError(
                f"{other} cannot be copied: only GRU({width}, {width}, num_layers={layers}), in one "
                "direction and with biases, has the weights of this model"
            )
        cells = [module for module in self.modules() if isinstance(module, GRUCell)]
        for number, cell in enumerate(cells):
            for ours, theirs in ((cell.from_input, "ih"), (cell.from_state, "hh")):
                ours.weight.copy_(getattr(other, f"weight_{theirs}_l{number}"))
                ours.bias.copy_(getattr(other, f"bias_{theirs}_l{number}"))


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
        """Mix of the values of each token and the tokens before it, where `mask` [B, 1, T, T] lets it."""
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


class DecoderBlock(nn.Module):
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
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_layers))
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
    """Mask of the tokens that each token sees [B, 1, T, T]: its example's own up to itself.

    Padding sees itself: a token that sees none would have no weights, and give NaN.
    """
    shape = (own.shape[1],) * 2
    before = torch.ones(shape, dtype=torch.bool, device=own.device).tril()
    itself = torch.eye(*shape, dtype=torch.bool, device=own.device)
    return (before & own[:, None] | itself)[:, None]
