"""Resources that cells use beside a model's activations: fits, a study's functions, the scale of embeddings.

Fits are featurisers or steering vectors by their identity; functions are ``module:function`` of a study,
imported where cells are run.

Shapes: W width of a place (of one head, where heads are named), C columns of a place, or coordinates of a
subspace, T tokens; N changed points; B examples.
"""

__all__ = ["FitSource", "Functions", "ModelResources", "StudyFunction", "no_fits"]

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from workers.code.function_kinds import GETTER, OPERATION, SETTER, FunctionKind
from workers.code.named import named
from workers.code.places import NO_CODE, Code
from workers.errors import RunError, StudyError
from workers.intervene.features import PCA
from workers.intervene.regions import Coordinates, box_of
from workers.intervene.subspaces import Subspace
from workers.libraries.torch import is_of_machine
from workers.model.loading import LoadedModel
from workers.model.weight_values import embedding_std
from workers.vocabulary import Region

_TOLERANCE = 0.02
"""Most that a row may move when it is computed alone: rounding in half precision, no other row's values."""


class _RowFunction(ABC):
    """A function of a study, of rows: what goes wrong in it is a sentence that names it.

    Args:
        name: as the study writes it.
        function: of tensors with as many rows, that returns one with as many.
    """

    rows: str
    """Rows of its tensors, in words."""

    def __init__(self, name: str, function: Callable[..., Tensor]) -> None:
        self._name = name
        self._function = function
        self._num_checked = 0
        self._fault: str | None = None

    def __str__(self) -> str:
        return self._name

    def __call__(self, *given: Tensor) -> Tensor:
        """Call the function.

        Raises:
            RunError: it raised something; or it once gave a row other numbers than before, or than among
                other rows, which are those of other jobs.
        """
        if self._fault is not None:
            raise RunError(self._fault)
        new, num_rows = self._called(*given), len(given[0])
        is_right = isinstance(new, Tensor) and new.dim() > 0 and len(new) == num_rows
        # Once for a row by itself, and once among others.
        if is_right and self._num_checked < min(num_rows, 2):
            self._check_row(new[:1], *(one[:1] for one in given))
            self._num_checked = min(num_rows, 2)
        return new

    @abstractmethod
    def _contract(self, *given: Tensor) -> str:
        """Arguments and result of the function, as the end of a sentence."""

    def _called(self, *given: Tensor) -> Tensor:
        try:
            return self._function(*(one.clone() for one in given))
        except Exception as error:
            if is_of_machine(error):
                raise
            raise RunError(
                f"the function {self._name} raised {type(error).__name__}: {error}{_where(error)}; it gets "
                f"{self._contract(*given)}"
            ) from error

    def _check_row(self, new: Tensor, *given: Tensor) -> None:
        """Refuse, from now on, what would make a job's result hang on what shares its forward."""
        alone = self._called(*given)
        slack = _TOLERANCE * float(new.abs().max()) if new.numel() and new.isfinite().all() else 0.0
        if alone.shape != new.shape or not torch.allclose(alone, new, 0, slack, equal_nan=True):
            self._fault = (
                f"the function {self._name} does not give a row the same numbers again, or among other rows; "
                f"rows are {self.rows}: change each by itself, and draw nothing at random"
            )
            raise RunError(self._fault)


class StudyFunction(_RowFunction):
    """An operation: of the old and the other value, both [N, C], that returns a tensor of this shape."""

    rows = "tokens of many pairs"

    def _contract(self, *given: Tensor) -> str:
        shape = list(given[0].shape)
        return f"the old and the other value, both {shape}, and returns a tensor of that shape"


class _Getter(_RowFunction):
    """Getter: of a module's tensor [B, …], that returns values [B, …]."""

    rows = "those of many pairs"

    def _contract(self, *given: Tensor) -> str:
        return f"the module's tensor {list(given[0].shape)}, and returns a tensor with as many rows"


class _Setter(_RowFunction):
    """Setter: of a copy of a module's tensor [B, …] and values [B, …], that returns a tensor of the first's
    shape."""

    rows = "those of many pairs"

    def _contract(self, *given: Tensor) -> str:
        tensor, values = (list(one.shape) for one in given)
        return (
            f"a copy of the module's tensor {tensor} and values {values}, and returns a tensor as the first"
        )


class Functions:
    """The functions of a study by their names, each loaded once; what failed is not tried again.

    Args:
        code: where they may lie.
    """

    def __init__(self, code: Code) -> None:
        self._code = code
        self._found: dict[tuple[FunctionKind, str], Callable[..., Tensor] | str] = {}
        self._made: dict[tuple[type[_RowFunction], str], _RowFunction] = {}

    def of(self, name: str) -> StudyFunction:
        """The operation `name`, ``module:function``: of one name always the same object.

        Raises:
            RunError: it is nowhere that a study's functions lie, cannot be loaded, or is no such function.
        """
        made = self._row_function(StudyFunction, name, OPERATION)
        assert isinstance(made, StudyFunction)
        return made

    def coordinates(self, get: str, put: str) -> Coordinates:
        """The getter and the setter of these names: of the same names always equal.

        Raises:
            RunError: as `of` does.
        """
        getter = self._row_function(_Getter, get, GETTER)
        return Coordinates(getter, self._row_function(_Setter, put, SETTER))

    def _row_function(self, made: type[_RowFunction], name: str, kind: FunctionKind) -> _RowFunction:
        if (kind, name) not in self._found:
            try:
                self._found[kind, name] = named(name, kind, self._code)
            except StudyError as error:
                self._found[kind, name] = str(error)
        found = self._found[kind, name]
        if isinstance(found, str):
            raise RunError(found)
        return self._made.setdefault((made, name), made(name, found))


def _where(error: BaseException) -> str:
    """The file and line that raised, as the end of a sentence's part."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[0] != "<"]
    # The first is the call itself, here.
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else ""


FitSource = Callable[[str], Subspace | Tensor]
"""The fit of an identity: a subspace, or a vector: [C] for every token, or [T, C] with one for each.

Raises:
    SwapyardError: there is none, or it could not be made.
"""

_MOST_HELD = 64
"""Fits held at once: cells come in the order of the layers, so few are in use at a time."""


class ModelResources:
    """Fits, functions and the noise scale of one model, each loaded once and kept.

    Args:
        model: which one.
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
        """Standard deviation of the token embeddings: the unit of a study's noise."""
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
