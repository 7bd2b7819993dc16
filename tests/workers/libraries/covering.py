"""Which tests try what happens where a place is not there, and how a place is found."""

from collections.abc import Callable
from typing import Any, TypeVar

from workers.libraries import LibraryPlace, PlaceOutcome, all_places, tried

_T = TypeVar("_T", bound=Callable[..., Any])

COVERED: set[tuple[str, str]] = set()
"""Library and name of the places whose loss is tried."""


def place_of(library: str, beginning: str) -> LibraryPlace:
    """The one place of a library whose name begins so."""
    found = [one for one in all_places() if one.library == library and one.name.startswith(beginning)]
    assert len(found) == 1, f"{library}: {[one.name for one in found]}"
    return found[0]


def outcome(library: str, beginning: str) -> PlaceOutcome:
    """How a place fares now."""
    return tried(place_of(library, beginning))


def without(library: str, beginning: str) -> Callable[[_T], _T]:
    """Marks a test of what happens where the place is not there."""

    def mark(test: _T) -> _T:
        COVERED.add((library, beginning))
        return test

    return mark
