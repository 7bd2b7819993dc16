"""The small grammar inside values: references, sums, ranges, spans, dimensions.

``$layer``, ``$pair.COLUMN``      a reference to an axis, or to a column of the pair
``$layer+1``, ``$layer-$a``       a sum of references and whole numbers
``8:18``, ``$layer:``             a half-open range of sums; either end may be left out
``subject.last``, ``subject[1]``  one token of a span; ``subject`` all, ``subject.mean`` the pooled ones
``R``, ``R[0:16]``, ``0:16``      a fit's coordinates, some of them, dimensions of the place itself
``2, 0:16``, ``-1:``              a rectangle: for each dimension an index or a range, as in Python
"""

__all__ = [
    "Names",
    "Range",
    "Sum",
    "is_reference",
    "parse_box",
    "parse_every_span",
    "parse_range",
    "parse_span",
    "parse_subspace",
    "parse_sum",
    "references",
    "substitute",
]

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard

from studies.bounds import MOST_WRITTEN

_REFERENCE = r"\$(?:pair\.[A-Za-z_][\w.]*|[A-Za-z_]\w*)"
_TERM = rf"(?:{_REFERENCE}|\d+)"
_SUM = rf"{_TERM}(?:\s*[+-]\s*{_TERM})*"
_NAME = r"[A-Za-z_][\w-]*"

_IS_REFERENCE = re.compile(_REFERENCE)
_IS_SUM = re.compile(_SUM)
_SIGNED_TERM = re.compile(rf"([+-]?)\s*({_TERM})")
_IS_RANGE = re.compile(rf"\s*({_SUM})?\s*:\s*({_SUM})?\s*")
_IS_SPAN = re.compile(rf"(?P<name>{_NAME})(?:\.(?P<part>first|last|mean)|\[(?P<index>-?\d+)\])?")
_IS_SUBSPACE = re.compile(rf"(?P<fit>{_NAME})(?:\[(?P<range>[^\[\]]+)\])?")
_END = rf"(?:-\d+|{_SUM})"
_IS_BOX_PART = re.compile(rf"\s*(?P<start>{_END})?\s*(?P<colon>:)?\s*(?P<stop>{_END})?\s*")
_IN_PATH = re.compile(r"\$(?:pair\.[A-Za-z_]\w*|[A-Za-z_]\w*)")

Names = Mapping[str, Any]
"""The value of each name that ``$`` can reach."""

Lookup = Callable[[str], Any]
"""The value of a name that stands after ``$``."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of signed whole numbers and names."""

    terms: tuple[tuple[int, int | str], ...]

    def value(self, lookup: Lookup) -> int:
        """The number, each name looked up."""
        return sum(sign * (term if isinstance(term, int) else lookup(term)) for sign, term in self.terms)


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open range; an end that is left out is the model's or the prompt's own."""

    start: Sum | None
    stop: Sum | None

    def indices(self, count: int, lookup: Lookup) -> tuple[int, ...]:
        """The indices below `count`, clipped at both ends, never wrapped; maybe none."""
        return tuple(self.clipped(count, lookup))

    def clipped(self, count: int, lookup: Lookup) -> range:
        """`indices` that are not made yet: they may be many."""
        start = self.start.value(lookup) if self.start else 0
        stop = self.stop.value(lookup) if self.stop else count
        return range(max(start, 0), min(stop, count))

    def bounds(self, lookup: Lookup) -> tuple[int | None, int | None]:
        """Both ends as numbers, None where one is left out."""
        return (
            self.start.value(lookup) if self.start else None,
            self.stop.value(lookup) if self.stop else None,
        )


def is_reference(value: object) -> TypeGuard[str]:
    """Whether the whole value is one ``$name``."""
    return isinstance(value, str) and _IS_REFERENCE.fullmatch(value) is not None


@lru_cache(maxsize=4096)
def parse_sum(text: str) -> Sum | None:
    """The sum that `text` says, or None where it says none."""
    if len(text) > MOST_WRITTEN or not _IS_SUM.fullmatch(text):
        return None
    terms = [(_sign(sign), _term(term)) for sign, term in _SIGNED_TERM.findall(text)]
    return Sum(tuple(terms))


@lru_cache(maxsize=4096)
def parse_range(text: str) -> Range | None:
    """The range that `text` says, or None where it says none."""
    match = _IS_RANGE.fullmatch(text) if len(text) <= MOST_WRITTEN else None
    if match is None:
        return None
    start, stop = (parse_sum(end) if end else None for end in match.groups())
    return Range(start, stop)


@lru_cache(maxsize=4096)
def parse_box(text: str) -> tuple[Sum | tuple[Sum | None, Sum | None], ...] | None:
    """An index or both ends of a range for each dimension, maybe negative; None where it is no rectangle."""
    found: list[Sum | tuple[Sum | None, Sum | None]] = []
    if len(text) > MOST_WRITTEN:
        return None
    for part in text.split(","):
        match = _IS_BOX_PART.fullmatch(part)
        if match is None:
            return None
        start, stop = (None if end is None else _end(end) for end in match.group("start", "stop"))
        if match["colon"]:
            found.append((start, stop))
        elif start is not None and stop is None:
            found.append(start)
        else:
            return None
    return tuple(found)


def parse_span(text: str) -> tuple[str, str | None] | None:
    """``subject[1]`` as ("subject", "[1]"), ``subject`` as ("subject", None); None where it is no span."""
    match = _IS_SPAN.fullmatch(text) if len(text) <= MOST_WRITTEN else None
    if match is None:
        return None
    part = f".{match['part']}" if match["part"] else f"[{match['index']}]" if match["index"] else None
    return match["name"], part


def parse_every_span(text: str) -> str | None:
    """The part that ``spans.last`` takes of every span (``.last``; empty for ``spans``), else None."""
    span = parse_span(text)
    return None if span is None or span[0] != "spans" else span[1] or ""


def parse_subspace(text: str) -> tuple[str | None, Range | None] | None:
    """``R[0:16]`` as ("R", 0:16), ``R`` as ("R", None), ``0:16`` as (None, 0:16); else None."""
    own = parse_range(text)
    if own is not None:
        return (None, own) if own.start and own.stop else None
    match = _IS_SUBSPACE.fullmatch(text) if len(text) <= MOST_WRITTEN else None
    if match is None:
        return None
    if match["range"] is None:
        return match["fit"], None
    part = parse_range(match["range"])
    return (match["fit"], part) if part and part.start and part.stop else None


def references(value: object) -> frozenset[str]:
    """Every name that stands after ``$`` in a value, however deep."""
    if isinstance(value, str):
        return frozenset(found[1:] for found in _IS_REFERENCE.findall(value)) if "$" in value else frozenset()
    if isinstance(value, list | tuple):
        return frozenset().union(*(references(item) for item in value))
    if isinstance(value, dict):
        return frozenset().union(*(references(item) for item in value.values()))
    return frozenset()


def substitute(text: str, lookup: Lookup) -> str:
    """A module path or another text with the values of its references in their places."""
    return _IN_PATH.sub(lambda match: str(lookup(match[0][1:])), text)


def _sign(sign: str) -> int:
    return -1 if sign == "-" else 1


def _end(text: str) -> Sum | None:
    return Sum(((-1, int(text[1:])),)) if text.startswith("-") else parse_sum(text)


def _term(term: str) -> int | str:
    return term[1:] if term.startswith("$") else int(term)
