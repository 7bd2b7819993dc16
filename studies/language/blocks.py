"""Values, units and blocks of a sweep, and the settings that blocks take from the study.

Each unit and each block writes a place and what is done there. A plural key is an axis (a cell for each
element), a singular key one value (a list there means all of them at once, in one cell).
"""

__all__ = [
    "AXES",
    "OTHER_FORM",
    "PLACE",
    "UNIT_AXES",
    "Aligned",
    "Alignment",
    "Block",
    "For",
    "Layer",
    "Position",
    "Seed",
    "Seeds",
    "Settings",
    "Site",
    "Subspace",
    "UnitKeys",
    "UnitSpec",
    "Units",
    "ValueSpec",
    "check_for",
    "is_source",
    "named_axes",
]

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from studies.bounds import MOST_AXIS_VALUES
from studies.language.base import Spec
from studies.language.fields import (
    Column,
    Name,
    Number,
    Written,
    at_once,
    axis,
    check_coordinates,
    check_head,
    check_intervention,
    check_layer,
    check_name,
    check_position,
    check_read,
    check_seed,
    check_seed_range,
    check_site,
    check_step,
    check_subspace,
    check_variable,
    checked,
    freeze,
    is_bounded,
    is_index_range,
    is_position_range,
    one_of,
)
from studies.language.models import Model, ModelSpec, Task, check_model, check_task
from studies.problems import Problem, ProblemsError, refuse

AXES: Mapping[str, str] = MappingProxyType(
    {
        "model": "models",
        "task": "tasks",
        "site": "sites",
        "layer": "layers",
        "head": "heads",
        "position": "positions",
        "subspace": "subspaces",
        "intervention": "interventions",
        "variable": "variables",
        "read": "reads",
        "seed": "seeds",
        "step": "steps",
    }
)
"""Each singular key with its plural, in the order in which axes are crossed."""

OTHER_FORM: Mapping[str, str] = {**AXES, **{plural: singular for singular, plural in AXES.items()}}
"""The plural of each singular key, and the singular of each plural."""

PLACE = ("site", "layer", "head", "position", "coordinates")
"""The keys that say where in a run something is."""

UNIT_AXES = ("site", "layer", "head", "position", "subspace", "intervention")
"""The axes that say where a unit is and what it does; the others are about the whole cell."""

For = Mapping[str, Sequence[object]] | Sequence[Mapping[str, object]]
"""Named axes: a map is a product, a list of maps is zipped."""

_SOURCE = re.compile(r"source(_([2-9]|[1-9]\d+))?")

_one_site = at_once(check_site)
_one_layer = at_once(check_layer)
_one_head = at_once(check_head)
_one_position = at_once(check_position)
_one_subspace = at_once(check_subspace)
_one_variable = at_once(check_variable)
_range = ", all, or a range such as '8:18'"

Site = Annotated[Written | None, checked(_one_site)]
Layer = Annotated[Written | None, checked(_one_layer)]
Head = Annotated[Written | None, checked(_one_head)]
Position = Annotated[Written | None, checked(_one_position)]
Region = Annotated[Any, checked(check_coordinates)]
Subspace = Annotated[Written | None, checked(_one_subspace)]
Intervention = Annotated[str | None, checked(check_intervention)]
Variable = Annotated[Written | None, checked(_one_variable)]
Read = Annotated[Written | None, checked(at_once(check_read))]
Seed = Annotated[int | None, checked(check_seed)]
Step = Annotated[Written | None, checked(at_once(check_step))]
Sites = Annotated[Sequence[object] | None, checked(axis(_one_site))]
Layers = Annotated[str | Sequence[object] | None, checked(axis(_one_layer, _range, is_index_range))]
Heads = Annotated[str | Sequence[object] | None, checked(axis(_one_head, _range, is_index_range))]
Positions = Annotated[
    str | Sequence[object] | None,
    checked(axis(_one_position, ", all, a range, spans.first, spans.last", is_position_range)),
]
Subspaces = Annotated[Sequence[object] | None, checked(axis(_one_subspace))]
Interventions = Annotated[Sequence[str] | None, checked(axis(check_intervention))]
Variables = Annotated[
    str | Sequence[object] | None, checked(axis(_one_variable, ", or all", lambda text: text == "all"))
]
Reads = Annotated[Sequence[object] | None, checked(axis(check_read))]
Seeds = Annotated[
    str | Sequence[int] | None,
    checked(axis(check_seed, ", or a range such as '0:10'", is_bounded, check_seed_range)),
]
Steps = Annotated[Sequence[object] | None, checked(axis(check_step))]
Models = Annotated[Sequence[ModelSpec | str] | None, checked(axis(check_model))]
Tasks = Annotated[Sequence[Task | str] | None, checked(axis(check_task))]


class ValueSpec(Spec):
    """Source of a unit's value: a run, a fit or noise; keys that are left out are as at the unit's own place.

    A file writes the name alone where nothing else is said: ``from: source``.
    """

    run: str | None = None
    """``source``, ``source_2`` …, ``base``, ``zero``, ``mean``, a name under ``runs``, or a fit's name."""
    site: Site = None
    layer: Layer = None
    head: Head = None
    position: Position = None
    coordinates: Region = None
    fit: Name = None
    """A fit whose vector is the value."""
    scale: Number = None
    """Factor of the fit's vector."""
    noise: Number = None
    """Normal noise of this many standard deviations of the embeddings."""

    def as_plain(self) -> object:
        """The value as a file writes it: a run's name alone where nothing else is said."""
        given = self._given()
        return given["run"] if list(given) == ["run"] else given

    @model_validator(mode="after")
    def _check_one(self) -> "ValueSpec":
        given = [name for name in ("run", "fit", "noise") if getattr(self, name) is not None]
        if len(given) != 1:
            refuse(given, "one of run, fit, noise")
        if self.run is None:
            elsewhere = [name for name in PLACE if getattr(self, name) is not None]
            if elsewhere:
                refuse(elsewhere, f"{', '.join(PLACE)} only together with run")
        if self.scale is not None and self.fit is None:
            refuse("scale", "scale only together with fit")
        return self


