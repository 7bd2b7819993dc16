"""The values that keys accept, checked as written: each check returns the value or says what is allowed.

A singular key takes one value, or a list of them at once. A plural key is an axis: a list whose elements
are what the singular key takes, or a text that stands for such a list (``all``, ``8:18``, ``spans.last``).
"""

__all__ = [
    "Check",
    "Column",
    "Count",
    "FilePath",
    "Name",
    "Number",
    "Scalar",
    "Written",
    "at_once",
    "axis",
    "check_coordinates",
    "check_count",
    "check_head",
    "check_intervention",
    "check_layer",
    "check_name",
    "check_number",
    "check_path",
    "check_position",
    "check_read",
    "check_seed",
    "check_seed_range",
    "check_site",
    "check_step",
    "check_subspace",
    "check_variable",
    "checked",
    "freeze",
    "is_bounded",
    "is_index_range",
    "is_position_range",
    "one_of",
    "required",
    "scalar",
]

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeGuard

from pydantic import PlainValidator

from studies.bounds import MOST_AXIS_VALUES, MOST_COUNTED, MOST_PROMPT_CHARACTERS, MOST_SEED
from studies.language.grammar import (
    is_reference,
    parse_box,
    parse_every_span,
    parse_range,
    parse_span,
    parse_subspace,
    parse_sum,
)
from studies.plain_values import Scalar
from studies.problems import each, refuse
from workers.errors import ModelError
from workers.model import sites
from workers.vocabulary import OPERATIONS, is_function

Written = str | int | float | Sequence[str | int | float]
"""A value of a singular key, as written: one, or several at once (a tuple once it is validated)."""

Check = Callable[[object], object]
"""A check of one value as written: it returns the value, or raises `ProblemsError`."""

_MOST_PATH = 4000
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_ALLOWED_OPERATIONS = (*OPERATIONS, "collect", "skip")


def checked(check: Check) -> PlainValidator:
    """The check as pydantic wants it; None stands for a key that is not there."""
    return PlainValidator(lambda value: None if value is None else check(value))


def required(check: Check) -> PlainValidator:
    """The check of a key that must have a value."""
    return PlainValidator(check)


def at_once(check: Check) -> Check:
    """Accept one value, or a list of several that hold at once."""

    def check_all(value: object) -> object:
        if not isinstance(value, list | tuple):
            return check(value)
        if not value:
            refuse(value, "one value, or a list that is not empty")
        return each(check, value)

    return check_all


def axis(
    check: Check,
    texts: str = "",
    is_text: Callable[[str], bool] = lambda text: False,
    check_text: Callable[[str], None] = lambda text: None,
) -> Check:
    """Accept a list of values, one a cell, or one of the `texts` that stand for such a list.

    `check_text` refuses what such a text cannot say.
    """

    def check_axis(value: object) -> object:
        if isinstance(value, str) and is_text(value):
            check_text(value)
            return value
        if not isinstance(value, list | tuple) or not value:
            refuse(value, f"a list with one value for each cell{texts} (a plural key is an axis)")
        if len(value) > MOST_AXIS_VALUES:
            refuse(value, f"at most {MOST_AXIS_VALUES:,} values on an axis; here are {len(value):,}")
        elements = each(check, value)
        if len(set(map(repr, elements))) < len(elements):
            refuse(value, "a list without repeated values")
        return elements

    return check_axis


def one_of(allowed: Sequence[str]) -> Check:
    """Accept one of these words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            refuse(value, ", ".join(allowed), allowed)
        return value

    return check


def check_site(value: object) -> str:
    """A site's name, a module path, or a reference."""
    if not isinstance(value, str) or not value:
        refuse(value, "the name of a site, or a module path")
    if "$" in value:
        return value
    try:
        sites.check_site(value)
    except ModelError:
        refuse(value, f"{', '.join(sites.SITES)}, or a module path a.b.c or a.b.c:input", sites.SITES)
    return value


def check_layer(value: object) -> int | str:
    """A layer from 0, ``all``, a range, or a sum of references."""
    return _index(value, "a layer from 0, all, a range such as '8:18', or '$NAME'")


def check_head(value: object) -> int | str:
    """A head from 0, ``all``, a range, or a sum of references."""
    return _index(value, "a head from 0, all, a range such as '0:4', or '$NAME'")


def check_position(value: object) -> int | str:
    """A token's index (negative from the end), ``all``, a range, a span or one of its tokens, a sum."""
    if _is_int(value):
        return int(value)
    if isinstance(value, str) and (parse_sum(value) or parse_range(value) or parse_span(value)):
        return value
    refuse(
        value,
        "a token's index, all, a range such as '1:4', a span, SPAN.first, SPAN.last, SPAN[1], SPAN.mean",
    )


def check_subspace(value: object) -> str:
    """``all``, dimensions, a fit's name, part of a fit's coordinates, or a reference."""
    if not isinstance(value, str) or not (is_reference(value) or parse_subspace(value)):
        refuse(value, "all, dimensions such as '0:16', a fit's name R, or part of it such as 'R[0:16]'")
    own = parse_range(value)
    bounds = None if own is None or "$" in value else own.bounds(lambda name: 0)
    if bounds and bounds[0] is not None and bounds[1] is not None and bounds[0] >= bounds[1]:
        refuse(value, "dimensions 'START:STOP' with START below STOP")
    return value


