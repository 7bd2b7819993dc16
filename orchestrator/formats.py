"""Answers as text and files: a table for people, CSV, JSON and Parquet in full precision.

Rows stream through: an answer may be larger than the memory. Iterate inside `query.explained`.
"""

__all__ = ["WRITERS", "plan_text", "table_text", "write_csv", "write_json", "write_parquet"]

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

import duckdb
import pyarrow.csv
import pyarrow.parquet

from orchestrator.columns import for_files, for_people
from orchestrator.lines import cell_text, plain, table
from workers.errors import QueryError

ROWS_AT_ONCE = 10_000

_PLAN = ["explain_key", "explain_value"]
"""The columns of what EXPLAIN says."""

_FLAT = ("list", "array", "struct", "map", "union", "variant")
"""Types that a CSV field shows as JSON."""


def table_text(relation: duckdb.DuckDBPyRelation, *, rows: int, width: int | None) -> tuple[str, str]:
    """The first `rows` rows as a table at most `width` characters wide, and a note on what is not shown."""
    shown: list[list[Any]] = []
    total = 0
    for batch in for_people(relation).to_arrow_reader(ROWS_AT_ONCE):
        total += batch.num_rows
        head = batch.slice(0, max(0, rows - len(shown)))
        values = (column.to_pylist(maps_as_pydicts="lossy") for column in head.columns)
        shown.extend(list(row) for row in zip(*values, strict=True))
    names = [cell_text(name) for name in relation.columns]
    fitting = _num_fitting(names, shown, width)
    text = table(names[:fitting], [row[:fitting] for row in shown])
    notes = []
    if total > len(shown):
        notes.append(f"{len(shown):,} of {total:,} rows shown (--rows, or --format csv|json|parquet)")
    if fitting < len(names):
        notes.append(f"{fitting} of {len(names)} columns fit: name those wanted in SELECT, or use --format")
    return text, "; ".join(notes)


def plan_text(relation: duckdb.DuckDBPyRelation) -> str | None:
    """The plan that an EXPLAIN shows, as it is drawn; None of any other answer."""
    if relation.columns != _PLAN:
        return None
    return "\n".join(plain(text).rstrip("\n") for _, text in relation.fetchall())


def write_csv(relation: duckdb.DuckDBPyRelation, sink: BinaryIO) -> None:
    """Write a header and the rows; NULL is an empty field, lists and structs are JSON."""
    _refuse_twins(relation)
    relation = for_people(relation)
    flat = ", ".join(
        f"{_flat(name, kind.id)} AS {_quoted(name)}"
        for name, kind in zip(relation.columns, relation.types, strict=True)
    )
    reader = relation.project(flat).to_arrow_reader(ROWS_AT_ONCE)
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    with pyarrow.csv.CSVWriter(sink, reader.schema, write_options=options) as writer:
        for batch in reader:
            writer.write_batch(batch)


def write_json(relation: duckdb.DuckDBPyRelation, sink: BinaryIO) -> None:
    """Write one array of objects, one a line; NaN and infinity, which JSON has not, become null."""
    _refuse_twins(relation)
    before = b"[\n"
    for row in _objects(relation):
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False, default=_as_json)
        sink.write(before + text.encode())
        before = b",\n"
    sink.write((b"[" if before == b"[\n" else b"\n") + b"]\n")


def write_parquet(relation: duckdb.DuckDBPyRelation, sink: BinaryIO) -> None:
    """Write Parquet with the types that the answer has."""
    _refuse_twins(relation)
    reader = for_files(relation).to_arrow_reader(ROWS_AT_ONCE)
    with pyarrow.parquet.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


WRITERS: Mapping[str, Callable[[duckdb.DuckDBPyRelation, BinaryIO], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
"""The formats of files."""


def _refuse_twins(relation: duckdb.DuckDBPyRelation) -> None:
    """In a file columns are known by their names alone."""
    twins = [name for name, count in Counter(relation.columns).items() if count > 1]
    if twins:
        raise QueryError(
            f"two columns are named {twins[0]!r}; give one another name with AS, or leave it out"
        )


def _num_fitting(names: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None) -> int:
    """How many columns of a table fit in `width` characters; at least one."""
    if width is None:
        return len(names)
    used = 0
    for i, name in enumerate(names):
        used += max(len(name), *(len(cell_text(row[i])) for row in rows), 0) + (2 if i else 0)
        if used > width:
            return max(1, i)
    return len(names)


def _objects(relation: duckdb.DuckDBPyRelation) -> Iterator[dict[str, Any]]:
    for batch in for_people(relation).to_arrow_reader(ROWS_AT_ONCE):
        yield from batch.to_pylist(maps_as_pydicts="lossy")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _as_json(value: Any) -> Any:
    """A value that JSON has not: a whole DECIMAL (DuckDB's sum of integers) as a number, others as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def _flat(name: str, kind: str) -> str:
    """A column as one field of a CSV line."""
    if kind in _FLAT:
        return f"to_json({_quoted(name)})"
    # Its bytes as DuckDB writes them, and the names of an enum, not its numbers.
    return f"CAST({_quoted(name)} AS VARCHAR)" if kind in ("blob", "enum") else _quoted(name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
