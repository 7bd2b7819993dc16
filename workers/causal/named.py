"""A causal model by its name: a bundled one, or ``module:name`` in a user's own file, or a package's."""

__all__ = ["causal_model", "option_names"]

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from workers.causal.bundled import BUNDLED
from workers.causal.model import CausalModel
from workers.code.kinds import MODEL
from workers.code.named import named
from workers.code.places import NO_CODE, Code
from workers.errors import StudyError, article, nearest
from workers.vocabulary import is_function


def causal_model(name: str, options: Mapping[str, Any] | None = None, code: Code = NO_CODE) -> CausalModel:
    """The causal model `name`, made with its options.

    Args:
        name: a bundled one, or ``module:name``; what it names is a `CausalModel`, or a function that makes
            one.
        options: what the function is called with.
        code: where the functions of the study lie.

    Raises:
        StudyError: there is none, an option is unknown, or what is named fails or is something else.
    """
    found, given = _find(name, code), dict(options or {})
    if isinstance(found, CausalModel):
        if given:
            raise StudyError(
                f"{code.at(name)}the causal model {name!r} has no options, and is given {', '.join(given)}"
            )
        return found
    known = tuple(inspect.signature(found).parameters)
    for option in given:
        if option not in known:
            raise StudyError(
                f"{code.at(name)}the causal model {name!r} has no option {option!r}; it has"
                f" {', '.join(known) or 'none'}{nearest(option, known)}"
            )
    try:
        inspect.signature(found).bind(**given)
    except TypeError as error:
        raise StudyError(
            f"{code.at(name)}the causal model {name!r}: {error}; give it beside ref, among {', '.join(known)}"
        ) from None
    try:
        made = found(**given)
    except StudyError as error:
        raise StudyError(f"{code.at(name)}the causal model {name!r}: {error}") from None
    except Exception as error:
        raise StudyError(
            f"{code.at(name)}the causal model {name!r} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, CausalModel):
        raise StudyError(
            f"{code.at(name)}the causal model {name!r} returned {article(type(made).__name__)};"
            " return a CausalModel"
        )
    return made


def option_names(name: str) -> tuple[str, ...]:
    """The options of the causal model `name`."""
    found = _find(name, NO_CODE)
    return () if isinstance(found, CausalModel) else tuple(inspect.signature(found).parameters)


def _find(name: str, code: Code) -> CausalModel | Callable[..., Any]:
    if name in BUNDLED:
        return BUNDLED[name]
    if not is_function(name):
        raise StudyError(
            f"there is no causal model {name!r}; there are {', '.join(BUNDLED)}, and your own as module:name"
            f"{nearest(name, BUNDLED)}"
        )
    found = named(name, MODEL, code)
    if isinstance(found, CausalModel):
        return found
    if not callable(found):
        raise StudyError(
            f"{code.at(name)}causal model {name!r}: it is {article(type(found).__name__)};"
            f" wanted: {MODEL.wanted}"
        )
    made: Callable[..., Any] = found
    return made
