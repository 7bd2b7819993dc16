"""Values and fits of units at a point of a sweep: runs, noise, zeros, vectors and coordinates of fits.

A fit is made once for each combination of model, place, variable, task and its own axes. A cell names the
result by its identity, a hash of all that the fit is made of, so that cells are known before anything is
fitted.
"""

__all__ = [
    "FIT",
    "MEAN",
    "NOISE",
    "PER_POSITION",
    "RANK",
    "UNTAKEN",
    "ZERO",
    "FitNames",
    "FitPlace",
    "Valued",
    "WrittenPosition",
    "as_written",
    "is_fit",
    "looked_at",
    "per_columns",
    "read_value",
    "tokens_at",
    "written_value",
]

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from studies.language.blocks import Block, ValueSpec
from studies.language.fields import Scalar
from studies.language.grammar import (
    Names,
    Range,
    Sum,
    is_reference,
    parse_range,
    parse_sum,
    references,
    substitute,
)
from studies.language.resolve import Prompt, read_number, read_positions, read_texts
from studies.language.study import Study
from workers.errors import StudyError
from workers.fit_methods import TRAINED
from workers.vocabulary import Span, locate

MEAN = "mean"
"""``from: mean`` is a fit that needs no name: the mean over the base runs of all pairs."""

RANK = "fit_rank"
"""The axis of a fit's ``ranks``; ``rank`` is a metric's name."""

PER_POSITION = "position"
"""Name in ``per`` for a value of each token of the prompt, counted from 0. Every other name is a column."""

WrittenPosition = tuple[int | str, ...]
"""Positions as a study writes them, references filled in: ``-1``, ``all``, ``2:``, ``subject.last``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlace:
    """Place of a fit. Positions are as written, so that prompts of all lengths share one fit."""

    site: str
    layer: int | None
    heads: tuple[int, ...] | None
    """Heads in rising order."""
    position: WrittenPosition
    read: int | str
    """Position at which the label is read, as written."""


class FitNames(Protocol):
    """The fits of a study, for one model and its pairs."""

    def axes(self, name: str) -> Mapping[str, tuple[Scalar, ...]]:
        """Axes of the fit itself (`RANK`, ``seed``), which become axes of the cells that use it."""

    def identity(self, name: str, place: FitPlace, names: Names) -> str:
        """The identity (32 hex digits) of the fit `name` made at `place`.

        Args:
            name: a key of ``fits``, or `MEAN`.
            place: as resolved for the unit that names it.
            names: the values at the point: the fit's own axes, ``seed``, ``pair.COLUMN`` of `per_columns`.

        Raises:
            StudyError: no pair is there to make it from, or the method lacks something.
        """


def per_columns(study: Study) -> set[str]:
    """The columns of pairs that decide which of a fit's values a pair gets."""
    return {name for fit in (study.fits or {}).values() for name in fit.per or ()} - {PER_POSITION}


def as_written(written: Any, names: Names) -> WrittenPosition:
    """A position as the study writes it, with every ``$name`` filled in and one spelling for equal ones."""
    if isinstance(written, list | tuple):
        return tuple(found for item in written for found in as_written(item, names))
    if is_reference(written):
        return as_written(names[written[1:]], names)
    if not isinstance(written, str):
        return (int(written),)
    if not references(written):
        return (written,)
    total, computed = parse_sum(written), parse_range(written)
    if total is not None:
        return (total.value(names.__getitem__),)
    return (_range(computed, names) if computed else substitute(written, names.__getitem__),)


def _range(computed: Range, names: Names) -> str:
    def end(of: Sum | None) -> str:
        return "" if of is None else str(of.value(names.__getitem__))

    return f"{end(computed.start)}:{end(computed.stop)}"


def tokens_at(
    position: WrittenPosition, num_tokens: int, spans: Mapping[str, Span]
) -> tuple[int, ...] | None:
    """The tokens of a prompt that a written position means, in order and each once.

    None where the prompt lacks one of them, or where there are none.

    Args:
        position: see `as_written`.
        num_tokens: of the prompt.
        spans: its named spans.
    """
    prompt = Prompt(run="", num_tokens=num_tokens, spans=frozenset(spans))
    resolved = read_positions(position, {}, prompt)
    if not resolved:
        return None
    try:
        return tuple(dict.fromkeys(locate(resolved, spans))) or None
    except StudyError:
        return None


def looked_at(method: str, of: str | None, runs: Iterable[str]) -> tuple[str, ...]:
    """The runs of a pair that a fit takes values from, or changes; a pair that lacks one is of no use to it.

    Args:
        method: the fit's.
        of: the run that it names.
        runs: those that the pair has.
    """
    if method in TRAINED:
        return ("base", of or "source")
    if method == "pca" and of is None:
        return tuple(runs)
    return ("base", "source") if of is None else (of,)


ZERO, NOISE, FIT = "zero", "noise", "fit"

UNTAKEN = (ZERO, NOISE, FIT)
"""The words of `Unit.run` for values that are taken from no run; no run can be named so."""


@dataclass(frozen=True, slots=True)
class Valued:
    """Value that a unit writes."""

    run: str
    """The run, as in `Unit.run`."""
    fit: str | None = None
    """The name of the fit whose vector it is."""
    scale: float | None = None
    seed: int | None = None


def written_value(value: ValueSpec, block: Block) -> dict[str, object]:
    """The value as written, with the seed that it is drawn from where it is drawn."""
    draws = value.noise is not None
    return {
        "run": value.run,
        "fit": value.fit,
        "noise": value.noise,
        "scale": value.scale,
        "seed": ("$seed" if block.seeds is not None else block.seed) if draws else None,
    }


def is_fit(name: object, runs: Collection[str], fits: Collection[str]) -> bool:
    """Whether ``from: NAME`` means a fit's vector."""
    return name in fits and name not in runs


def read_value(
    written: Mapping[str, object], names: Names, *, runs: Collection[str], fits: Collection[str]
) -> Valued:
    """The value at a point; `runs` and `fits` are the names that the block knows.

    Raises:
        StudyError: noise without a seed, or of a negative scale.
    """
    noise = read_number(written["noise"], names)
    if noise is not None:
        return Valued(NOISE, scale=_deviation(noise), seed=_seed(written["seed"], names))
    (name,) = read_texts(written["run"] or written["fit"], names)
    if written["run"] is not None and not is_fit(name, runs, fits):
        return Valued(name)
    scale = read_number(written["scale"], names)
    return Valued(FIT, fit=name, scale=None if scale == 1 else scale)


def _deviation(noise: float) -> float:
    if noise < 0:
        raise StudyError(f"noise of {noise} standard deviations; write a number from 0")
    return noise


def _seed(written: object, names: Names) -> int:
    seed = read_number(written, names)
    if seed is None:
        raise StudyError("noise is drawn, and nothing says from which seed; write seed: 0, or seeds")
    return int(seed)
