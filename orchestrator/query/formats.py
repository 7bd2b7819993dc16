"""Answers as text and files: a table for people, CSV, JSON and Parquet in full precision.

Rows stream through: an answer may be larger than the memory. Iterate inside `query.explained`.
"""

__all__ = [
    "TEXT",
    "WRITERS",
    "for_arrow",
    "for_files",
    "for_frames",
    "for_people",
    "plan_text",
    "table_text",
    "write_csv",
    "write_json",
    "write_parquet",
]

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import BinaryIO

import duckdb
import pyarrow.csv
import pyarrow.parquet
from duckdb.sqltypes import DuckDBPyType

from orchestrator.text_tables import cell_text, plain, table
from workers.errors import QueryError
from workers.libraries.duckdb import quoted

# DuckDB has dates past Python's, times with zones, and numbers, spans and unions that Arrow, Parquet or
# pandas do not know, or read as something else. A column with such a type somewhere in it is cast, there to
# text and elsewhere not at all.
TEXT = "VARCHAR"
_MOMENTS = ("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone")
_NOWHERE = ("bit", "uhugeint", "bignum", "varint", "time with time zone", "variant", "geometry")
"""Types that Arrow reads as bytes, or as another value."""
_MANY = ("list", "array", "struct", "map")
_NOT_IN_FILES = ("interval", "union", "tuple", *_NOWHERE)
_NOT_IN_PYTHON = ("time", "time_ns", *_MOMENTS, *_NOT_IN_FILES)
"""Types some of whose values Python has not: 24 o'clock, the year 290000, infinity."""


def for_arrow(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The answer in types that Arrow holds."""
    return _cast(relation, _NOWHERE)


def for_files(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The answer in types that Parquet holds."""
    return _cast(relation, _NOT_IN_FILES)


def for_people(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The answer in types that Python prints as DuckDB does, by way of Arrow."""
    return _cast(relation, _NOT_IN_PYTHON)


def for_frames(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The answer in types that pandas holds; moments are text where one is infinite or too far off."""
    kinds = zip(relation.columns, relation.types, strict=True)
    moments = [name for name, kind in kinds if kind.id in _MOMENTS]
    if moments:
        far = " OR ".join(
            f"NOT isfinite({quoted(name)}) OR year({quoted(name)}) NOT BETWEEN 1678 AND 2261"
            for name in moments
        )
        # What fails here fails again once the rows are fetched, in whoever's words these are.
        with suppress(duckdb.Error):
            if relation.aggregate(f"coalesce(bool_or({far}), false)").fetchall()[0][0]:
                return _cast(relation, (*_MOMENTS, *_NOWHERE))
    return _cast(relation, _NOWHERE)


def _cast(relation: duckdb.DuckDBPyRelation, odd: Collection[str]) -> duckdb.DuckDBPyRelation:
    """The same columns, of which those with an `odd` type are cast; as it is where there is none."""
    held = [_held(kind, odd) for kind in relation.types]
    if all(one is None for one in held):
        return relation
    # By their places: two columns may have one name.
    return relation.project(
        ", ".join(
            f"{f'#{at}' if kind is None else f'CAST(#{at} AS {kind})'} AS {quoted(name)}"
            for at, (name, kind) in enumerate(zip(relation.columns, held, strict=True), 1)
        )
    )


def _held(kind: DuckDBPyType, odd: Collection[str]) -> str | None:
    """The type that `kind` is cast to; None where it can stay."""
    if kind.id in odd:
        return TEXT
    if kind.id not in _MANY:
        return None
    children = {str(name): child for name, child in kind.children if isinstance(child, DuckDBPyType)}
    held = {name: _held(child, odd) for name, child in children.items()}
    if kind.id == "map" and "time" in odd and children["key"].id in _MANY:
        # Of a dictionary it can be no key.
        held["key"] = TEXT
    if kind.id == "map" and odd is _NOT_IN_FILES and children["key"].id == "null":
        return TEXT
    if all(one is None for one in held.values()):
        return None
    types = {name: held[name] or str(child) for name, child in children.items()}
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{quoted(name)} {one}' for name, one in types.items())})"
    if kind.id == "map":
        return f"MAP({', '.join(types.values())})"
    # Of an array the size is no part of what is read.
    return f"{types['child']}[]"


ROWS_AT_ONCE = 10_000

_PLAN = ["explain_key", "explain_value"]
"""The columns of what EXPLAIN says."""

_FLAT = ("list", "array", "struct", "map", "union", "variant")
"""Types that a CSV field shows as JSON."""


def table_text(relation: duckdb.DuckDBPyRelation, *, rows: int, width: int | None) -> tuple[str, str]:
    """The first `rows` rows as a table at most `width` characters wide, and a note on what is not shown."""
    shown: list[list[object]] = []
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
        f"{_flat(name, kind.id)} AS {quoted(name)}"
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


def _num_fitting(names: Sequence[str], rows: Sequence[Sequence[object]], width: int | None) -> int:
    """Number of columns of a table that fit in `width` characters; at least one."""
    if width is None:
        return len(names)
    used = 0
    for i, name in enumerate(names):
        used += max(len(name), *(len(cell_text(row[i])) for row in rows), 0) + (2 if i else 0)
        if used > width:
            return max(1, i)
    return len(names)


def _objects(relation: duckdb.DuckDBPyRelation) -> Iterator[dict[str, object]]:
    for batch in for_people(relation).to_arrow_reader(ROWS_AT_ONCE):
        yield from batch.to_pylist(maps_as_pydicts="lossy")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _as_json(value: object) -> object:
    """A value that JSON has not: a whole DECIMAL (DuckDB's sum of integers) as a number, others as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def _flat(name: str, kind: str) -> str:
    """A column as one field of a CSV line."""
    if kind in _FLAT:
        return f"to_json({quoted(name)})"
    # Its bytes as DuckDB writes them, and the names of an enum, not its numbers.
    return f"CAST({quoted(name)} AS VARCHAR)" if kind in ("blob", "enum") else quoted(name)
