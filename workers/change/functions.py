"""The functions that studies name: ``module:function``, imported where cells are run.

Shapes: N changed points, C columns that are changed, or coordinates of a subspace.
"""

__all__ = ["Functions", "StudyFunction"]

import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.engine.attempts import is_of_machine
from workers.errors import RunError

_TOLERANCE = 0.02
"""How far a row may move when it is computed alone: rounding in half precision, not another row's values."""


class StudyFunction:
    """A function of a study as an operation: what goes wrong in it is a sentence that names it.

    Args:
        name: as the study writes it.
        function: of the old and the other value, both [N, C], that returns a tensor of this shape.
    """

    def __init__(self, name: str, function: Callable[[Tensor, Tensor], Any]) -> None:
        self._name = name
        self._function = function
        self._num_checked = 0
        self._fault: str | None = None

    def __str__(self) -> str:
        return self._name

    def __call__(self, old: Tensor, other: Tensor) -> Any:
        """What the function returns.

        Raises:
            RunError: it raised something; or it once gave a row other numbers than before, or than among
                other rows, which are those of other jobs.
        """
        if self._fault is not None:
            raise RunError(self._fault)
        new = self._called(old.clone(), other.clone())
        is_right = isinstance(new, Tensor) and new.shape == old.shape
        # Once for a row by itself, and once among others.
        if is_right and self._num_checked < min(len(old), 2):
            self._check_row(old[:1], other[:1], new[:1])
            self._num_checked = min(len(old), 2)
        return new

    def _called(self, old: Tensor, other: Tensor) -> Any:
        try:
            return self._function(old, other)
        except Exception as error:
            if is_of_machine(error):
                raise
            raise RunError(
                f"the function {self._name} raised {type(error).__name__}: {error}{_where(error)}; it gets "
                f"the old and the other value, both {list(old.shape)}, and returns a tensor of that shape"
            ) from error

    def _check_row(self, old: Tensor, other: Tensor, new: Tensor) -> None:
        """Refuse, from now on, what would make a job's result hang on what shares its forward."""
        alone = self._called(old.clone(), other.clone())
        slack = _TOLERANCE * float(new.abs().max()) if new.isfinite().all() else 0.0
        if alone.shape != new.shape or not torch.allclose(alone, new, 0, slack, equal_nan=True):
            self._fault = (
                f"the function {self._name} does not give a row the same numbers again, or among other rows; "
                "rows are tokens of many pairs: change each by itself, and draw nothing at random"
            )
            raise RunError(self._fault)


class Functions:
    """The functions of studies by their names, each imported once; a failed import is not tried again."""

    def __init__(self) -> None:
        self._found: dict[str, StudyFunction | str] = {}

    def of(self, name: str) -> StudyFunction:
        """The function `name`, ``module:function``: of one name always the same object.

        Raises:
            RunError: its module cannot be imported, or has no such function.
        """
        if name not in self._found:
            try:
                self._found[name] = _imported(name)
            except RunError as error:
                self._found[name] = str(error)
        found = self._found[name]
        if isinstance(found, str):
            raise RunError(found)
        return found


def _imported(name: str) -> StudyFunction:
    module_name, _, function_name = name.partition(":")
    function = getattr(_module(name, module_name), function_name, None)
    if not callable(function):
        raise RunError(
            f"intervention {name!r}: the module {module_name!r} has no function {function_name!r}; define it "
            "there, or name another"
        )
    return StudyFunction(name, function)


def _module(name: str, module_name: str) -> Any:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    # A script that ends itself when it is imported would take the worker with it.
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise RunError(
                f"intervention {name!r}: there is no module {missing!r}; install it, or put its file into "
                "the folder in which the study is run"
            ) from error
        raise RunError(
            f"intervention {name!r}: importing {module_name!r} raised {type(error).__name__}: {error}"
            f"{_where(error)}; correct the module"
        ) from error


def _where(error: BaseException) -> str:
    """The file and line that raised, as the end of a sentence's part."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[0] != "<"]
    # The first is the call itself, here.
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else ""
