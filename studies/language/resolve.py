"""Written values of one kind, resolved at each point of a sweep and remembered.

Lists of places are zipped and put in order, so that one change has one spelling.
"""

__all__ = [
    "Axes",
    "Dims",
    "Prompt",
    "Prompts",
    "Slot",
    "in_order",
    "once",
    "read_coordinates",
    "read_heads",
    "read_layers",
    "read_number",
    "read_positions",
    "read_subspace",
    "read_texts",
    "stretch",
    "zip_heads",
    "zip_positions",
]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

from studies.language.grammar import (
    Names,
    is_reference,
    parse_box,
    parse_every_span,
    parse_range,
    parse_span,
    parse_subspace,
    parse_sum,
    references,
    substitute,
)
from studies.problems import shown
from workers.errors import StudyError
from workers.model.sites import BoxPart, written_box
from workers.vocabulary import Place, Position, Region, is_function, is_pooled

Axes = Mapping[str, frozenset[str]]
"""The names that vary, each with the names that its own values use."""

Dims = tuple[tuple[int, int], ...]
"""Half-open ranges of dimensions, or of a fit's coordinates."""

T = TypeVar("T")

_UNSEEN = object()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt of one run for a whole class of pairs: its number of tokens and its spans."""

    run: str
    num_tokens: int
    spans: frozenset[str]


class Slot(Generic[T]):
    """A written value whose references are resolved at each point."""

    __slots__ = ("_constant", "_memo", "_names", "_only", "_resolve", "_scope", "_written")

    def __init__(self, written: object, axes: Axes, scope: Names, resolve: Callable[[object, Names], T]):
        """Resolve at once where no name of `axes` is used; the others' values stand in `scope`."""
        self._written = written
        self._scope = scope
        self._resolve = resolve
        used = references(written) & axes.keys()
        self._names = tuple(sorted(used.union(*(axes[name] for name in used)) & axes.keys()))
        self._only = self._names[0] if len(self._names) == 1 else None
        self._memo: dict[object, T] = {}
        self._constant: T | None = None if self._names else resolve(written, scope)

    def at(self, names: Names) -> T:
        """The value at the point where the axes have these values."""
        if not self._names:
            return cast(T, self._constant)
        key = names[self._only] if self._only is not None else tuple(names[name] for name in self._names)
        try:
            found = self._memo.get(key, _UNSEEN)
        except TypeError:  # a mapping, which is no key
            return self._resolve(self._written, {**self._scope, **names})
        if found is _UNSEEN:
            self._memo[key] = found = self._resolve(self._written, {**self._scope, **names})
        return cast(T, found)


def read_texts(written: object, names: Names) -> tuple[str, ...]:
    """Texts, all at once: whole references looked up, those inside a module path filled in."""
    found: list[str] = []
    for item in _flat(written, names):
        found.append(substitute(item, names.__getitem__) if isinstance(item, str) else str(item))
    return tuple(found)


def read_layers(written: object, names: Names, count: int) -> tuple[int, ...] | None:
    """Layers, all at once; none where a computed range is empty; None where no layer is written.

    Raises:
        StudyError: a layer that the model does not have.
    """
    return None if written is None else _read_indices(written, names, count, "layer")


def read_heads(written: object, names: Names, count: int | None, site: str) -> tuple[int, ...] | None:
    """Heads of a site that has `count`, all at once; None for the whole width.

    Raises:
        StudyError: the site has no heads, or not this one.
    """
    if written is None:
        return None
    if count is None:
        raise StudyError(f"the site {site!r} has no heads; leave head out, or name a site of the attention")
    return _read_indices(written, names, count, "head")


def read_positions(written: object, names: Names, prompt: Prompt) -> tuple[int | str, ...] | None:
    """Positions in a prompt, all at once: indices from 0 and spans; None where the prompt lacks one."""
    found: list[int | str] = []
    for item in _flat(written, names):
        here = _read_position(item, names, prompt)
        if here is None:
            return None
        found.extend(here)
    return tuple(found)


