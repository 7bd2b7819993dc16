"""What is wrong with a study, in words: where, what was given, what is allowed, the nearest spelling."""

__all__ = ["Problem", "ProblemsError", "each", "explain", "refuse", "shown", "write_path"]

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from studies.yaml import Path, Text
from workers.errors import StudyError, nearest

_MAX_SHOWN = 5
_KIND = "study"


class Problem(NamedTuple):
    """One thing that is wrong, at `path` below the value that was being validated."""

    path: Path
    text: str


class ProblemsError(PydanticCustomError):
    """Raised inside validators: pydantic collects it with the place where it happened."""

    def __new__(cls, problems: Sequence[Problem]) -> "ProblemsError":
        """Wrap at least one problem."""
        return super().__new__(cls, _KIND, "{text}", {"text": problems[0].text, "problems": list(problems)})


def shown(value: object) -> str:
    """A value as an error message shows it, cut where it is long."""
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def refuse(value: object, allowed: str, near: Iterable[str] = (), path: Path = ()) -> NoReturn:
    """Say that `value` is not allowed here, what is, and which of `near` is spelt like it.

    Raises:
        ProblemsError: always.
    """
    hint = nearest(value, near) if isinstance(value, str) else ""
    raise ProblemsError([Problem(path, f"{shown(value)} is not allowed here; allowed: {allowed}{hint}")])


def each(check: Callable[[Any], Any], values: Iterable[Any]) -> tuple[Any, ...]:
    """Check every value of a list.

    Raises:
        ProblemsError: those of all values, each with its index.
    """
    found: list[Any] = []
    problems: list[Problem] = []
    for index, value in enumerate(values):
        try:
            found.append(check(value))
        except ProblemsError as error:
            problems.extend(Problem((index, *p.path), p.text) for p in (error.context or {})["problems"])
    if problems:
        raise ProblemsError(problems)
    return tuple(found)


def explain(error: ValidationError, source: Text) -> StudyError:
    """The first few problems of `error`, a line each: ``FILE:LINE: key.path: what is wrong``."""
    found = [problem for entry in error.errors() for problem in _problems(entry, source)]
    found = sorted(dict.fromkeys(found), key=lambda problem: source.marks.get(problem.path, (0, 0)))
    lines = [f"{source.at(path)}: {write_path(path) or 'study'}: {text}" for path, text in found[:_MAX_SHOWN]]
    if len(found) > _MAX_SHOWN:
        lines.append(f"... and {len(found) - _MAX_SHOWN} more")
    return StudyError("\n".join(lines))


def write_path(path: Path) -> str:
    """``("sweep", 0, "sites")`` as ``sweep[0].sites``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _problems(entry: Any, source: Text) -> list[Problem]:
    """The problems of one entry of ``ValidationError.errors()``, with whole paths."""
    where = _known(entry["loc"], source)
    if entry["type"] == _KIND:
        return [Problem((*where, *problem.path), problem.text) for problem in entry["ctx"]["problems"]]
    if entry["type"] == "missing":
        return [Problem(where, f"the key {entry['loc'][-1]!r} is missing; it is required here")]
    is_empty = entry["type"] == "too_short"
    kind = "mapping" if isinstance(entry["input"], dict) else "list"
    wanted = f"a {kind} that is not empty" if is_empty else entry["msg"].removeprefix("Input should be ")
    return [Problem(where, f"{shown(entry['input'])} is not allowed here; allowed: {wanted}")]


def _known(loc: Sequence[str | int], source: Text) -> Path:
    """The part of pydantic's location that the text has: names of unions and validators fall out."""
    path: Path = ()
    for part in loc:
        if (*path, part) in source.marks or not source.marks:
            path = (*path, part)
    return path
