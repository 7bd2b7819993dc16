"""What cells need of a model beside its runs: fitted things, functions, and how large its embeddings are.

Shapes: W width of a place (of one head, where heads are named), C columns of a place, T tokens.
"""

__all__ = ["FitSource", "ModelResources", "no_fits"]

from collections.abc import Callable
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from workers.change.features import PCA
from workers.change.functions import Functions, StudyFunction
from workers.change.regions import Coordinates, box_of
from workers.change.subspaces import Subspace
from workers.code.places import NO_CODE, Code
from workers.errors import RunError
from workers.model.embeddings import embedding_std
from workers.model.loading import LoadedModel
from workers.vocabulary import Region

FitSource = Callable[[str], Subspace | Tensor]
"""The fit of an identity: a subspace, or a vector: [C] for every token, or [T, C] with one for each.

Raises:
    SwapyardError: there is none, or it could not be made.
"""

_MOST_HELD = 64
"""Fits held at once: cells come in the order of the layers, so few are in use at a time."""


class ModelResources:
    """The fits and the scale of one model, each found once.

    Args:
        model: whose these are.
        fitted: where fits come from.
        code: where the functions of the study lie.
    """

    def __init__(self, model: LoadedModel, fitted: FitSource, code: Code = NO_CODE) -> None:
        self._model = model
        # Of one identity always the same object: rows that use one fit are then changed together.
        self._fitted = lru_cache(_MOST_HELD)(fitted)
        self._functions = Functions(code)
        # Of one text always the same object, as of one identity.
        self._coordinates = lru_cache(None)(box_of)
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

    def function(self, name: str) -> StudyFunction:
        """The function that a study names ``module:function``.

        Raises:
            RunError: it cannot be imported.
        """
        return self._functions.of(name)

    def coordinates(self, region: Region) -> Coordinates:
        """The rectangle, or the getter and the setter, that a place of a cell names.

        Raises:
            RunError: a function cannot be imported.
        """
        return self._coordinates(region) if isinstance(region, str) else self._functions.coordinates(*region)

    @cached_property
    def embedding_std(self) -> float:
        """What the noise of a study is measured in."""
        return embedding_std(self._model.module)

    def _direction_of(self, identity: str) -> Subspace:
        """The one direction of a vector, as a subspace: PCA's coordinates, about zero."""
        vector = self.vector(identity).float()
        if len(vector) > 1:
            raise RunError(f"the fit {identity} has a vector for each token; coordinates need one for all")
        return PCA(vector.mT / vector.norm(), torch.zeros_like(vector[0]))


def no_fits(identity: str) -> Subspace | Tensor:
    """A `FitSource` of a model without fits."""
    raise RunError(f"the fit {identity} is not there: this engine was given no fits")
