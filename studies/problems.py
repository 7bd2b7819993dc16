"""Problems of a study, in words: where, what was given, what is allowed, the nearest spelling."""

__all__ = [
    "Problem",
    "ProblemsError",
    "each",
    "explain",
    "problems_of",
    "refuse",
    "refuse_odd",
    "shown",
    "unknown_key",
]

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, NoReturn, TypeVar

from pydantic import ValidationError

from studies.yaml import KeyPath, Text
from workers.errors import StudyError, nearest
from workers.libraries.pydantic import CarryingError, Fault, faults

_MAX_SHOWN = 5
_MOST_REPR = 100
"""Items or characters of a value that are looked at, to show 80 characters of it."""


T = TypeVar("T")


class Problem(NamedTuple):
    """One thing that is wrong, at `path` below the value that was being validated."""

    path: KeyPath
    text: str


class ProblemsError(CarryingError):
    """Raised inside validators: pydantic collects it with the place where it happened."""

    def __new__(cls, problems: Sequence[Problem]) -> "ProblemsError":
        """Wrap at least one problem."""
        made = super().__new__(cls, problems[0].text, list(problems))
        assert isinstance(made, ProblemsError)
        return made

    @property
    def problems(self) -> list[Problem]:
        """The problems that the error wraps."""
        return list(self.load or [Problem((), str(self))])


def shown(value: object) -> str:
    """A value as an error message shows it, cut where it is long."""
    if isinstance(value, str | list | tuple) and len(value) > _MOST_REPR:
        value = value[:_MOST_REPR]
    text = " ".join((repr(list(value)) if isinstance(value, tuple) else repr(value)).splitlines())
    return text if len(text) <= 80 else f"{text[:77]}..."


def refuse(value: object, allowed: str, near: Iterable[str] = (), path: KeyPath = ()) -> NoReturn:
    """Say that `value` is not allowed here, what is, and which of `near` is spelt like it.

    Raises:
        ProblemsError: always.
    """
    hint = nearest(value, near) if isinstance(value, str) else ""
    raise ProblemsError([Problem(path, f"{shown(value)} is not allowed here; allowed: {allowed}{hint}")])


def unknown_key(key: object, allowed: Collection[str]) -> Problem:
    """A key that is not among those that are allowed, with the nearest one."""
    text = f"the key {shown(key)} is not allowed here; allowed: {', '.join(allowed)}"
    part = key if isinstance(key, str | int) else str(key)
    return Problem((part,), text + nearest(str(key), allowed))


def each(check: Callable[[object], T], values: Iterable[object]) -> tuple[T, ...]:
    """Check every value of a list.

    Raises:
        ProblemsError: those of all values, each with its index.
    """
    found: list[T] = []
    problems: list[Problem] = []
    for index, value in enumerate(values):
        try:
            found.append(check(value))
        except ProblemsError as error:
            problems.extend(Problem((index, *problem.path), problem.text) for problem in error.problems)
    if problems:
        raise ProblemsError(problems)
    return tuple(found)


def explain(error: ValidationError, source: Text) -> StudyError:
    """The first few problems of `error`, a line each: ``FILE:LINE: key.path: what is wrong``."""
    found = [problem for fault in faults(error) for problem in _problems(fault, source)]
    return _told(found, source)


def _told(problems: Sequence[Problem], source: Text) -> StudyError:
    found = sorted(dict.fromkeys(problems), key=lambda problem: source.marks.get(problem.path, (0, 0)))
    lines = [f"{source.at(path)}: {write_path(path) or 'study'}: {text}" for path, text in found[:_MAX_SHOWN]]
    if len(found) > _MAX_SHOWN:
        lines.append(f"... and {len(found) - _MAX_SHOWN} more")
    return StudyError("\n".join(lines))


def refuse_odd(text: Text) -> None:
    """Refuse what nothing in a study can have, but for its pairs: numbers past 64 bits and zero characters.

    Raises:
        StudyError: the first few, a line each.
    """
    found = list(_odd(text.data, ()))
    if found:
        raise _told(found, text)


def _odd(value: object, path: KeyPath) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                yield Problem((*path, key), f"the key {key!r} has a zero character, which is not allowed")
            if (path, key) != ((), "pairs"):
                yield from _odd(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _odd(item, (*path, index))
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield Problem(
            path, f"{shown(value)} is not allowed here; allowed: numbers of 64 bits, up to {2**63 - 1}"
        )
    elif isinstance(value, str) and "\0" in value:
        yield Problem(path, f"{shown(value)} is not allowed here; allowed: text without zero characters")


def write_path(path: KeyPath) -> str:
    """``("sweep", 0, "sites")`` as ``sweep[0].sites``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def problems_of(fault: Fault) -> list[Problem]:
    """The problems of one fault that pydantic found, with paths from the value that it was looking at."""
    if fault.kind == "carried":
        return [Problem((*fault.where, *problem.path), problem.text) for problem in fault.load]
    if fault.kind == "missing" and fault.where:
        return [Problem(fault.where, f"the key {fault.where[-1]!r} is missing; it is required here")]
    kind = "mapping" if isinstance(fault.given, dict) else "list"
    wanted = f"a {kind} that is not empty" if fault.kind == "empty" else fault.wanted
    return [Problem(fault.where, f"{shown(fault.given)} is not allowed here; allowed: {wanted}")]


def _problems(fault: Fault, source: Text) -> list[Problem]:
    """The problems of one fault, with the paths that the text has."""
    where = _known(fault.where, source)
    below = len(fault.where)
    return [Problem((*where, *path[below:]), text) for path, text in problems_of(fault)]


def _known(loc: Sequence[str | int], source: Text) -> KeyPath:
    """The part of pydantic's location that the text has: names of unions and validators fall out."""
    path: KeyPath = ()
    for part in loc:
        if (*path, part) in source.marks or not source.marks:
            path = (*path, part)
    return path
