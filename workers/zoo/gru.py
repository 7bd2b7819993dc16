"""``zoo:gru``: a recurrent classifier, unrolled so that each time step can be read and changed.

Shapes: B rows, T time steps, W width, C classes.
"""

__all__ = ["GRU"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.zoo.base import ZooModel, head_of
from workers.zoo.configs import GRUConfig


class Cell(nn.Module):
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


class Layer(nn.Module):
    """One cell run over all steps, from a state of zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = Cell(width)

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
        self.layers = nn.ModuleList(Layer(config.width) for _ in range(config.num_layers))
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
        cells = [module for module in self.modules() if isinstance(module, Cell)]
        for number, cell in enumerate(cells):
            for ours, theirs in ((cell.from_input, "ih"), (cell.from_state, "hh")):
                ours.weight.copy_(getattr(other, f"weight_{theirs}_l{number}"))
                ours.bias.copy_(getattr(other, f"bias_{theirs}_l{number}"))
