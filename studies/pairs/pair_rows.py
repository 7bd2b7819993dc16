"""Given pairs: a list in the study, a table in memory or a file, as rows whose columns are checked.

All go through one check: of what their columns are called (`problems_of_names`) and of what these hold.
"""

__all__ = ["Row", "check_inline", "check_row", "num_sources", "read_pairs"]

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.bounds import check_prompts
from studies.names import INPUT, LABEL, SPAN, TEXT, normal, problems_of_names, unlike
from studies.pairs.pair_files import LocatedRow, read_file
from studies.plain_values import Twice, is_text, unkept, unwrapped
from studies.problems import Problem, ProblemsError, shown
from workers.errors import StudyError, nearest
from workers.vocabulary import Vectors

Row = dict[str, object]
"""One pair by column, as ``study-files.md`` lists them; a column without a value is left out."""

_RUNS = tuple(f"{run}{form}" for run in ("base", "source") for form in ("", "_ids", "_embeds"))
_MOST = 3.4e38
"""Numbers of vectors are float32, which hold no larger ones."""
_VECTORS = f"a list with a list of finite numbers, up to {_MOST}, for each token, all equally long"
_NO_BASE = "the column 'base' is missing; a pair needs base, base_ids or base_embeds"
_MOST_TOLD = 5
_MOST_COUNTED = 10_000
"""Past so many problems a file is not read on: there is enough to do."""