def read_number(written: object, names: Names) -> float | None:
    """A number, in one spelling: 3 and 3.0 are 3.

    Raises:
        StudyError: what a name stands for is no number.
    """
    items = [] if written is None else _flat(written, names)
    if not items:
        return None
    (number,) = items
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise StudyError(f"{shown(number)} is no number; write one, such as 3 or 0.5")
    return int(number) if float(number).is_integer() else number


def read_subspace(written: object, names: Names) -> tuple[str | None, Dims | None]:
    """A fit's name, if one is named, and sorted half-open ranges that do not touch; None for all of them.

    Raises:
        StudyError: a range without dimensions, or coordinates of several kinds at once.
    """
    items = [str(item) for item in ([] if written is None else _flat(written, names))]
    found = [(None, None) if item == "all" else _read_part(item, names) for item in items] or [(None, None)]
    fits = {fit for fit, _ in found}
    if len(fits) > 1:
        raise StudyError(f"subspace {shown(items)} mixes fits, or a fit and dimensions; write several units")
    ranges = [part for _, part in found if part is not None]
    return fits.pop(), None if len(ranges) < len(found) else _join(sorted(ranges))


def read_coordinates(written: object, names: Names) -> Region | None:
    """A rectangle in its one spelling, or the names of a getter and a setter; None where none is written.

    Raises:
        StudyError: what a name stands for is neither, or a range is empty.
    """
    if isinstance(written, Mapping):
        (get,), (put,) = (read_texts(written[key], names) for key in ("get", "set"))
        if not (is_function(get) and is_function(put)):
            raise StudyError(f"coordinates {shown([get, put])}; write module:function for both")
        return get, put
    items = [] if written is None else _flat(written, names)
    if not items:
        return None
    text = str(items[0])
    parsed = parse_box(text) if len(items) == 1 else None
    if parsed is None:
        raise StudyError(f"coordinates {shown(written)}: {shown(items)} is no rectangle; write '1:3, 4:9'")
    parts: list[BoxPart] = []
    for part in parsed:
        if not isinstance(part, tuple):
            parts.append(part.value(names.__getitem__))
            continue
        start, stop = (None if end is None else end.value(names.__getitem__) for end in part)
        if start is not None and stop is not None and start >= stop and (start < 0) == (stop < 0):
            raise StudyError(
                f"coordinates {shown(text)} has nothing from {start} to {stop}; write 'START:STOP'"
            )
        parts.append((start or 0, stop))
    return written_box(parts)


def _flat(written: object, names: Names) -> list[object]:
    """The items of a value, its whole references replaced by what they stand for."""
    if isinstance(written, list | tuple):
        return [found for item in written for found in _flat(item, names)]
    if is_reference(written):
        return _flat(names[written[1:]], names)
    return [written]


def _read_indices(written: object, names: Names, count: int, what: str) -> tuple[int, ...]:
    found: list[int] = []
    for item in _flat(written, names):
        if isinstance(item, int):
            found.append(item)
        elif item == "all":
            found.extend(range(count))
        elif computed := parse_range(str(item)):
            found.extend(computed.indices(count, names.__getitem__))
        elif total := parse_sum(str(item)):
            found.append(total.value(names.__getitem__))
        else:
            raise StudyError(f"{shown(item)} is no {what}; write a number from 0, all, or a range")
    for index in found:
        if not 0 <= index < count:
            raise StudyError(f"{what} {index} is not there; the model has {what}s 0 to {count - 1}")
    return tuple(found)


def _read_position(item: object, names: Names, prompt: Prompt) -> tuple[int | str, ...] | None:
    if isinstance(item, int):
        index = item + prompt.num_tokens if item < 0 else item
        return (index,) if 0 <= index < prompt.num_tokens else None
    if item is None:
        return None
    text = str(item)
    if text == "all":
        return tuple(range(prompt.num_tokens))

    def lookup(name: str) -> object:
        value = names[name]
        if name == "position" and isinstance(value, int) and value < 0:
            return value + prompt.num_tokens
        return value

    if computed := parse_range(text):
        return computed.indices(prompt.num_tokens, lookup)
    if total := parse_sum(text):
        index = total.value(lookup)
        return (index,) if 0 <= index < prompt.num_tokens else None
    return _read_span(text, prompt)


