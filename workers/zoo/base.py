"""What the built-in models share: how they are called, and what they return.

Shapes: B rows, T tokens or time steps, E width of an input vector, C classes or words of the vocabulary.
"""

__all__ = ["Output", "ZooModel"]

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from workers.errors import ModelError
from workers.zoo.configs import ZooConfig


@dataclass(frozen=True, slots=True)
class Output:
    """What a built-in model returns."""

    logits: Tensor
    """[B, T, C] where each token or step is read; [B, 1, C] where the run is read as a whole."""


class ZooModel(nn.Module):
    """A built-in model, called as the models of the transformers library are."""

    input_dims: ClassVar[tuple[int, ...]] = (3,)
    """How many dimensions a tensor of vectors may have."""

    config: ZooConfig
    embed: nn.Embedding | None
    head: nn.Linear
    """The unembedding, or the classifier."""

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
        return Output(self.logits(vectors, None if attention_mask is None else attention_mask.bool()))

    @abstractmethod
    def logits(self, vectors: Tensor, own: Tensor | None) -> Tensor:
        """The logits [B, T, C] or [B, 1, C] of vectors [B, T, E].

        `own` [B, T] says which tokens are an example's own; None where all are.
        """

    def get_output_embeddings(self) -> nn.Module:
        """The head, under the name that the transformers library has for it."""
        return self.head

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
