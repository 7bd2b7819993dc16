"""Parts of a study about its results: metrics, generation, screening, required abilities, plots."""

__all__ = [
    "KINDS",
    "OF_TRAININGS",
    "VIEWS",
    "Contains",
    "Generate",
    "Metric",
    "Plot",
    "Required",
    "Screen",
    "Screened",
    "metric_families",
]

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from studies.language.base import Spec
from studies.language.fields import Column, check_count, check_seed, checked, one_of, required
from studies.problems import Problem, ProblemsError, refuse
from workers.metrics import DIVERGENCES, LABELS, LOGITS, MEASURABLE, METRIC_FAMILIES
from workers.model.capability import ABILITIES

VIEWS = (
    *("results", "scores", "cells", "screening", "pairs", "inputs", "runs", "fits", "curves", "batches"),
    "failures",
)
"""The views that a plot may draw."""

OF_TRAININGS = ("curves", "alignment")
"""The kinds of plots that show what a study trains: learning curves, and the alignment with a network."""

KINDS = ("heatmap", "bars", *OF_TRAININGS)
"""The kinds of plots."""


def _columns(value: object) -> str | tuple[str, ...]:
    """A column or SQL expression, or several."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) and v.strip() for v in value):
        return tuple(value)
    refuse(value, "a column or SQL expression, or a list of them")


Columns = Annotated[str | Sequence[str] | None, checked(_columns)]


class Plot(Spec):
    """A picture of a view's columns."""

    kind: Annotated[str, required(one_of(KINDS))]
    """``curves`` and ``alignment`` show what a study trains, and take ``where`` and ``title`` only."""
    view: Annotated[str, required(one_of(VIEWS))] = "results"
    x: Columns = None
    y: Columns = None
    fill: Columns = None
    """Column that a heat map's colour shows; of a list each in a facet of its own."""
    facet: Columns = None
    """Columns whose values get a picture each."""
    where: Column = None
    """SQL over the view's columns: the rows that are drawn."""
    log: Annotated[str | None, checked(one_of(("x", "y", "fill")))] = None
    """Axis with a logarithmic scale."""
    scale: Annotated[str, required(one_of(("shared", "own")))] = "shared"
    """Whether facets share one scale or have one each."""
    title: Column = None

    @model_validator(mode="after")
    def _check_columns(self) -> "Plot":
        if self.kind in OF_TRAININGS:
            for key in sorted(self.model_fields_set - {"kind", "where", "title"}):
                if getattr(self, key) is not None:
                    text = f"{self.kind} does not use {key!r}; allowed: where, title"
                    raise ProblemsError([Problem((key,), text)])
            return self
        needed = ("x", "y", "fill") if self.kind == "heatmap" else ("x", "y")
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            text = f"the key {missing[0]!r} is missing; {self.kind} needs {', '.join(needed)}"
            raise ProblemsError([Problem((), text)])
        if self.kind == "bars" and self.fill is not None:
            refuse(self.fill, "fill only in a heatmap", path=("fill",))
        return self


class Generate(Spec):
    """Settings of generation: greedy, this many tokens."""

    max_tokens: Annotated[int, required(check_count)]


class Contains(Spec):
    """A metric of generated text: whether it contains a text."""

    contains: Annotated[str, Field(min_length=1)]


def check_metric(value: object) -> "Contains | str":
    """A metric's name, or ``{contains: TEXT}``."""
    if isinstance(value, Contains):
        return value
    if isinstance(value, dict) and list(value) == ["contains"] and isinstance(value["contains"], str):
        return Contains(contains=value["contains"])
    return str(one_of((*MEASURABLE, "{contains: TEXT}"))(value))


Metric = Annotated[Contains | str, PlainValidator(check_metric)]


def metric_families(
    metrics: Iterable[Contains | str] | None, *, is_screened: bool = False
) -> tuple[str, ...]:
    """The families of ``workers.vocabulary`` that hold these metrics; None names them all.

    A screened study needs what the labels get, to compare it with the estimates.
    """
    if metrics is None:
        return (LOGITS, DIVERGENCES)
    wanted = {MEASURABLE.get(str(metric), LOGITS) for metric in metrics}
    if is_screened and LOGITS not in wanted:
        wanted.add(LABELS)
    unneeded = {LABELS} if LOGITS in wanted else set()
    return tuple(family for family in METRIC_FAMILIES if family in wanted - unneeded)


def _check(value: object) -> tuple[str, ...]:
    """One ability's name, or a list of them."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        refuse(value, f"one or more of {', '.join(ABILITIES)}")
    for name in names:
        if name not in ABILITIES:
            refuse(name, ", ".join(ABILITIES), near=ABILITIES)
    return tuple(dict.fromkeys(names))


Required = Annotated[
    tuple[str, ...] | None, BeforeValidator(lambda value: None if value is None else _check(value))
]
"""An ability's name, or a list of names; none where nothing is required."""


def _check_part(value: object) -> int | float:
    """A share below 1, or a number of cells."""
    if isinstance(value, float) and 0 < value < 1:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    refuse(value, "a share of the cells above 0 and below 1, or a number of cells from 1")


class Screen(Spec):
    """Every cell is estimated; those with the largest effects run, and a sample of the others."""

    method: Annotated[str, required(one_of(("attribution",)))]
    keep: Annotated[int | float, required(_check_part)] = 0.1
    """Number or share of the cells of each model that run: those with the largest mean estimated |effect|."""
    sample: Annotated[int | float, required(_check_part)] = 0.02
    """Number or share of the others that run, drawn evenly: a share is fifty at least, if there are so."""
    seed: Annotated[int, required(check_seed)] = 0
    """Seed of the sample."""


def _from_name(value: object) -> object:
    """A method's name alone, as a mapping."""
    return {"method": value} if isinstance(value, str) else value


Screened = Annotated[Screen | None, BeforeValidator(_from_name)]
"""A method's name, or a mapping with more."""