def is_source(run: str) -> bool:
    """Whether the name is that of a source: ``source``, ``source_2`` …"""
    return _SOURCE.fullmatch(run) is not None


def _value(value: object) -> object:
    """``source`` as ``{run: source}``; mappings and specs go on to `ValueSpec`."""
    if isinstance(value, str):
        return {"run": check_name(value)}
    if not isinstance(value, dict | ValueSpec):
        refuse(
            value, "source, source_2, base, zero, mean, a run, a fit, {noise: SCALE}, or a mapping with run"
        )
    return value


def check_for(value: object) -> For:
    """A map from names to lists (a product), or a list of maps with the same names (zipped)."""
    if isinstance(value, dict) and value:
        return {check_name(key): _for_values(key, found) for key, found in value.items()}
    if isinstance(value, list | tuple) and value and all(isinstance(row, dict) and row for row in value):
        names = set(value[0])
        if any(set(row) != names for row in value):
            refuse(sorted(names), "the same names in each map of the list, which is zipped")
        return tuple({check_name(key): freeze(found) for key, found in row.items()} for row in value)
    refuse(value, "a map from names to lists (a product), or a list of maps with the same names (zipped)")


def _for_values(name: str, values: object) -> tuple[object, ...]:
    if not isinstance(values, list | tuple) or not values:
        refuse(values, "a list with a value for each cell", path=(name,))
    if len(values) > MOST_AXIS_VALUES:
        refuse(values, f"at most {MOST_AXIS_VALUES:,} values; here are {len(values):,}", path=(name,))
    return tuple(freeze(value) for value in values)


class UnitKeys(Spec):
    """Keys of a unit, which its block may say for it: a place, coordinates, the operation and the value."""

    site: Site = None
    layer: Layer = None
    head: Head = None
    position: Position = None
    coordinates: Region = None
    """Rectangle of a module's tensor, or a getter and a setter, in place of head, position and subspace."""
    subspace: Subspace = None
    intervention: Intervention = None
    from_: Annotated[ValueSpec | None, Field(alias="from")] = None
    """Source of the value; a name alone is a run or a fit."""

    @model_validator(mode="before")
    @classmethod
    def _expand_value(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: _short_value(key, value) for key, value in data.items()}


def _short_value(key: str, value: object) -> object:
    if key not in ("from", "from_") or value is None:
        return value
    try:
        return _value(value)
    except ProblemsError as problem:
        raise ProblemsError([Problem(("from",), problem.problems[0].text)]) from None


class UnitSpec(UnitKeys):
    """One change: at a place, in some coordinates, by an operation with a value."""


Units = Annotated[Sequence[UnitSpec], Field(min_length=1), AfterValidator(tuple)]


class Aligned(Spec):
    """The place that is hypothesised to hold a variable of the causal model."""

    site: Site = None
    layer: Layer = None
    head: Head = None
    position: Position = None
    subspace: Subspace = None


Alignment = Annotated[Mapping[str, Aligned], Field(min_length=1)]
"""The place of each variable of the causal model."""


class Settings(UnitKeys):
    """Keys of a block, which the study may give for all of its blocks."""

    sites: Sites = None
    layers: Layers = None
    heads: Heads = None
    positions: Positions = None
    subspaces: Subspaces = None
    interventions: Interventions = None
    model: Model = None
    models: Models = None
    task: Annotated[Task | None, checked(check_task)] = None
    tasks: Tasks = None
    variable: Variable = None
    variables: Variables = None
    read: Read = None
    reads: Reads = None
    seed: Seed = None
    seeds: Seeds = None
    step: Step = None
    steps: Steps = None
    for_: Annotated[For | None, PlainValidator(check_for), Field(alias="for")] = None
    runs: Mapping[str, Units] | None = None
    """Other intervened runs, each a list of units, whose values ``from`` may name."""
    alignment: Alignment | None = None
    """Places at which a block interchanges variables if it says no place itself."""
    where: Column = None
    """SQL over the pair's columns: the pairs that the block is about."""
    missing: Annotated[str | None, checked(one_of(("skip",)))] = None
    """``skip``: leave out the pairs that lack a position instead of refusing."""

    @model_validator(mode="after")
    def _check_forms(self) -> "Settings":
        both = [
            Problem((plural,), f"both {singular!r} and {plural!r} are here; allowed: one form of the two")
            for singular, plural in AXES.items()
            if getattr(self, singular) is not None and getattr(self, plural) is not None
        ]
        if both:
            raise ProblemsError(both)
        return self


class Block(Settings):
    """Cells of one kind: the product of its axes; a study is the union of its blocks."""

    name: Name = None
    units: Units | None = None
    """The changes of a cell, in the order in which they apply; without it the block is its one unit."""


def named_axes(for_: For | None) -> dict[str, list[object]]:
    """Each name of a ``for`` with all the values that it takes."""
    if for_ is None:
        return {}
    if isinstance(for_, Mapping):
        return {name: list(values) for name, values in for_.items()}
    return {name: [row[name] for row in for_] for name in for_[0]}
