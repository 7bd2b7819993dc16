"""``zoo:mlp``: a classifier of one vector through hidden layers of one width.

Shapes: B rows, T tokens, E width of a token's vector, W width (T · E), C classes.
"""

__all__ = ["MLP"]

from collections.abc import Mapping

from torch import Tensor, nn

from workers.errors import ModelError
from workers.zoo.base import ZooModel, head_of
from workers.zoo.configs import Activation, MLPConfig

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class Layer(nn.Module):
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
    """The tokens' vectors lie side by side in the first layer's input, so every layer has one position.

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
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
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
