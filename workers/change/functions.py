"""The functions that studies name: ``module:function``, imported where cells are run.

Shapes: N changed points, C columns that are changed, or coordinates of a subspace; B examples.
"""

__all__ = ["Functions", "StudyFunction"]

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.change.regions import Coordinates
from workers.code.kinds import GETTER, OPERATION, SETTER, FunctionKind
from workers.code.named import named
from workers.code.places import Code
from workers.errors import RunError, StudyError
from workers.libraries.torch import is_of_machine

_TOLERANCE = 0.02
"""How far a row may move when it is computed alone: rounding in half precision, not another row's values."""


class _RowFunction(ABC):
    """A function of a study, of rows: what goes wrong in it is a sentence that names it.

    Args:
        name: as the study writes it.
        function: of tensors with as many rows, that returns one with as many.
    """

    rows: str
    """What the rows are."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._num_checked = 0
        self._fault: str | None = None

    def __str__(self) -> str:
        return self._name

    def __call__(self, *given: Tensor) -> Any:
        """What the function returns.

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
        """What it gets and returns, as the end of a sentence."""

    def _called(self, *given: Tensor) -> Any:
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
    """Of a module's tensor [B, …], that returns values [B, …]."""

    rows = "those of many pairs"

    def _contract(self, *given: Tensor) -> str:
        return f"the module's tensor {list(given[0].shape)}, and returns a tensor with as many rows"


class _Setter(_RowFunction):
    """Of a copy of a module's tensor [B, …] and values [B, …], that returns a tensor of the first's shape."""

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
        self._found: dict[tuple[FunctionKind, str], Callable[..., Any] | str] = {}
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
