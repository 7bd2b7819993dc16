"""Columns of pairs: values that users gave, of whatever type, as Parquet and SQL hold them; and prompts."""

__all__ = ["Row", "given_column", "holding", "holds", "prompt_columns", "prompts_of", "told"]

import io
import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from studies.pairs.pair_tables import said_of
from workers.libraries.pyarrow import open_parquet, read_all
from workers.vocabulary import Prompt, Vectors

Row = Mapping[str, Any]
"""A given pair: its columns by name."""


def given_column(values: Sequence[object]) -> pa.Array:
    """A column as given; where forms are mixed (a label, or several), or are none that Parquet and SQL hold,
    other values than text become JSON."""
    if any(isinstance(value, Vectors) for value in values):
        return _vectors_column(values)
    if any(isinstance(value, pa.Scalar) for value in values):
        return _typed_column(values)
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        column = None
    if column is None or (pa.types.is_nested(column.type) and not holds(column)):
        return pa.array([v if v is None or isinstance(v, str) else _json(v) for v in values], pa.string())
    return column


def prompt_columns(prompts: Sequence[Mapping[str, Prompt]]) -> dict[str, pa.Array]:
    """Prompts of each row's runs: ``tokens``, a struct of each run's ids, and ``vectors`` where some
    are given as vectors."""
    runs = sorted({run for row in prompts for run in row})
    ids = pa.struct([(run, pa.list_(pa.int32())) for run in runs])
    tokens = [{run: p for run, p in row.items() if not isinstance(p, Vectors)} for row in prompts]
    columns = {"tokens": pa.array(tokens, ids)}
    if any(isinstance(prompt, Vectors) for row in prompts for prompt in row.values()):
        vectors = [_vectors_column([row.get(run) for row in prompts]) for run in runs]
        columns["vectors"] = pa.StructArray.from_arrays(vectors, runs)
    return columns


def prompts_of(table: pa.Table) -> list[dict[str, Prompt]]:
    """Prompts that `prompt_columns` wrote, row by row."""
    found: list[dict[str, Prompt]] = [
        {run: tuple(ids) for run, ids in row.items() if ids is not None}
        for row in table["tokens"].to_pylist()
    ]
    if "vectors" in table.column_names:
        column = table["vectors"].combine_chunks()
        for field in column.type:
            for row, value in zip(found, column.field(field.name), strict=True):
                if value.is_valid:
                    row[field.name] = _vectors(value.values)
    return found


def _typed_column(values: Sequence[object]) -> pa.Array:
    """A column of Arrow's scalars of one type, NULL where there is none."""
    kind = next(value.type for value in values if isinstance(value, pa.Scalar))
    column = pa.array([value if isinstance(value, pa.Scalar) else None for value in values], kind)
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _vectors_column(values: Sequence[object]) -> pa.Array:
    """A list of lists of float32 for each `Vectors`; NULL for anything else."""
    given = [value if isinstance(value, Vectors) else None for value in values]
    numbers = np.frombuffer(b"".join(one.data for one in given if one is not None), "<f4")
    widths = [one.shape[1] for one in given if one is not None for _ in range(len(one))]
    starts = [0, *accumulate(0 if one is None else len(one) for one in given)]
    rows = pa.ListArray.from_arrays(pa.array([0, *accumulate(widths)], pa.int32()), pa.array(numbers))
    is_null = pa.array([one is None for one in given])
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), rows, mask=is_null)


def _vectors(rows: pa.ListArray) -> Vectors:
    numbers = rows.flatten().to_numpy()
    return Vectors((len(rows), len(numbers) // len(rows)), numbers.astype("<f4").tobytes())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)


def holding(rows: Sequence[dict[str, Any]], say: Callable[[str], None] | None) -> Sequence[dict[str, Any]]:
    """The rows, with text for Arrow's scalars that Parquet or SQL cannot hold, and a line on each column."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, pa.Scalar))
    for name in names:
        of_type = [row[name] for row in rows if isinstance(row.get(name), pa.Scalar)]
        kind = of_type[0].type
        if holds(pa.array(of_type, kind)):
            continue
        if say is not None:
            say(f"the pairs' column {name!r} is kept as text: SQL holds no {kind}")
        rows = [row if row.get(name) is None else {**row, name: _in_words(row[name])} for row in rows]
    return rows


def holds(column: pa.Array) -> bool:
    """Whether a column comes back from Parquet and from SQL as it is."""
    if not _has_names(column.type):
        return False
    try:
        sink = io.BytesIO()
        pq.write_table(pa.table({"value": column}), sink)
        with duckdb.connect() as connection:
            connection.register("arriving", read_all(open_parquet(sink)))
            connection.execute("CREATE TABLE kept AS FROM arriving")
            found = connection.execute("SELECT count(*), count(value) FROM kept").fetchone()
        return bool(found == (len(column), len(column) - column.null_count))
    except (pa.ArrowException, duckdb.Error, OSError, ValueError, OverflowError):
        return False


def told(value: Any) -> Any:
    """A value as data that an identity can be made of; itself, where it is such data."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, pa.Scalar):
        return told(said_of(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else ["float", repr(value)]
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, Mapping):
        names = {unicodedata.normalize("NFC", str(key)) for key in value}
        if len(names) < len(value):
            return ["mapping", [[list(str(key).encode()), told(item)] for key, item in value.items()]]
        return {str(key): told(item) for key, item in value.items()}
    return value


def _has_names(kind: pa.DataType) -> bool:
    """Whether every field has a name of its own that SQL has too."""
    if pa.types.is_struct(kind):
        names = [field.name.casefold() for field in kind]
        if not names or not all(names) or len({*names}) < len(names) or any("\0" in name for name in names):
            return False
    return all(_has_names(kind.field(at).type) for at in range(kind.num_fields))


def _in_words(value: Any) -> str:
    """A value in words: decimals and dates as they are written, what holds several as JSON."""
    try:
        plain = value.as_py() if isinstance(value, pa.Scalar) else value
    except (OverflowError, ValueError):  # dates and times that Python has not
        return f"{getattr(value, 'value', value)} ({value.type})"
    if isinstance(plain, bytes):
        return plain.hex()
    if isinstance(plain, str):
        return plain
    if isinstance(plain, list | dict):
        return json.dumps(plain, ensure_ascii=False, default=_in_words)
    return str(plain)
