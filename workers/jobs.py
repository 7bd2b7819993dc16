"""Cells resolved against a model, and jobs: a cell resolved against one pair's tokens and spans."""

__all__ = ["Change", "Job", "Step", "read_of", "resolve", "source_read", "steps_of"]

from collections.abc import Sequence
from dataclasses import dataclass

from workers.captures import Prompt
from workers.errors import RunError, StudyError
from workers.layout import Target
from workers.loading import LoadedModel
from workers.vocabulary import Cell, Pair, Unit, is_pooled, locate, read_in


@dataclass(frozen=True, slots=True)
class Step:
    """What a unit does in a model, whichever tokens and prompts it is done with."""

    place: Target
    operation: str
    origin: Target | None
    """None for zeros."""
    is_pooled: bool
    """Whether the mean over the origin's tokens goes to each of the place's."""


@dataclass(frozen=True, slots=True)
class Change:
    """A step on one pair."""

    step: Step
    tokens: tuple[int, ...]
    """Of the base, each at most once."""
    origin_prompt: Prompt | None
    origin_tokens: tuple[int, ...]
    """One for each of `tokens`, or those that are pooled; none for zeros."""


@dataclass(frozen=True, slots=True)
class Job:
    """One cell on one pair, ready to run."""

    row: int
    """Where its result goes."""
    pair: int
    """Index of the pair in the batch."""
    read: int
    """Token of the base whose next-token logits are read."""
    source_read: int | None
    """The token of the first source that answers to it; None where there is none."""
    changes: tuple[Change, ...]
    """In the order in which they apply."""


def steps_of(cell: Cell, model: LoadedModel) -> tuple[Step, ...]:
    """The cell's units in the model.

    Raises:
        ModelError: the model has no such place.
    """
    return tuple(_step(unit, model) for unit in cell.units)


def _step(unit: Unit, model: LoadedModel) -> Step:
    place, origin = unit.place, unit.origin
    return Step(
        place=model.target(place.site, place.layer, place.heads, unit.dims),
        operation=unit.operation,
        origin=model.target(origin.site, origin.layer, origin.heads, unit.dims) if origin else None,
        is_pooled=origin is not None and is_pooled(origin.position),
    )


def resolve(row: int, pair_index: int, cell: Cell, steps: Sequence[Step], pair: Pair) -> Job:
    """The cell on a pair; `steps` are the cell's.

    Raises:
        RunError: a token, a run or a value that the pair does not have.
        StudyError: a span that the pair does not have.
    """
    changes = tuple(_change(unit, step, pair) for unit, step in zip(cell.units, steps, strict=True))
    return Job(row, pair_index, read_of(cell.read, pair), source_read(cell.read, pair), changes)


def _change(unit: Unit, step: Step, pair: Pair) -> Change:
    tokens = _located(unit.place.position, pair, "base")
    if unit.origin is None:
        return Change(step, tuple(dict.fromkeys(tokens)), None, ())
    origin_tokens = _located(unit.origin.position, pair, unit.run)
    prompt = pair.tokens[unit.run]
    if step.is_pooled:
        return Change(step, tuple(dict.fromkeys(tokens)), prompt, origin_tokens)
    if len(tokens) != len(origin_tokens):
        raise RunError(
            f"{len(origin_tokens)} tokens of {unit.run} cannot change {len(tokens)} of the base: "
            "name as many of each, or one pooled span"
        )
    # A token named twice takes its last value, as a later unit overrides an earlier one.
    last = dict(zip(tokens, origin_tokens, strict=True))
    return Change(step, tuple(last), prompt, tuple(last.values()))


def _located(position: tuple[int | str, ...], pair: Pair, run: str) -> tuple[int, ...]:
    """Token indices in a run of the pair, all of which exist."""
    if run not in pair.tokens:
        raise RunError(f"pair {pair.pair} has no run {run!r}; it has {', '.join(pair.tokens)}")
    tokens = locate(position, pair.spans.get(run, {}))
    length = len(pair.tokens[run])
    for token in tokens:
        if not 0 <= token < length:
            raise RunError(f"token {token} of {run} in pair {pair.pair}: it has tokens 0 to {length - 1}")
    return tokens


def read_of(read: int | str, pair: Pair) -> int:
    """The one token of the base at which the cell reads.

    Raises:
        RunError, StudyError: the base has no such token, or several.
    """
    tokens = _located((read,), pair, "base")
    if len(tokens) != 1:
        raise RunError(f"read {read!r} is {len(tokens)} tokens in pair {pair.pair}; name one, as in 'x.last'")
    return tokens[0]


def source_read(read: int | str, pair: Pair) -> int | None:
    """The token of the first source that answers to the cell's `read`; None where there is none."""
    if "source" not in pair.tokens:
        return None
    try:
        return read_in(pair, "source", read)
    except StudyError:
        return None