def _read_span(text: str, prompt: Prompt) -> tuple[str, ...] | None:
    part = parse_every_span(text)
    if part is not None:
        return tuple(f"{span}{part}" for span in sorted(prompt.spans)) or None
    span = parse_span(text)
    if span is None:
        raise StudyError(f"{shown(text)} is no position; write a token's index, all, or a span")
    name, part = span
    # One spelling for one token, so that both are one job.
    part = {"[0]": ".first", "[-1]": ".last"}.get(part or "", part or "")
    return (f"{name}{part}",) if name in prompt.spans else None


def _read_part(item: str, names: Names) -> tuple[str | None, tuple[int, int] | None]:
    """A fit and a range of its coordinates; either may be left out."""
    parsed = parse_subspace(item)
    if parsed is None:
        raise StudyError(
            f"subspace {shown(item)}; write all, dimensions '0:16', a fit R, or part of one 'R[0:16]'"
        )
    fit, part = parsed
    if part is None:
        return fit, None
    lo, hi = part.bounds(names.__getitem__)
    if lo is None or hi is None or not 0 <= lo < hi:
        raise StudyError(f"subspace {shown(item)} has no dimensions ({lo} to {hi}); write 'START:STOP'")
    return fit, (lo, hi)


def _join(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for lo, hi in ranges:
        if joined and lo <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(hi, joined[-1][1]))
        else:
            joined.append((lo, hi))
    return tuple(joined)


Prompts = Mapping[str, Prompt]
"""The prompt of each run: ``base``, ``source`` …"""


def stretch(origins: list[Place], places: list[Place]) -> list[Place]:
    """One origin for each place: as many are zipped, one alone serves all."""
    if len(origins) == 1:
        origins = origins * len(places)
    if len(origins) != len(places):
        raise StudyError(
            f"from names {len(origins)} places for {len(places)}; lists are zipped, so name as many"
        )
    return origins


def in_order(place: Place) -> Place:
    """The place with its heads in one spelling."""
    if place.heads is None or len(place.heads) < 2:
        return place
    return replace(place, heads=tuple(sorted(set(place.heads))))


def zip_heads(place: Place, origin: Place) -> tuple[Place, Place]:
    """Zip the heads of both, in the order of the place's, so that one swap has one spelling."""
    given, taken = place.heads, origin.heads
    if given is None and taken is None:
        return place, origin
    if given is None or taken is None or len(given) != len(taken):
        counts = [0 if heads is None else len(heads) for heads in (taken, given)]
        raise StudyError(f"from names {counts[0]} heads for {counts[1]}; lists are zipped, so name as many")
    if len(set(given)) < len(given):
        raise StudyError(f"the heads {list(given)} name one twice; name each once")
    pairs = sorted(zip(given, taken, strict=True))
    return (
        replace(place, heads=tuple(head for head, _ in pairs)),
        replace(origin, heads=tuple(head for _, head in pairs)),
    )


def zip_positions(position: Position, origin: Position) -> tuple[Position, Position]:
    """Zip the positions of both, in the order of the base's, so that one swap has one spelling."""
    symbolic = any(isinstance(item, str) for item in (*position, *origin))
    if len(position) != len(origin) and not (symbolic or is_pooled(origin)):
        raise StudyError(
            f"{len(position)} positions take values from {len(origin)}; lists are zipped, so name as many"
        )
    if symbolic or len(position) < 2:
        return position, origin
    pairs = sorted(zip(position, origin, strict=True))
    once(position)
    return tuple(at for at, _ in pairs), tuple(at for _, at in pairs)


def once(position: Position) -> Position:
    """Token indices in order.

    Raises:
        StudyError: one is there twice.
    """
    if len(set(position)) < len(position):
        raise StudyError(f"the positions {list(position)} name one token twice; name each once")
    return position if any(isinstance(item, str) for item in position) else tuple(sorted(position))
