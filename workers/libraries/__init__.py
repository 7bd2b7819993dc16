"""Unstable names of other libraries: one file for each library, one `Place` for each name. No torch here.

Nothing else in the project leans on a private name, a keyword, the text of an error or a default that another
library may change in its next version. Where a name is gone, the functions of these files find its place by
trying, or say what is lost; `python -m workers.libraries` tries every place with the versions at hand.
"""

__all__ = ["LIBRARIES", "Outcome", "Place", "all_places", "tried"]

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

LIBRARIES = (*("transformers", "torch"),)
"""Libraries that the project leans on by more than their documented calls; each has a file here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One name of another library that the project leans on."""

    library: str
    name: str
    """Name as the library has it, or what is taken for granted, in a few words."""
    used_for: str
    seen_with: str
    """Versions that it was seen to work with."""
    without: str
    """What happens where it is not there: what is lost, or what the user is told."""
    marks: tuple[str, ...]
    """Texts by which its use is recognised in source code: they stand in the library's file alone."""
    probe: Callable[[], str | None]
    """Tries it: None where it works, else what is lost; an exception where nothing takes its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a place fared with the versions at hand."""

    library: str
    name: str
    state: Literal["ok", "degraded", "error"]
    told: str
    """What is lost, or the exception's type and first line; empty where all is well."""


def all_places() -> tuple[Place, ...]:
    """Every place of every library, in the order of `LIBRARIES`; this imports the libraries."""
    found = (importlib.import_module(f"workers.libraries.{library}") for library in LIBRARIES)
    return tuple(place for module in found for place in module.PLACES)


def tried(place: Place) -> Outcome:
    """How the place fares now; no exception escapes."""
    try:
        lost = place.probe()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        told = f"{type(error).__name__}: {lines[0][:200]}"
        return Outcome(library=place.library, name=place.name, state="error", told=told)
    state: Literal["ok", "degraded"] = "ok" if lost is None else "degraded"
    return Outcome(library=place.library, name=place.name, state=state, told=lost or "")