def check_coordinates(value: object) -> str | dict[str, str]:
    """A rectangle, the names of a getter and a setter, or a reference."""
    if _is_int(value):
        return str(value)
    if isinstance(value, str) and (is_reference(value) or parse_box(value)):
        return value
    if isinstance(value, dict) and set(value) == {"get", "set"} and all(map(_is_function, value.values())):
        return dict(value)
    refuse(value, "a rectangle such as '1:3, 4:9', or {get: module:function, set: module:function}")


def check_intervention(value: object) -> str:
    """An operation's name, a Python function ``module:function``, or a reference."""
    if _is_function(value):
        return str(value)
    if not isinstance(value, str) or value not in _ALLOWED_OPERATIONS:
        refuse(value, f"{', '.join(_ALLOWED_OPERATIONS)}, or module:function", _ALLOWED_OPERATIONS)
    return value


def check_variable(value: object) -> str:
    """A variable of the causal model, or ``all``."""
    return check_name(value)


def check_read(value: object) -> int | str:
    """A place at which the answer is read: a token's index, a token of a span, or an output of the model."""
    if _is_int(value):
        return int(value)
    if isinstance(value, str) and (is_reference(value) or parse_span(value)):
        return value
    refuse(value, "a token's index, SPAN.first, SPAN.last, SPAN[1], or the name of an output")


def check_seed(value: object) -> int:
    """A whole number from 0."""
    if not _is_int(value) or value < 0:
        refuse(value, "a whole number from 0")
    if value > MOST_SEED:
        refuse(value, f"a whole number from 0 to {MOST_SEED:,}")
    return int(value)


def check_seed_range(text: str) -> None:
    """Refuse a range of seeds that has none, or far too many; one that names an axis is counted later.

    Raises:
        ProblemsError: with how many there are.
    """
    found = parse_range(text)
    start, stop = (None, None) if found is None or "$" in text else found.bounds(lambda name: 0)
    if start is None or stop is None:
        return
    if start >= stop:
        refuse(text, "a range 'START:STOP' with START below STOP")
    if stop - start > MOST_AXIS_VALUES:
        refuse(text, f"at most {MOST_AXIS_VALUES:,} seeds; here are {stop - start:,}")
    if stop > MOST_SEED:
        refuse(text, f"seeds up to {MOST_SEED:,}")


def check_step(value: object) -> int | str:
    """A step at which a generation is changed: ``prompt``, ``every``, or the number of a generated token."""
    if _is_int(value) and value >= 0:
        return int(value)
    return str(one_of(("prompt", "every"))(value))


def check_name(value: object) -> str:
    """A name: letters, digits, ``_`` and ``-``, no digit first; or a reference."""
    if not isinstance(value, str) or not (_NAME.fullmatch(value) or is_reference(value)):
        refuse(value, "a name of letters, digits, _ and -, with no digit first")
    return value


def check_number(value: object) -> int | float | str:
    """A finite number, or a reference."""
    if is_reference(value):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse(value, "a finite number")
    return value


def check_positive(value: object) -> int | float | str:
    """A finite number above 0, or a reference."""
    found = check_number(value)
    if not isinstance(found, str) and found <= 0:
        refuse(value, "a number above 0")
    return found


def scalar(value: object) -> Scalar:
    """Text, a number, true or false."""
    if isinstance(value, str) and len(value) > MOST_PROMPT_CHARACTERS:
        refuse(value, f"text of at most {MOST_PROMPT_CHARACTERS:,} characters; here are {len(value):,}")
    if isinstance(value, bool | str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    refuse(value, "text, a finite number, true or false")


def freeze(value: object) -> Any:
    """Plain data without nulls, with tuples for lists; mappings stay mappings."""
    if isinstance(value, Mapping):
        return {str(key): freeze(item) for key, item in value.items()}
    return each(freeze, value) if isinstance(value, list | tuple) else scalar(value)


def _is_function(value: object) -> bool:
    return isinstance(value, str) and (is_reference(value) or is_function(value))


def _index(value: object, allowed: str) -> int | str:
    if _is_int(value) and value >= 0:
        return int(value)
    if isinstance(value, str) and (value == "all" or parse_sum(value) or parse_range(value)):
        return value
    refuse(value, allowed, ("all",))


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_count(value: object) -> int:
    """A whole number from 1."""
    if not _is_int(value) or value < 1:
        refuse(value, "a whole number from 1")
    if value > MOST_COUNTED:
        refuse(value, f"a whole number from 1 to {MOST_COUNTED:,}")
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        refuse(value, "text")
    return value


def check_path(value: object) -> str:
    """A path, or the name of a model, that a file system can look up."""
    found = _text(value)
    if "\0" in found or len(found) > _MOST_PATH or any(len(p.encode()) > 255 for p in found.split("/")):
        refuse(found, f"a path of at most {_MOST_PATH} letters, at most 255 between two slashes")
    return found


Column = Annotated[str | None, checked(_text)]
Count = Annotated[int | None, checked(check_count)]
FilePath = Annotated[str | None, checked(check_path)]
Name = Annotated[str | None, checked(check_name)]
Number = Annotated[float | str | None, checked(check_number)]


def is_index_range(text: str) -> bool:
    """``all`` or a range."""
    return text == "all" or parse_range(text) is not None


def is_position_range(text: str) -> bool:
    """``all``, a range, or every span."""
    return is_index_range(text) or parse_every_span(text) is not None


def is_bounded(text: str) -> bool:
    """A range with both ends."""
    found = parse_range(text)
    return found is not None and found.start is not None and found.stop is not None
