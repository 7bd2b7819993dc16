"""Screening: which cells run at all, in a study that is too large to run whole."""

__all__ = ["Screen", "Screened"]

from typing import Annotated, Any

from pydantic import BeforeValidator

from studies.base import Spec
from studies.fields import check_seed, one_of, required
from studies.problems import refuse


def _check_part(value: Any) -> int | float:
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
    """Number or share of the others that run, drawn evenly: a share is fifty at least, as far as there are."""
    seed: Annotated[int, required(check_seed)] = 0
    """Of the sample."""


def _from_name(value: Any) -> Any:
    """A method's name alone, as a mapping."""
    return {"method": value} if isinstance(value, str) else value


Screened = Annotated[Screen | None, BeforeValidator(_from_name)]
"""A method's name, or a mapping with more."""
