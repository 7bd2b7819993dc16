"""Parquet files of rows: parts, each with the rows of one slice of a tile, and several merged into one.

Floats are split by byte, so that zstd finds their similar exponents together; numbers that repeat
(cell, pair, predicted token, tier) go through dictionaries. NULL is ``None`` in a list and a masked
element in a masked array; NaN stays NaN.
"""

__all__ = [
    "ADDED_COLUMNS",
    "COLLECTED",
    "REMEDY",
    "concatenated",
    "decode_part",
    "encode_part",
    "part_columns",
]

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.store.manifest import Manifest, StoredFile
from workers.digests import digest_of
from workers.errors import StoreError
from workers.libraries.pyarrow import open_parquet, read_all, write_checked
from workers.metrics import METRIC_FAMILIES, RAW, raw_metrics

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ADDED_COLUMNS = frozenset(raw.name for raw in RAW if raw.may_lack)
"""Columns that files of earlier versions lack: read as NULL there."""

COLLECTED = "collected"
"""The column, after all others, of what jobs collected: of each a list of (unit, token, vector)."""

REMEDY = "restore it from a copy, or have its jobs run again after: swapyard doctor --repair STUDY"
"""Remedy for a file of rows that is lost or damaged."""

_ROW_COLUMNS = {"cell": "uint32", "pair": "uint32", "error": "string", "attempt": "uint8", "tier": "string"}
_NEVER_NULL = ("cell", "pair", "attempt")
_ROWS_A_GROUP = 131_072
"""Of a file's rows so many lie together: a reader skips groups of other cells, and reads several at once."""
_DICTIONARY = ("cell", "pair", "error", "attempt", "tier", *(raw.name for raw in RAW if raw.dtype == "int32"))


def part_columns(families: Iterable[str]) -> dict[str, str]:
    """The columns of a part with these metric families, in order, and their Arrow types; but `COLLECTED`."""
    wanted = set(families)
    unknown = wanted - set(METRIC_FAMILIES)
    if unknown or not wanted:
        raise ValueError(f"a part has some of the metric families {METRIC_FAMILIES}, not {sorted(wanted)}")
    return _ROW_COLUMNS | {name: raw.dtype for name, raw in raw_metrics(wanted).items()}


def encode_part(
    columns: Mapping[str, "np.ndarray[Any, Any] | Sequence[Any]"], families: Iterable[str]
) -> bytes:
    """The rows as the bytes of a Parquet file; one element a row in each column of `part_columns`.

    `COLLECTED` may be left out, and is where no row has any.

    Raises:
        ValueError: columns are missing, unknown, of unequal lengths or of values that do not fit.
    """
    import pyarrow as pa

    types = part_columns(families)
    if set(columns) - {COLLECTED} != set(types):
        raise ValueError(f"a part of {sorted(families)} has the columns {list(types)}, not {list(columns)}")
    schema = _schema(types, with_collected=COLLECTED in columns)
    table = pa.table([_array(columns[field.name], field.type) for field in schema], schema=schema)
    table.validate()
    return _encoded(table)


def concatenated(tables: Sequence["pa.Table"]) -> bytes:
    """The rows of several decoded parts of the same columns as one file, sorted by (cell, pair)."""
    import numpy as np
    import pyarrow as pa

    # A dictionary of its own for each part: its numbers mean something else in the next.
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    keys = table["cell"].to_numpy().astype(np.uint64) << 32 | table["pair"].to_numpy()
    return _encoded(table.take(pa.array(np.argsort(keys, kind="stable"))))


def decode_part(data: bytes, file: Manifest | StoredFile, columns: Sequence[str] | None = None) -> "pa.Table":
    """The rows of a file that was read from the store, checked against what was committed.

    Only some `columns` may be asked for; None means all.

    Raises:
        StoreError: the bytes are not those that were written.
    """
    import pyarrow as pa

    if len(data) != file.size_bytes or digest_of(data) != file.sha256:
        raise StoreError(f"{file.path} is damaged: its bytes are not those committed; {REMEDY}")
    try:
        found = open_parquet(io.BytesIO(data), checked=True)
        names = found.schema_arrow.names
        schema = _schema(part_columns(file.families), with_collected=COLLECTED in names)
        absent = ADDED_COLUMNS - set(names)
        written = pa.schema([field for field in schema if field.name not in absent])
        fits = found.metadata.num_rows == file.rows and found.schema_arrow == written
        table = read_all(found, columns)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{file.path} is damaged: {error}; restore it from a copy") from error
    if not fits:
        raise StoreError(f"{file.path} does not hold the rows and columns that its commit says")
    return _completed(table, [field for field in schema if columns is None or field.name in columns])


def _completed(table: "pa.Table", fields: Sequence["pa.Field[Any]"]) -> "pa.Table":
    """The table with these columns, NULL where an earlier version did not write one."""
    import pyarrow as pa

    if table.num_columns == len(fields):
        return table
    found = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in fields
    ]
    return pa.table(found, schema=pa.schema(fields))


def _encoded(table: "pa.Table") -> bytes:
    if COLLECTED in table.column_names and table[COLLECTED].null_count == table.num_rows:
        table = table.drop_columns([COLLECTED])
    sink = io.BytesIO()
    dictionary = [name for name in table.column_names if name in _DICTIONARY]
    write_checked(table, sink, dictionary=dictionary, rows_a_group=_ROWS_A_GROUP)
    return sink.getvalue()


def _schema(types: Mapping[str, str], *, with_collected: bool) -> "pa.Schema":
    import pyarrow as pa

    fields = [
        pa.field(name, _arrow_type(name, type_), name not in _NEVER_NULL) for name, type_ in types.items()
    ]
    one = pa.struct({"unit": pa.uint8(), "token": pa.int32(), "vector": pa.list_(pa.float32())})
    return pa.schema([*fields, *([pa.field(COLLECTED, pa.list_(one))] if with_collected else [])])


def _arrow_type(name: str, type_: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.dictionary(pa.int32(), pa.string()) if name == "tier" else pa.type_for_alias(type_)


def _array(values: "np.ndarray[Any, Any] | Sequence[Any]", type_: "pa.DataType") -> "pa.Array":
    import numpy as np
    import pyarrow as pa

    if isinstance(values, np.ma.MaskedArray):
        return pa.array(values.data, type=type_, mask=np.ma.getmaskarray(values))
    # Arrow makes dictionaries and lists from lists only.
    is_from_list = pa.types.is_dictionary(type_) or pa.types.is_list(type_)
    return pa.array(list(values) if is_from_list else values, type=type_)
