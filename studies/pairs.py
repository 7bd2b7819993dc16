"""Given pairs: a list in the study, or a file, as rows whose columns are checked."""

__all__ = ["Row", "check_inline", "check_row", "num_sources", "read_pairs"]

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.bounds import check_prompts
from studies.problems import Problem, ProblemsError, shown
from workers.errors import StudyError, nearest
from workers.libraries.pyarrow import open_parquet
from workers.vocabulary import Vectors

Row = dict[str, Any]
"""One pair by column, as ``study-files.md`` lists them; a column without a value is left out."""

_SOURCE = r"source(?:_(?:[2-9]|[1-9]\d+))?"
_INPUT = re.compile(rf"(?P<run>base|{_SOURCE})(?:_(?P<form>ids|embeds))?")
_LABEL = re.compile(r"label(?:\.[\w+-]+)?|base_label|source_label")
_SPAN = re.compile(rf"(?:(?P<run>{_SOURCE})\.)?span\.[\w-]+")
_TEXT = ("task", "split", "base_class", "source_class")
_RUNS = tuple(f"{run}{form}" for run in ("base", "source") for form in ("", "_ids", "_embeds"))
_COLUMNS = (*_RUNS, "base_label", "source_label", "label", *_TEXT)
_MOST = 3.4e38
"""Numbers of vectors are float32, which hold no larger ones."""
_VECTORS = f"a list with a list of finite numbers, up to {_MOST}, for each token, all equally long"


def read_pairs(pairs: str | Path | Iterable[Mapping[str, Any]], folder: Path | None = None) -> list[Row]:
    """The rows of a list of pairs, or of a .jsonl, .csv or .parquet file (relative to `folder`).

    Where a row has exactly one source and no ``label``, its ``label`` is its ``source_label``. Vectors
    (``base_embeds`` …) come as `Vectors`.

    Raises:
        StudyError: naming the file and the line or row: it cannot be read, or a value cannot be.
    """
    if not isinstance(pairs, str | Path):
        return [_finish(row, f"pairs[{index}]") for index, row in enumerate(pairs)]
    path = (folder or Path()) / Path(pairs).expanduser()
    try:
        rows = [_finish(row, where) for where, row in _read_file(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: the pairs cannot be read: {error}") from None
    if not rows:
        raise StudyError(f"{path}: no pairs; a study needs at least one")
    return rows


def check_inline(rows: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """Check pairs that are listed in a study.

    Raises:
        ProblemsError: with the index of each row that is wrong.
    """
    problems = [
        Problem((index, *([column] if column else [])), text)
        for index, row in enumerate(rows)
        for column, text in check_row(row)
    ]
    if problems:
        raise ProblemsError(problems)
    return tuple(dict(row) for row in rows)


def check_row(row: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with a row: the column (empty for the whole row) and the problem."""
    if not isinstance(row, Mapping):
        yield "", f"{shown(row)} is not allowed here; allowed: a mapping with at least base"
        return
    runs: dict[str, str] = {}
    for column, value in row.items():
        match = _INPUT.fullmatch(str(column))
        if match and value is not None:
            if match["run"] in runs:
                yield column, f"both {runs[match['run']]!r} and {column!r} are here; allowed: one of the two"
            runs[match["run"]] = column
        allowed = _allowed(str(column), value)
        if allowed:
            yield str(column), f"{shown(value)} is not allowed here; allowed: {allowed}"
    yield from check_prompts(row)
    yield from _spans_without_text(row, runs)
    if "base" not in runs:
        hint = next((h for c in row if c not in _COLUMNS and (h := nearest(str(c), _RUNS[:3]))), "")
        yield "", f"the column 'base' is missing; a pair needs base, base_ids or base_embeds{hint}"


def _spans_without_text(row: Mapping[str, Any], runs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Spans are found in text, so a run that is token ids or vectors can have none."""
    for column, value in row.items():
        match = _SPAN.fullmatch(str(column))
        run = (match["run"] or "base") if match and value is not None else ""
        if runs.get(run, run) != run:
            yield (
                str(column),
                f"a span needs text, but {runs[run]!r} gives none; give {run!r} as text,"
                " or leave the span out and write positions as token indices",
            )


def num_sources(row: Mapping[str, Any]) -> int:
    """How many sources a row has."""
    matches = (_INPUT.fullmatch(column) for column, value in row.items() if value is not None)
    return len({match["run"] for match in matches if match and match["run"] != "base"})


def _allowed(column: str, value: Any) -> str:
    """What `column` takes, where `value` is not that; else nothing."""
    match = _INPUT.fullmatch(column)
    if value is None:
        return ""
    if match and match["form"] == "ids":
        return "" if _is_ids(value) else "a list of token ids that is not empty"
    if match and match["form"] == "embeds":
        return "" if _is_vectors(value) else _VECTORS
    if match and match["form"] is None:
        return "" if isinstance(value, str) and value else "text that is not empty"
    if _LABEL.fullmatch(column):
        return "" if _is_label(value) else "text, a class's number, or a list of them (any of)"
    if _SPAN.fullmatch(column):
        return "" if _is_span(value) else "a substring that occurs once, or [start, end) characters"
    if column in _TEXT:
        return "" if isinstance(value, str | int) else "text"
    return "" if _is_plain(value) else "plain data"


def _is_ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(_is_index(item) for item in value)


def _is_vectors(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) and row for row in value):
        return False
    return len({len(row) for row in value}) == 1 and all(_is_number(item) for row in value for item in row)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_label(value: Any) -> bool:
    many = value if isinstance(value, list | tuple) else [value]
    return bool(many) and all((isinstance(item, str) and item) or _is_index(item) for item in many)


def _is_span(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(_is_index(item) for item in value) and value[0] < value[1]
    return isinstance(value, str) and bool(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int | list | tuple | Mapping)


def _finish(row: Any, where: str) -> Row:
    """The checked row without empty columns, its label derived."""
    for column, text in check_row(row):
        raise StudyError(f"{where}: {column or 'pair'}: {text}")
    found = {column: _read(column, value) for column, value in row.items() if value is not None}
    if "label" not in found and "source_label" in found and num_sources(found) == 1:
        found["label"] = found["source_label"]
    return found


def _read(column: str, value: Any) -> Any:
    match = _INPUT.fullmatch(column)
    return Vectors.of(value) if match and match["form"] == "embeds" else value


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with the ``FILE:LINE`` or ``FILE: row N`` where it stands."""
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise StudyError(f"{path}: unknown kind of file; allowed: {', '.join(readers)}")
    return readers[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise StudyError(f"{path}:{number}: this is no JSON: {error.msg}") from None


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Empty fields are missing; columns that hold lists or offsets are written as JSON."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise StudyError(f"{where}: the line has not as many fields as the header's {len(row)}")
                yield where, {key: _from_csv(value) for key, value in row.items() if value != ""}
        except csv.Error as error:
            raise StudyError(f"{path}:{reader.line_num}: this is no CSV: {error}") from None


def _from_csv(value: str) -> Any:
    if not value.startswith("["):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    # Only this reader needs pyarrow, and reading a study must stay quick.
    import pyarrow

    try:
        file = open_parquet(path, checked=True)
        for number, row in enumerate(
            row for batch in file.iter_batches(use_threads=False) for row in batch.to_pylist()
        ):
            yield f"{path}: row {number}", row
    except pyarrow.ArrowException as error:
        raise StudyError(f"{path}: this is no Parquet: {error}") from None
