"""What a function of a study must be: a function of one's own, that takes what it will be given."""

__all__ = ["GETTER", "MODEL", "OPERATION", "SETTER", "Kind", "why_not"]

import functools
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.code.places import INSTALLED, Code


@dataclass(frozen=True, slots=True)
class Kind:
    """What is wanted at one place of a study."""

    role: str
    """What a study calls it: ``intervention``."""
    wanted: str
    """What is wanted there, as the end of a sentence."""
    num_given: int | None = None
    """How many values it is called with; None for options by their names."""
    is_object: bool = False
    """Whether an object of one's own does too, instead of a function."""


OPERATION = Kind("intervention", "a function of the old and the other value, def f(old, other)", 2)
GETTER = Kind("coordinates", "a function of the module's tensor, def get(tensor)", 1)
SETTER = Kind("coordinates", "a function of the module's tensor and the values, def set(tensor, values)", 2)
MODEL = Kind("causal model", "a CausalModel, or a function that returns one", None, is_object=True)


def why_not(found: Any, kind: Kind, code: Code, package: str | None = None) -> str | None:
    """Why what was found is not of the kind, as the end of a sentence; None where it is.

    Args:
        found: what a name stands for.
        kind: what is wanted.
        code: the folders that it may be written in.
        package: the installed package that may have it as well.
    """
    if kind.is_object and type(found).__module__.startswith("workers.causal."):
        return None
    if not callable(found):
        return None if kind.is_object and not isinstance(found, _PLAIN) else f"is {_shown(found)}"
    home = _home(found)
    if not _is_own(home, code, package):
        return f"is {_shown(found)} of the module {home!r}, which is only imported there"
    if kind.num_given is None:
        return None
    if inspect.isclass(found):
        return "is a class"
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        return "is a coroutine or a generator, which returns no value when it is called"
    try:
        inspect.signature(found).bind(*[None] * kind.num_given)
    except TypeError:
        return f"takes {inspect.signature(found)}, and is given {kind.num_given}"
    except ValueError:
        return "does not say what it takes"
    return None


_PLAIN = (str, bytes, int, float, complex, list, tuple, dict, set, frozenset, type(None), type(sys))


def _home(found: Any) -> str:
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None))


def _is_own(home: str, code: Code, package: str | None) -> bool:
    """Whether a module lies in one of the folders, or in the package."""
    if package is not None and f"{home}.".startswith(f"{package}."):
        return True
    file = getattr(sys.modules.get(home), "__file__", None)
    if not isinstance(file, str) or INSTALLED.intersection(Path(file).parts):
        return False
    return any(Path(file).resolve().is_relative_to(folder.resolve()) for folder in code.folders)


def _shown(found: Any) -> str:
    if callable(found):
        return f"{getattr(found, '__name__', type(found).__name__)!r}"
    text = repr(found)
    return f"{text if len(text) <= 40 else f'{text[:37]}...'}, a {type(found).__name__}"
