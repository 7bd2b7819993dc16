"""A causal model by its name: a bundled one, or ``module:name`` in a user's own file."""

__all__ = ["causal_model", "option_names"]

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workers.causal.bundled import BUNDLED
from workers.causal.model import CausalModel
from workers.errors import StudyError, article, nearest
from workers.vocabulary import is_function


def causal_model(name: str, options: Mapping[str, Any] | None = None) -> CausalModel:
    """The causal model `name`, made with its options.

    Args:
        name: a bundled one, or ``module:name``, where the module is one that is installed, or a file in the
            folder in which the study is run; what it names is a `CausalModel`, or a function that makes one.
        options: what the function is called with.

    Raises:
        StudyError: there is none, an option is unknown, or what is named fails or is something else.
    """
    found, given = _find(name), dict(options or {})
    if isinstance(found, CausalModel):
        if given:
            raise StudyError(f"the causal model {name!r} has no options, and is given {', '.join(given)}")
        return found
    known = tuple(inspect.signature(found).parameters)
    for option in given:
        if option not in known:
            raise StudyError(
                f"the causal model {name!r} has no option {option!r}; it has"
                f" {', '.join(known) or 'none'}{nearest(option, known)}"
            )
    try:
        made = found(**given)
    except StudyError as error:
        raise StudyError(f"the causal model {name!r}: {error}") from None
    except Exception as error:
        raise StudyError(f"the causal model {name!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(made, CausalModel):
        raise StudyError(f"{name!r} returned {article(type(made).__name__)}; return a CausalModel")
    return made


def option_names(name: str) -> tuple[str, ...]:
    """The options of the causal model `name`."""
    found = _find(name)
    return () if isinstance(found, CausalModel) else tuple(inspect.signature(found).parameters)


def _find(name: str) -> CausalModel | Callable[..., Any]:
    if name in BUNDLED:
        return BUNDLED[name]
    if not is_function(name):
        raise StudyError(
            f"there is no causal model {name!r}; there are {', '.join(BUNDLED)}, and your own as module:name"
            f"{nearest(name, BUNDLED)}"
        )
    module, _, attribute = name.partition(":")
    found = getattr(_module(name, module), attribute, None)
    if not isinstance(found, CausalModel) and not callable(found):
        raise StudyError(
            f"causal model {name!r}: the module {module!r} has no {attribute!r} that is a CausalModel or"
            " makes one; define it there, or name another"
        )
    return found


def _module(name: str, module: str) -> Any:
    """A module; the folder in which the study is run is looked in last."""
    importlib.invalidate_caches()
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            raise StudyError(
                f"causal model {name!r}: there is no module {missing!r}; install it, or put its file into the"
                " folder in which the study is run"
            ) from error
        raise StudyError(
            f"causal model {name!r}: importing {module!r} raised {type(error).__name__}: {error}; correct it"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
