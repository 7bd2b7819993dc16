"""Positions in the examples of a batch: the forms in which they are written, each with one meaning.

======================================  ==============================================================
form                                    meaning
======================================  ==============================================================
``3``                                   token 3 of every example, from 0, padding not counted
``-1``                                  the last token of every example, each from its own end
``[1, 4]``                              these tokens of every example, all at once
``"all"``                               every token of every example
``per_example([3, [4, 5], "all", None])``  each example its own; None leaves that example as it is
======================================  ==============================================================

Of a recurrent site, a token is a time step.
"""

__all__ = ["PerExample", "PositionForm", "check_position", "per_example", "tokens_of"]

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from workers.errors import RunError, StudyError

FORMS = "an index such as 3 or -1, a list of them such as [1, 4], 'all', or sy.per_example([3, [4, 5], None])"


class PerExample(tuple[Any, ...]):
    """One value for each example of a batch."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"per_example({list(self)})"


def per_example(values: Iterable[Any]) -> PerExample:
    """One value for each example of a batch, where one for all would stand otherwise."""
    return PerExample(values)


PositionForm = int | Sequence[int] | str | PerExample
"""Position as it is written; the module's table lists the forms."""


def check_position(form: object) -> PositionForm:
    """The position, its numbers as ints.

    Raises:
        StudyError: it has none of the forms.
    """
    if isinstance(form, PerExample):
        return PerExample(None if one is None else _check_one(one) for one in form)
    return _check_one(form)


def _check_one(form: object) -> int | tuple[int, ...] | str:
    if isinstance(form, str) and form == "all":
        return form
    if isinstance(form, list | tuple | range) and not isinstance(form, PerExample) and form:
        return tuple(_index(item, form) for item in form)
    return _index(form, form)


def _index(item: object, form: object) -> int:
    try:
        if isinstance(item, bool) or not isinstance(item, SupportsIndex):
            raise TypeError
        return operator.index(item)
    except TypeError:
        raise StudyError(f"position {form!r} has no known form; write {FORMS}") from None


def tokens_of(form: PositionForm, lengths: Sequence[int]) -> list[tuple[int, ...] | None]:
    """The tokens of each example, from 0, for examples of these `lengths`; None where it is left alone.

    Raises:
        RunError: an example has no such token, or there is not one position for each example.
    """
    if isinstance(form, PerExample):
        if len(form) != len(lengths):
            raise RunError(f"{len(form)} positions for {len(lengths)} examples; give one for each")
        return [
            None if one is None else _tokens(one, length, example)
            for example, (one, length) in enumerate(zip(form, lengths, strict=True))
        ]
    return [_tokens(form, length, example) for example, length in enumerate(lengths)]


def _tokens(form: PositionForm, length: int, example: int) -> tuple[int, ...]:
    if isinstance(form, str):
        return tuple(range(length))
    items = (form,) if isinstance(form, int) else form
    for item in items:
        if not -length <= item < length:
            raise RunError(f"position {item} of example {example}, which has {length}: 0 to {length - 1}")
    tokens = tuple(item % length for item in items)
    if len(set(tokens)) < len(tokens):
        raise RunError(f"position {form!r} names a token of example {example} twice; name each once")
    return tokens