def read_pairs(
    pairs: str | Path | Iterable[Mapping[str, object]],
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """The rows of a list of pairs, or of a .jsonl, .csv or .parquet file (relative to `folder`).

    Where a row has exactly one source and no ``label``, its ``label`` is its ``source_label``. Vectors
    (``base_embeds`` …) come as `Vectors`. What cannot be kept of a column that is a user's own is left out;
    `say` gets a line for each such column.

    Raises:
        StudyError: it cannot be read, a name is wrong or a value is not allowed: the first few problems, each
            with its file and line or row.
    """
    if not isinstance(pairs, str | Path):
        listed = (LocatedRow(f"pairs[{index}]", row) for index, row in enumerate(pairs))
        return _RowChecker("pairs", say).rows(lambda check: listed)
    try:
        path = (folder or Path()) / Path(pairs).expanduser()
    except RuntimeError as error:
        raise StudyError(f"{pairs}: the pairs cannot be read: {error}") from None
    return _RowChecker(str(path), say).rows(lambda check: read_file(path, check))


class _RowChecker:
    """Rows as they come, with all that is wrong with them and all that is left out."""

    def __init__(self, name: str, say: Callable[[str], None] | None) -> None:
        self._name = name
        self._say = say
        self._problems: list[str] = []
        self._num = 0
        self._left: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}
        self._names: dict[str, str] = {}
        """Columns of all rows so far, by their normal names."""
        self._known: set[tuple[object, ...]] = set()
        """Sets of names that are right."""

    def rows(
        self, read: Callable[[Callable[[str, Sequence[object]], None]], Iterator[LocatedRow]]
    ) -> list[Row]:
        """All rows, checked.

        Raises:
            StudyError: the first few problems, a line each.
        """
        rows: list[Row] = []
        num_read = 0
        try:
            for found in read(self._check_header):
                num_read += 1
                self._add(found, rows)
                if self._num > _MOST_COUNTED:
                    break
        except StudyError as error:
            # What cannot be read ends the reading; what was wrong before it is said as well.
            self._problem(str(error))
        if not num_read and not self._num:
            self._problem(f"{self._name}: no pairs; a study needs at least one")
        if self._num:
            more = self._num - len(self._problems)
            least = "more than " if self._num > _MOST_COUNTED else ""
            raise StudyError("\n".join(self._problems + [f"... and {least}{more:,} more"] * (more > 0)))
        self._tell_left()
        return rows

    def _problem(self, text: str) -> None:
        self._num += 1
        if len(self._problems) < _MOST_TOLD:
            self._problems.append(text)

    def _check_header(self, where: str, names: Sequence[object]) -> None:
        found = list(problems_of_names(names))
        if not found and names and not any(_is_base(name) for name in names):
            known = ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)
            found = [("", f"{_NO_BASE}; the columns are {known:.200}{_hint(names)}")]
        if not found:
            self._known.add(tuple(names))
            self._names |= {normal(name): name for name in map(str, names)}
            return
        for _, text in found[:-1]:
            self._problem(f"{where}: {text}")
        # Rows would only repeat it.
        raise StudyError(f"{where}: {found[-1][1]}")

    def _add(self, found: LocatedRow, rows: list[Row]) -> None:
        if found.problem:
            self._problem(f"{found.where}: {found.problem}")
            return
        row, fine = found.row, True
        names_known = isinstance(row, Mapping) and tuple(row) in self._known
        if isinstance(row, Mapping) and not names_known:
            for text in self._new_names(row):
                fine = False
                self._problem(f"{found.where}: {text}")
        lost = [column for column in found.left if _is_ours(column)]
        for column, text in _check_values(row, names_wrong=not fine or bool(lost)):
            fine = False
            self._problem(f"{found.where}: {column or 'pair'}: {text}")
        for column, why in found.left.items():
            if column in lost:
                fine = False
                self._problem(f"{found.where}: {column}: its value cannot be read: {why}")
            else:
                self._leave(column, why, found.where)
        if fine and not self._num and isinstance(row, Mapping):
            rows.append(self._finish(row, found.where))

    def _new_names(self, row: Mapping[str, object]) -> Iterator[str]:
        problems = [text for _, text in problems_of_names(list(row))]
        if not problems:
            problems = [text for name in row if (text := unlike(self._names, name)) is not None]
        yield from problems
        if not problems:
            self._known.add(tuple(row))
            self._names |= {normal(name): name for name in row}

    def _finish(self, row: Mapping[str, object], where: str) -> Row:
        """The checked row without empty columns and what cannot be kept, its label derived."""
        found: Row = {}
        for column, value in row.items():
            if value is None:
                continue
            why = (
                None
                if _is_ours(column)
                else unkept(value) or (None if is_text(column) else "its name is no text")
            )
            if why is None:
                found[column] = _read(column, value)
            else:
                self._leave(column, why, where)
        if "label" not in found and "source_label" in found and num_sources(found) == 1:
            found["label"] = found["source_label"]
        return found

    def _leave(self, column: str, why: str, where: str) -> None:
        self._left[column, why] += 1
        self._first.setdefault((column, why), where)

    def _tell_left(self) -> None:
        told: dict[str, str] = {}
        for column, why in self._left:
            count = sum(num for (name, _), num in self._left.items() if name == column)
            first = self._first[column, why]
            more = f" and of {count - 1:,} more" if count > 1 else ""
            told.setdefault(
                column,
                f"{first}: {column!a}: the value of this pair{more} is left out: {why}",
            )
        for line in told.values():
            if self._say is not None:
                self._say(line)


def check_inline(rows: Sequence[object]) -> tuple[Mapping[str, object], ...]:
    """Check pairs that are listed in a study, in YAML or in Python.

    Raises:
        ProblemsError: with the index of each row that is wrong.
    """
    listed = [unwrapped(row) if isinstance(row, Mapping) else row for row in rows]
    problems = [
        Problem((index, *([column] if column else [])), text)
        for index, row in enumerate(listed)
        for column, text in check_row(row)
    ]
    names: dict[str, str] = {}
    for index, row in enumerate(listed):
        for name in row if isinstance(row, Mapping) and not problems else ():
            if (text := unlike(names, name)) is not None:
                problems.append(Problem((index, name), text))
            names.setdefault(normal(name), name)
    if problems:
        raise ProblemsError(problems)
    return tuple(dict(row) for row in listed if isinstance(row, Mapping))


def check_row(row: object) -> Iterator[tuple[str, str]]:
    """Problems of a row: the column (empty for the whole row) and the text."""
    named = list(problems_of_names(list(row))) if isinstance(row, Mapping) else []
    yield from named
    yield from _check_values(row, names_wrong=bool(named))
    for column, value in row.items() if isinstance(row, Mapping) else ():
        if isinstance(column, str) and not _is_ours(column) and (why := unkept(value)) is not None:
            yield column, f"{shown(value)} cannot be kept: {why}"


