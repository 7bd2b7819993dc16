"""Base of the built-in models: the way they are called, and their outputs.

Shapes: B rows, T tokens or time steps, E width of an input vector, C classes or words of the vocabulary.
"""

__all__ = ["Output", "OutputHeads", "ZooModel", "head_of"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from workers.errors import ModelError
from workers.zoo.configs import LOGITS, HeadConfig, ZooConfig


@dataclass(frozen=True, slots=True)
class Output:
    """Output of a built-in model."""

    logits: Tensor
    """[B, T, C] where each token or step is read; [B, 1, C] where the run is read as a whole. Those of the
    first head, where there are several."""
    heads: Mapping[str, Tensor]
    """The logits of each head; a single one is called ``logits``."""


class OutputHeads(nn.ModuleDict):
    """Several classifiers of one state, or of a node of one layer's."""

    def __init__(self, width: int, heads: Mapping[str, HeadConfig]) -> None:
        self.nodes = {name: head.reads for name, head in heads.items()}
        columns = {name: (0, width) if node is None else node.columns for name, node in self.nodes.items()}
        widths = {name: end - first for name, (first, end) in columns.items()}
        super().__init__({name: nn.Linear(widths[name], head.classes) for name, head in heads.items()})

    @property
    def out_features(self) -> int:
        """Number of classes of the first one."""
        first: nn.Linear = next(iter(self.values()))  # type: ignore[assignment]
        return first.out_features

    def forward(self, hidden: Tensor, layers: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """The logits [..., C] of each, of the state [..., W] and what the layers returned [..., W]."""
        found: dict[str, Tensor] = {}
        for name, head in self.items():
            node = self.nodes[name]
            seen = hidden if node is None else layers[node.layer][..., slice(*node.columns)]
            found[name] = head(seen)
        return found


def head_of(width: int, outputs: int | Mapping[str, HeadConfig]) -> "nn.Linear | OutputHeads":
    """The head of a classifier, or several."""
    return nn.Linear(width, outputs) if isinstance(outputs, int) else OutputHeads(width, outputs)


class ZooModel(nn.Module):
    """A built-in model, called as the models of the transformers library are."""

    input_dims: ClassVar[tuple[int, ...]] = (3,)
    """Numbers of dimensions that a tensor of vectors may have."""

    config: ZooConfig
    embed: nn.Embedding | None
    head: nn.Linear | OutputHeads
    """The unembedding, or the classifiers."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Output:
        """Run token ids [B, T], or the vectors of tokens [B, T, E].

        `attention_mask` [B, T] is 0 where there is padding, on either side: what stands there is as if it
        were not there.

        Raises:
            ModelError: neither or both are given, ids are given to a model without a vocabulary, or the
                shape is not what the config says.
        """
        vectors = self._vectors(input_ids, inputs_embeds)
        heads = self.heads(vectors, None if attention_mask is None else attention_mask.bool())
        return Output(next(iter(heads.values())), heads)

    @abstractmethod
    def heads(self, vectors: Tensor, own: Tensor | None) -> Mapping[str, Tensor]:
        """The logits [B, T, C] or [B, 1, C] of each head, of vectors [B, T, E].

        `own` [B, T] says which tokens are an example's own; None where all are.
        """

    def get_output_embeddings(self) -> nn.Module:
        """The head, under the name that the transformers library has for it."""
        return self.head

    def _read(self, hidden: Tensor, layers: Sequence[Tensor] = ()) -> Mapping[str, Tensor]:
        """The logits of each head, [B, T, C] of states [B, T, W], [B, 1, C] of [B, W]."""
        found = (
            self.head(hidden, layers) if isinstance(self.head, OutputHeads) else {LOGITS: self.head(hidden)}
        )
        return {name: logits if hidden.dim() == 3 else logits[:, None] for name, logits in found.items()}

    def _vectors(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        kind = self.config.model_type
        if (input_ids is None) == (inputs_embeds is None):
            raise ModelError(
                f"{kind} is given token ids or vectors: give input_ids or inputs_embeds, one of them"
            )
        if inputs_embeds is not None:
            if inputs_embeds.dim() not in self.input_dims:
                raise ModelError(
                    f"inputs_embeds of {kind} are {list(inputs_embeds.shape)}; give (rows, tokens, width)"
                )
            return inputs_embeds
        if self.embed is None:
            raise ModelError(f"{kind} has no vocabulary: give inputs_embeds, or make it with vocab_size")
        assert input_ids is not None
        vectors: Tensor = self.embed(input_ids)
        return vectors
