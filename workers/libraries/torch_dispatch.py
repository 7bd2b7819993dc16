"""Watching every operation that torch does, by a class of which it says that it may move."""

__all__ = ["PLACES", "DispatchMode"]

import importlib
from typing import Any

import torch
from torch import Tensor

from workers.errors import ModelError
from workers.libraries import Place

_MODULE, _NAME = "torch.utils._python_dispatch", "TorchDispatchMode"


class _Gone:
    """What stands in where the class is gone: nothing can be watched."""

    def __init__(self) -> None:
        raise ModelError(
            f"torch {torch.__version__} does not show what it does, so weights that a checkpoint lacks cannot be"
            " drawn as the model's class draws them; give a whole checkpoint, or install an older torch"
        )


def _found() -> Any:
    try:
        return getattr(importlib.import_module(_MODULE), _NAME)
    except (ImportError, AttributeError):
        return _Gone


DispatchMode: Any = _found()
"""A context in which ``__torch_dispatch__(func, types, args, kwargs)`` is called for every operation.

Raises:
    ModelError: where torch has none, when one is made.
"""


def _probe_dispatch() -> str | None:
    seen: list[str] = []

    class Watching(DispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    tensor = torch.zeros(2)
    with Watching():
        filled: Tensor = tensor.normal_()
    if filled is not tensor or "normal_.default" not in seen:
        raise LookupError(f"operations are not shown as they were: {seen}")
    return None


PLACES = (
    Place(
        library="torch",
        name="torch.utils._python_dispatch.TorchDispatchMode",
        used_for="drawing weights that a checkpoint lacks as the model's class draws them, from a seed",
        seen_with="2.13.0",
        without="missing_weights: initialise is refused, and the message says what to do",
        marks=("_python_dispatch", _NAME),
        probe=_probe_dispatch,
    ),
)
