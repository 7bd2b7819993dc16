"""Values that units write at a point: taken from a run, a fit's vector, noise, or zeros."""

__all__ = ["FIT", "NOISE", "UNTAKEN", "ZERO", "Valued", "is_fit", "read_value", "written_value"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from studies.axes import Names
from studies.blocks import Block, ValueSpec
from studies.slots import read_number, read_texts
from workers.errors import StudyError

ZERO, NOISE, FIT = "zero", "noise", "fit"

UNTAKEN = (ZERO, NOISE, FIT)
"""The words of `Unit.run` for values that are taken from no run; no run can be named so."""


@dataclass(frozen=True, slots=True)
class Valued:
    """Value that a unit writes."""

    run: str
    """As in `Unit.run`."""
    fit: str | None = None
    """The name of the fit whose vector it is."""
    scale: float | None = None
    seed: int | None = None


def written_value(value: ValueSpec, block: Block) -> dict[str, Any]:
    """The value as written, with the seed that it is drawn from where it is drawn."""
    draws = value.noise is not None
    return {
        "run": value.run,
        "fit": value.fit,
        "noise": value.noise,
        "scale": value.scale,
        "seed": ("$seed" if block.seeds is not None else block.seed) if draws else None,
    }


def is_fit(name: str, runs: Collection[str], fits: Collection[str]) -> bool:
    """Whether ``from: NAME`` means a fit's vector."""
    return name in fits and name not in runs


def read_value(
    written: Mapping[str, Any], names: Names, *, runs: Collection[str], fits: Collection[str]
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


def _seed(written: Any, names: Names) -> int:
    seed = read_number(written, names)
    if seed is None:
        raise StudyError("noise is drawn, and nothing says from which seed; write seed: 0, or seeds")
    return int(seed)
