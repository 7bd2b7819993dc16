"""Abilities that a study requires of the models that its workers load."""

__all__ = ["Required"]

from typing import Annotated, Any

from pydantic import BeforeValidator

from studies.problems import refuse
from workers.capability import ABILITIES


def _check(value: Any) -> tuple[str, ...]:
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
