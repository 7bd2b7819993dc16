"""JSON as files of pairs hold it: objects in which no key is lost, however deep or long they are."""

__all__ = ["NoJSONError", "read_json"]

import json
import re
from typing import Any

from studies.bounds import MOST_DEPTH
from studies.plain_values import Twice, whole_number

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_TOO_DEEP = f"its lists are more than {MOST_DEPTH} deep"


class NoJSONError(ValueError):
    """Raised for text that is no JSON; the message says why."""


def read_json(text: str) -> tuple[Any, dict[str, str]]:
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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
