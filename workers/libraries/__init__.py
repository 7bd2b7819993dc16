"""Unstable names of other libraries: one file for each library, one `LibraryPlace` for each name. No torch.

Nothing else in the project leans on a private name, a keyword, the text of an error or a default that another
library may change in its next version. Where a name is gone, the functions of these files find its place by
trying, or say what is lost; `python -m workers.libraries` tries every place with the versions at hand.
"""

__all__ = [
    "LIBRARIES",
    "TORCH_FREE",
    "LibraryPlace",
    "PlaceOutcome",
    "all_places",
    "outcomes",
    "tried",
    "versions",
]

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_WITHOUT_TORCH = (
    *("click", "duckdb", "huggingface_hub", "pyarrow", "pydantic", "python", "ray"),
    *("tokenizers", "yaml"),
)

TORCH_FREE = (*_WITHOUT_TORCH, "transformers_source")
"""Files that load no torch: what never runs a model may import them."""

LIBRARIES = ("transformers", "torch", "gguf", *_WITHOUT_TORCH)
"""Libraries that the project leans on by more than their documented calls; each has a file here, and what
does not fit into it stands in one that begins with its name."""

_BESIDE = {"transformers": ("workers.engine.replay.probe",)}
"""Modules of ours with places that nothing less than their own code can try, by library; loaded by name."""

_PACKAGES = {"yaml": "PyYAML"}
"""Names of packages whose module is called otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPlace:
    """One name of another library that the project leans on."""

    library: str
    name: str
    """Name as the library has it, or what is taken for granted, in a few words."""
    used_for: str
    seen_with: str
    """Versions that it was seen to work with."""
    without: str
    """Consequence where it is not there: what is lost, or what the user is told."""
    marks: tuple[str, ...]
    """Texts by which its use is recognised in source code: they stand in the library's file alone."""
    probe: Callable[[], str | None]
    """Tries it: None where it works, else what is lost; an exception where nothing takes its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOutcome:
    """Result of trying one place with the versions at hand."""

    library: str
    name: str
    state: Literal["ok", "degraded", "error"]
    told: str
    """Loss, or the exception's type and first line; empty where all is well."""


def all_places() -> tuple[LibraryPlace, ...]:
    """Every place of every library, in the order of `LIBRARIES`; this imports the libraries."""
    return tuple(place for module in _modules() for place in _places(module))


def outcomes() -> list[PlaceOutcome]:
    """Try every place; no exception escapes, also where a library cannot be imported at all."""
    found: list[PlaceOutcome] = []
    for module, library in _modules().items():
        try:
            places = _places(module)
        except Exception as error:
            name = f"what {module.replace('.', '/')}.py needs of it"
            found.append(PlaceOutcome(library=library, name=name, state="error", told=_told(error)))
        else:
            found += [tried(place) for place in places]
    return found


def _modules() -> dict[str, str]:
    """Modules with places, each with its library."""
    stems = sorted(file.stem for file in Path(__file__).parent.glob("*.py"))
    found: dict[str, str] = {}
    for one in LIBRARIES:
        own = [f"{__name__}.{stem}" for stem in stems if stem == one or stem.startswith(f"{one}_")]
        found |= dict.fromkeys((*own, *_BESIDE.get(one, ())), one)
    return found


def _places(module: str) -> tuple[LibraryPlace, ...]:
    return tuple(getattr(importlib.import_module(module), "PLACES", ()))


def tried(place: LibraryPlace) -> PlaceOutcome:
    """Try one place; no exception escapes."""
    try:
        lost = place.probe()
    except Exception as error:
        return PlaceOutcome(library=place.library, name=place.name, state="error", told=_told(error))
    state: Literal["ok", "degraded"] = "ok" if lost is None else "degraded"
    return PlaceOutcome(library=place.library, name=place.name, state=state, told=lost or "")


def _told(error: Exception) -> str:
    """The exception's type and first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def versions() -> dict[str, str]:
    """The version of each library that is installed, by its name here."""
    # Only here: the first lines of a command come at once.
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(_PACKAGES.get(library, library))
        except PackageNotFoundError:
            found[library] = "none"
    return {**found, "python": sys.version.split()[0]}
