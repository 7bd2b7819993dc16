"""Values of users' own columns, of whatever type: what Parquet and SQL hold as it is, and what as text."""

__all__ = ["holding", "holds", "told"]

import io
import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from studies.arrow_rows import said_of
from workers.libraries.pyarrow import open_parquet, read_all


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
        rows = [row if row.get(name) is None else {**row, name: _text(row[name])} for row in rows]
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


def _text(value: Any) -> str:
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
        return json.dumps(plain, ensure_ascii=False, default=_text)
    return str(plain)
