"""Fits, which are made before cells run: rotations, directions, masks, means, autoencoders."""

__all__ = ["Fit"]

from collections.abc import Sequence
from typing import Annotated

from pydantic import model_validator

from studies.language.base import Spec
from studies.language.blocks import Seed, Seeds
from studies.language.fields import (
    Column,
    Count,
    FilePath,
    Number,
    axis,
    check_count,
    check_name,
    check_number,
    check_positive,
    checked,
    one_of,
    required,
)
from studies.language.grammar import is_reference
from studies.problems import Problem, ProblemsError, each, refuse
from workers.fit_methods import DEFAULTS, DRAWS, METHODS, WITHOUT_PAIRS

_NEEDED = {"das": ("rank", "ranks"), "pca": ("rank", "ranks"), "sae": ("path",)}
"""The keys of which a method needs one."""

_RunName = Annotated[str | None, checked(check_name)]


def _check_temperature(value: object) -> tuple[float, float]:
    """The first and the last temperature."""
    found = each(check_number, value) if isinstance(value, list | tuple) else ()
    numbers = [one for one in found if not isinstance(one, str) and one > 0]
    if len(found) != 2 or len(numbers) != 2:
        refuse(value, "two temperatures above 0, the first and the last: [50, 0.1]")
    return numbers[0], numbers[1]


def _check_flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        refuse(value, "true, false")
    return value


class Fit(Spec):
    """A fit: a rotation, a direction, a mask or a mean that units name. `docs/fits.md` says what each is."""

    method: Annotated[str, required(one_of(METHODS))]
    rank: Count = None
    """Number of directions."""
    ranks: Annotated[Sequence[int] | None, checked(axis(check_count))] = None
    """An axis of ranks."""
    where: Column = None
    """SQL over the pair's columns: the pairs that it is made from."""
    num_steps: Count = None
    batch_size: Count = None
    lr: Annotated[float | str | None, checked(check_positive)] = None
    """Learning rate."""
    temperature: Annotated[tuple[float, float] | None, checked(_check_temperature)] = None
    """Temperature of a mask or a boundary, at the first and at the last step."""
    penalty: Number = None
    """Weight, in the loss, of the share of coordinates that is exchanged."""
    of: _RunName = None
    """The run whose values it is made from."""
    per: Annotated[Sequence[str] | None, checked(axis(check_name))] = None
    """Columns, and ``position``: one mean for each combination of their values."""
    path: FilePath = None
    """The file of a sparse autoencoder, or its folder; relative to the study's."""
    centered: Annotated[bool | None, checked(_check_flag)] = None
    """Whether its decoder's bias is taken off before encoding, where no config says it."""
    seed: Seed = None
    seeds: Seeds = None

    @model_validator(mode="after")
    def _check_forms(self) -> "Fit":
        for singular, plural in (("rank", "ranks"), ("seed", "seeds")):
            if getattr(self, singular) is not None and getattr(self, plural) is not None:
                text = f"both {singular!r} and {plural!r} are here; allowed: one form of the two"
                raise ProblemsError([Problem((plural,), text)])
        self._check_method()
        return self

    def _check_method(self) -> None:
        """Refuse what the method does not use, and ask for what it needs."""
        known = {"method", *DEFAULTS[self.method]}
        known |= {"ranks"} if "rank" in known else set()
        known |= {"seed", "seeds"} if self.method in DRAWS else set()
        known |= set() if self.method in WITHOUT_PAIRS else {"where"}
        for key in ("lr", "penalty"):
            if is_reference(getattr(self, key)):
                refuse(getattr(self, key), "a number; a fit's own axes are ranks and seeds", path=(key,))
        for key in self.key_names():
            if getattr(self, key) is not None and key not in known:
                allowed = ", ".join(sorted(known))
                text = f"the method {self.method!r} does not use {key!r}; allowed: {allowed}"
                raise ProblemsError([Problem((key,), text)])
        needed = _NEEDED.get(self.method, ())
        if needed and all(getattr(self, key) is None for key in needed):
            keys = " or ".join(map(repr, needed))
            text = f"the key {keys} is missing; the method {self.method!r} needs it"
            raise ProblemsError([Problem((), text)])
