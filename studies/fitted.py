"""Which fits cells use: what expansion asks of a study's fits for one model, and what it gets back.

A fit is made once for each combination of model, place, variable, task and its own axes. A cell names the
result by its identity, a hash of all that the fit is made of, so that cells are known before anything is
fitted.
"""

__all__ = [
    "MEAN",
    "PER_POSITION",
    "RANK",
    "FitNames",
    "FitPlace",
    "Written",
    "as_written",
    "looked_at",
    "per_columns",
    "tokens_at",
]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from studies.axes import Names
from studies.fields import Scalar
from studies.forms import Range, Sum, is_reference, parse_range, parse_sum, references, substitute
from studies.slots import Prompt, read_positions
from studies.spec import Study
from workers.errors import StudyError
from workers.fit_methods import TRAINED
from workers.vocabulary import Span, locate

MEAN = "mean"
"""``from: mean`` is a fit that needs no name: the mean over the base runs of all pairs."""

RANK = "fit_rank"
"""The axis of a fit's ``ranks``; ``rank`` is a metric's name."""

PER_POSITION = "position"
"""In ``per``: a value for each token of the prompt, counted from 0. Every other name is a column."""

Written = tuple[int | str, ...]
"""Positions as a study writes them, references filled in: ``-1``, ``all``, ``2:``, ``subject.last``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlace:
    """Where a fit is made. Positions are as written, so that prompts of all lengths share one fit."""

    site: str
    layer: int | None
    heads: tuple[int, ...] | None
    """In rising order."""
    position: Written
    read: int | str
    """Where the label is read, as written."""


class FitNames(Protocol):
    """The fits of a study, for one model and its pairs."""

    def axes(self, name: str) -> Mapping[str, tuple[Scalar, ...]]:
        """What the fit itself varies (`RANK`, ``seed``): these become axes of the cells that use it."""

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


def as_written(written: Any, names: Names) -> Written:
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


def tokens_at(position: Written, num_tokens: int, spans: Mapping[str, Span]) -> tuple[int, ...] | None:
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