def _check_values(row: object, *, names_wrong: bool) -> Iterator[tuple[str, str]]:
    """Problems of a row's values; of one with wrong names not that its base is missing."""
    if not isinstance(row, Mapping):
        yield "", f"{shown(row)} is not allowed here; allowed: a mapping with at least base"
        return
    if isinstance(row, Twice):
        yield row.key, "the key is there twice in this pair; leave one out"
    runs: dict[str, str] = {}
    for column, value in row.items():
        if not isinstance(column, str):
            continue
        match = INPUT.fullmatch(column)
        if match and value is not None:
            if match["run"] in runs:
                yield column, f"both {runs[match['run']]!r} and {column!r} are here; allowed: one of the two"
            runs[match["run"]] = column
        allowed = _allowed(column, value)
        if allowed:
            yield column, f"{shown(value)} is not allowed here; allowed: {allowed}"
    yield from check_prompts(row)
    yield from _spans_without_text(row, runs)
    if "base" not in runs and not names_wrong:
        yield "", _NO_BASE + _hint(row)


def _hint(names: Iterable[object]) -> str:
    return next((h for c in names if not _is_ours(str(c)) and (h := nearest(str(c), _RUNS[:3]))), "")


def _is_base(name: object) -> bool:
    return isinstance(name, str) and (found := INPUT.fullmatch(name)) is not None and found["run"] == "base"


def _is_ours(column: str) -> bool:
    return column in TEXT or any(pattern.fullmatch(column) for pattern in (INPUT, LABEL, SPAN))


def _spans_without_text(row: Mapping[str, object], runs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Spans are found in text, so a run that is token ids or vectors can have none."""
    for column, value in row.items():
        match = SPAN.fullmatch(str(column))
        run = (match["run"] or "base") if match and value is not None else ""
        if runs.get(run, run) != run:
            yield (
                str(column),
                f"a span needs text, but {runs[run]!r} gives none; give {run!r} as text,"
                " or leave the span out and write positions as token indices",
            )


def num_sources(row: Mapping[str, object]) -> int:
    """The number of sources of a row."""
    matches = (INPUT.fullmatch(column) for column, value in row.items() if value is not None)
    return len({match["run"] for match in matches if match and match["run"] != "base"})


def _allowed(column: str, value: object) -> str:
    """The values that `column` takes, where `value` is none of them; else nothing."""
    match = INPUT.fullmatch(column)
    if value is None:
        return ""
    if isinstance(value, str) and value and not is_text(value) and _is_ours(column):
        return "whole characters, and this has half of a pair of surrogates"
    if match and match["form"] == "ids":
        return "" if _is_ids(value) else "a list of token ids that is not empty"
    if match and match["form"] == "embeds":
        return "" if _is_vectors(value) else _VECTORS
    if match and match["form"] is None:
        return "" if is_text(value) else "text"
    if LABEL.fullmatch(column):
        return "" if _is_label(value) else "text, a class's number, or a list of them (any of)"
    if SPAN.fullmatch(column):
        return "" if _is_span(value) else "a substring that occurs once, or [start, end) characters"
    if column in TEXT:
        return "" if is_text(value) or isinstance(value, int) else "text"
    return "" if _is_kept(value) else "plain data"


def _is_ids(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_index(item) for item in value)


def _is_vectors(value: object) -> bool:
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) and row for row in value):
        return False
    return len({len(row) for row in value}) == 1 and all(_is_number(item) for row in value for item in row)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_label(value: object) -> bool:
    many = value if isinstance(value, list | tuple) else [value]
    return bool(many) and all(is_text(item) or _is_index(item) for item in many)


def _is_span(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(_is_index(item) for item in value) and value[0] < value[1]
    return bool(value) and is_text(value)


def _is_kept(value: object) -> bool:
    """Whether a user's own column may hold it: plain data, or what Arrow has beyond it."""
    return not callable(value) and (
        isinstance(value, str | int | float | list | tuple | Mapping) or hasattr(value, "as_py")
    )


def _read(column: str, value: Any) -> object:
    match = INPUT.fullmatch(column)
    return Vectors.of(value) if match and match["form"] == "embeds" else value
