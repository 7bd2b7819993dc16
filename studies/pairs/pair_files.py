"""Files of pairs: CSV, JSONL and Parquet, row by row, each with the place where it stands."""

__all__ = ["SUFFIXES", "LocatedRow", "other_kind", "read_file"]

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from studies.names import INPUT, LABEL, SPAN, normal
from studies.pairs.pair_tables import rows_of_batches
from studies.plain_values import NoJSONError, read_json
from studies.problems import shown
from studies.yaml import check_is_file, not_utf8
from workers.errors import StudyError, nearest
from workers.libraries.pyarrow import open_parquet

_MOST_LINE = 256_000_000
"""Characters of one line; what has no line breaks is no file of pairs."""
_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'"}


@dataclass(frozen=True, slots=True)
class LocatedRow:
    """One row of a file."""

    where: str
    """``FILE:LINE`` or ``FILE: row N``."""
    row: object
    """The row's content, mostly a mapping by column."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Columns whose value could not be read, and why."""
    problem: str = ""
    """Why there is no row; the next ones may be read all the same."""


Rows = Iterator[LocatedRow]
CheckHeader = Callable[[str, Sequence[object]], None]
"""Check of a header: gets its place and the names of the columns; raises where they cannot be."""


def read_file(path: Path, check: CheckHeader) -> Rows:
    """Each row of a file; `check` gets the names of its columns before any row, where the file has a header.

    Raises:
        StudyError: it cannot be read, or is of another kind than its name says.
    """
    reader = SUFFIXES.get(path.suffix.lower())
    if reader is None:
        raise StudyError(
            f"{path}: unknown kind of file; allowed: {', '.join(SUFFIXES)}{other_kind(str(path))}"
        )
    try:
        _check_there(path)
        yield from reader(path, check)
    except UnicodeDecodeError as error:
        raise StudyError(not_utf8(path, str(path), error)) from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: the pairs cannot be read: {error}") from None


def other_kind(name: str) -> str:
    """Advice on a file that is of none of our kinds, to stand after what is allowed."""
    suffix = Path(name).suffix.lower()
    if suffix in (".tsv", ".tab"):
        return "; save it with commas as .csv"
    if suffix == ".json":
        return "; write one object a line and call it .jsonl"
    if suffix in (".xlsx", ".xls", ".ods"):
        return "; save it as CSV with commas, in UTF-8"
    return nearest(suffix, SUFFIXES)


def _check_there(path: Path) -> None:
    """Refuse what is no ordinary file, which might never end."""
    try:
        path.stat()
    except FileNotFoundError:
        folder = path.parent
        near = nearest(path.name, [one.name for one in folder.iterdir()]) if folder.is_dir() else ""
        raise StudyError(f"{path}: the pairs cannot be read: there is no such file{near}") from None
    check_is_file(path, str(path), text=path.suffix.lower() != ".parquet")
    if not path.stat().st_size:
        raise StudyError(f"{path}: no pairs; the file is empty, and a study needs at least one pair")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines, none so long that the memory is gone before it ends."""
    number = 0
    while line := file.readline(_MOST_LINE):
        number += 1
        if len(line) >= _MOST_LINE:
            raise StudyError(f"{path}:{number}: the line has more than {_MOST_LINE:,} characters")
        yield line


def _read_jsonl(path: Path, check: CheckHeader) -> Rows:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value, left = read_json(line)
            except NoJSONError as error:
                if number == 1 and line.lstrip().startswith(("[", "{")) and not line.rstrip().endswith("}"):
                    raise StudyError(f"{where}: this is no JSON: {error}{_AS_LINES}") from None
                todo = (
                    "" if line.lstrip().startswith("{") else '; each line has to be an object, {"base": ...}'
                )
                yield LocatedRow(where, None, problem=f"this is no JSON: {error}{todo}")
                continue
            if isinstance(value, list) and number == 1:
                raise StudyError(f"{where}: this is a JSON array{_AS_LINES}")
            yield LocatedRow(where, value, left)


_AS_LINES = "; write one object a line, each on one line (of an array: jq -c '.[]')"


def _read_csv(path: Path, check: CheckHeader) -> Rows:
    """Empty fields are missing; columns that hold lists or offsets are written as JSON."""
    with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
        reader = csv.reader(_lines(path, file), strict=True)
        begun = 1
        try:
            header = next((row for row in reader if row), [])
            _check_delimiter(f"{path}:{reader.line_num}", header)
            check(f"{path}:{reader.line_num}", header)
            begun = reader.line_num + 1
            for fields in reader:
                where, begun = f"{path}:{reader.line_num}", reader.line_num + 1
                if not any(fields):
                    continue
                if len(fields) != len(header):
                    yield LocatedRow(where, None, problem=_uneven(len(fields), len(header)))
                    continue
                # A pair without a base is a pair of which something is to be said, not a faulty file.
                row = zip(header, fields, strict=True)
                yield LocatedRow(where, {name: _from_csv(v) for name, v in row if v != "" or name == "base"})
        except csv.Error as error:
            raise StudyError(f"{path}:{begun}: this is no CSV: {_said(error)}") from None


def _uneven(num: int, wanted: int) -> str:
    todo = "put quotes around a field that has a comma in it" if num > wanted else "leave no field out"
    return f"the line has {num} field{'s' * (num != 1)}, and the header has {wanted}; {todo}"


def _said(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote that is opened in the row that begins here is never closed"
    return f"{error}, in the row that begins here; nothing but commas may stand between fields"


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields as long as they are: the reader's own bound is a few pages of text."""
    before = csv.field_size_limit(_MOST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_delimiter(where: str, header: Sequence[str]) -> None:
    if ",".join(header).strip().lower().startswith("sep="):
        raise StudyError(
            f"{where}: the line {shown(','.join(header))} is Excel's own; leave it out, and put commas"
            " between the fields"
        )
    if any(INPUT.fullmatch(name) for name in header):
        return
    for mark, name in _DELIMITERS.items():
        parts = [normal(part.strip().strip("\"'")) for part in mark.join(header).split(mark)]
        if len(parts) > len(header) and any(
            p.fullmatch(part) for p in (INPUT, LABEL, SPAN) for part in parts
        ):
            raise StudyError(
                f"{where}: the header {shown(mark.join(header))} has {name} between the names; the"
                " delimiter has to be a comma"
            )


def _from_csv(value: str) -> object:
    if not value.startswith("["):
        return value
    try:
        found, left = read_json(value)
    except NoJSONError:
        return value
    return value if left else found


def _read_parquet(path: Path, check: CheckHeader) -> Rows:
    # Only this reader needs pyarrow, and reading a study must stay quick.
    import pyarrow

    try:
        file = open_parquet(path, checked=True)
        check(str(path), file.schema_arrow.names)
        for number, (row, left) in enumerate(rows_of_batches(file.iter_batches(use_threads=False))):
            yield LocatedRow(f"{path}: row {number}", row, left)
    except pyarrow.ArrowException as error:
        raise StudyError(f"{path}: this is no Parquet: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]


SUFFIXES: Mapping[str, Callable[[Path, CheckHeader], Rows]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Kinds of files, by what their names end in."""
