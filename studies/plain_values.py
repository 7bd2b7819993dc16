"""Plain data that files can hold: values of users' own columns, and JSON in which no key is lost."""

__all__ = [
    "NoJSONError",
    "Plain",
    "Scalar",
    "Twice",
    "is_missing",
    "is_text",
    "read_json",
    "unkept",
    "unwrapped",
]

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TypeAlias, TypeGuard
from uuid import UUID

from studies.bounds import MOST_DEPTH

Scalar = str | int | float | bool | None
"""One plain value."""

Plain: TypeAlias = "Scalar | Sequence[Plain] | Mapping[str, Plain]"
"""Data of YAML and of JSON."""

_MOST_DIGITS = 4000
"""Python makes no number of text with more."""


class Twice(dict[str, object]):
    """A JSON object that names a key twice; the last one is in it."""

    key = ""
    """The key."""


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is text that a file can hold: half of a pair of surrogates is no character."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def unkept(value: object, depth: int = 0) -> str | None:
    """Why plain data cannot be kept; None where it can."""
    if isinstance(value, str):
        return None if is_text(value) else f"{value!r:.60} is half of a pair of surrogates, which is no text"
    if hasattr(value, "as_py"):  # one of Arrow's scalars, which Parquet held; some of them are mappings
        return None
    if isinstance(value, list | tuple | Mapping) and depth >= MOST_DEPTH:
        return f"its lists are more than {MOST_DEPTH} deep"
    if isinstance(value, Twice):
        return f"the key {value.key!r} is in one mapping twice"
    if isinstance(value, Mapping):
        parts: Iterable[object] = (part for item in value.items() for part in item)
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return None
    return next((why for part in parts if (why := unkept(part, depth + 1)) is not None), None)


def unwrapped(value: object, depth: int = 0) -> object:
    """A value from Python as plain data: numbers and arrays of other libraries as Python's own, what YAML has
    not (dates, decimals, bytes) as text; as it is where it is plain data, or nothing that has a spelling."""
    if depth > MOST_DEPTH + 1:  # it may contain itself; whoever checks it will say that it is too deep
        return value
    if value is None or isinstance(value, bool | int | float | str):
        # Subclasses (of numpy, of enumerations) are known by what they are, not by what they print.
        return _base(value)
    if hasattr(value, "as_py"):
        return unwrapped(value.as_py(), depth + 1)
    if isinstance(value, datetime) and value != value:  # what pandas calls a date that is missing
        return None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {_base(key): unwrapped(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unwrapped(item, depth + 1) for item in value]
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    listed = getattr(value, "tolist", None)
    return unwrapped(listed(), depth + 1) if callable(listed) and not hasattr(value, "columns") else value


def _base(value: object) -> object:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    return value


def whole_number(text: str) -> int | str:
    """A number of JSON; one with more digits than Python reads stays text."""
    return int(text) if len(text) <= _MOST_DIGITS else text


def is_missing(value: object) -> bool:
    """Whether a data frame means nothing by it: its NaN in a column of other things."""
    return value is None or (isinstance(value, float) and math.isnan(value))


_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_TOO_DEEP = f"its lists are more than {MOST_DEPTH} deep"


class NoJSONError(ValueError):
    """Raised for text that is no JSON; the message says why."""


def read_json(text: str) -> tuple[object, dict[str, str]]:
    """The value, and what of an object's own values could not be read, by key: why.

    Raises:
        NoJSONError: it is no JSON.
    """
    left: dict[str, str] = {}
    if text.count("[") + text.count("{") > MOST_DEPTH:
        text, left = _without_depths(text)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=whole_number), left
    except json.JSONDecodeError as error:
        raise NoJSONError(f"{error.msg} at character {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise NoJSONError(str(error)) from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice, seen = Twice(found), set[str]()
    twice.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return twice


def _without_depths(text: str) -> tuple[str, dict[str, str]]:
    """The text with null for each value of its object that is too deep for the reader, and their keys."""
    depth, deepest, start, key, last = 0, 0, 0, "", ""
    kept, copied = [], 0
    left: dict[str, str] = {}
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            if depth == 2:
                start, key, deepest = match.start(), last, 0
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
            if depth == 1 and deepest > MOST_DEPTH + 1:
                kept.append(text[copied:start] + "null")
                copied = match.end()
                left[_read_key(key)] = _TOO_DEEP
        elif depth == 1:
            last = token
    if depth > MOST_DEPTH:
        raise NoJSONError("its brackets are never closed")
    return "".join(kept) + text[copied:], left


def _read_key(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        return token
