"""What cells need of a model beside its runs: fitted things by identity, and how large its embeddings are.

Shapes: W width of a place (of one head, where heads are named), C columns of a place, T tokens, V vocabulary,
E width of an embedding.
"""

__all__ = ["FitSource", "Stock", "no_fits"]

from collections.abc import Callable
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from workers.errors import RunError
from workers.features import PCA
from workers.loading import LoadedModel
from workers.subspaces import Subspace
from workers.zoo.base import ZooModel

FitSource = Callable[[str], Subspace | Tensor]
"""The fit of an identity: a subspace, or a vector: [C] for every token, or [T, C] with one for each.

Raises:
    SwapyardError: there is none, or it could not be made.
"""

_MOST_HELD = 64
"""Fits held at once: cells come in the order of the layers, so few are in use at a time."""

_CHUNK = 4096
"""Embeddings looked at in one go."""


class Stock:
    """The fits and the scale of one model, each found once.

    Args:
        model: whose these are.
        fitted: where fits come from.
    """

    def __init__(self, model: LoadedModel, fitted: FitSource) -> None:
        self._model = model
        # Of one identity always the same object: rows that use one fit are then changed together.
        self._fitted = lru_cache(_MOST_HELD)(fitted)
        self._direction = lru_cache(_MOST_HELD)(self._direction_of)

    def subspace(self, identity: str) -> Subspace:
        """The coordinates of a fit; those of a vector [W] are along it.

        Raises:
            RunError: the fit is a vector for each token.
        """
        found = self._fitted(identity)
        return found.to(self._model.device) if isinstance(found, Subspace) else self._direction(identity)

    def vector(self, identity: str) -> Tensor:
        """The vector of a fit: [1, C] for every token, or [T, C].

        Raises:
            RunError: the fit is no vector.
        """
        found = self._fitted(identity)
        if not isinstance(found, Tensor):
            raise RunError(f"the fit {identity} is no vector, as a value is; write it as a subspace")
        return found.to(self._model.device).reshape(-1, found.shape[-1])

    @cached_property
    def embedding_std(self) -> float:
        """The standard deviation of the numbers in all token embeddings; 1 of a model that has none.

        It is what the noise of causal tracing is measured in (Meng et al. 2022, arXiv 2202.05262).
        """
        embedding, num_tokens = _embedding(self._model.module), self._model.facts.vocab_size
        if embedding is None or num_tokens is None:
            return 1.0
        return _std(embedding, num_tokens, self._model.device)

    def _direction_of(self, identity: str) -> Subspace:
        """The one direction of a vector, as a subspace: PCA's coordinates, about zero."""
        vector = self.vector(identity).float()
        if len(vector) > 1:
            raise RunError(f"the fit {identity} has a vector for each token; coordinates need one for all")
        return PCA(vector.mT / vector.norm(), torch.zeros_like(vector[0]))


def no_fits(identity: str) -> Subspace | Tensor:
    """A `FitSource` of a model without fits."""
    raise RunError(f"the fit {identity} is not there: this engine was given no fits")


def _embedding(module: nn.Module) -> nn.Module | None:
    if isinstance(module, ZooModel):
        return module.embed
    find = getattr(module, "get_input_embeddings", None)
    return find() if callable(find) else None


@torch.inference_mode()
def _std(embedding: nn.Module, num_tokens: int, device: torch.device) -> float:
    """Over what the module returns for every token [V, E]: some families scale it there."""
    sums = torch.zeros(2, dtype=torch.float64)
    count = 0
    for start in range(0, num_tokens, _CHUNK):
        tokens = torch.arange(start, min(start + _CHUNK, num_tokens), device=device)
        # Not every device knows float64.
        values: Tensor = embedding(tokens).float().cpu().double()
        sums += torch.stack([values.sum(), values.square().sum()])
        count += values.numel()
    mean, square = (sums / count).tolist()
    return float(max(0.0, square - mean**2) ** 0.5)
