"""Columns in views: the names of those that users gave, and one type for those that several studies have."""

__all__ = [
    "as_text",
    "have_common_type",
    "names_in_results",
    "public_names",
    "said_by_pairs",
    "union",
]

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

import duckdb
import pyarrow as pa

from studies.names import PAIR_COLUMNS, RESERVED
from workers.libraries.duckdb import quoted


def said_by_pairs(given: Collection[str]) -> list[str]:
    """The axes of which a pair's own column says the value: task, variable, output."""
    return [name for name in ("task", "variable", "read") if name in given]


def names_in_results(given: Collection[str], axes: Collection[str]) -> dict[str, str]:
    """Name in ``results`` of each column of a pair."""
    own = {*PAIR_COLUMNS, *said_by_pairs(given)}
    return public_names(given, own=own, reserved=(*RESERVED, *axes, "model"))


def public_names(given: Iterable[str], *, own: Collection[str], reserved: Collection[str]) -> dict[str, str]:
    """The name in a view of each column of a pair: its own, or ``pair.NAME`` where that is taken.

    Names in `own` stay as they are; those in `reserved` are taken in every spelling, as is each name given
    before.
    """
    taken = {name.casefold() for name in (*own, *reserved)}
    names: dict[str, str] = {}
    for name in given:
        public = name
        while name not in own and public.casefold() in taken:
            public = f"pair.{public}"
        taken.add(public.casefold())
        names[name] = public
    return names


def union(connection: duckdb.DuckDBPyConnection, views: Sequence[str]) -> str:
    """The SQL of all rows of all `views`, by name; NULL where a view lacks a column.

    A column whose types have nothing in common (text here, a list there) becomes text in all of them, lists
    and structs as JSON. One that is NULL everywhere is text as well.
    """
    schemas = {view: connection.sql(f"FROM {view} LIMIT 0").to_arrow_table().schema for view in views}
    types: dict[str, list[pa.DataType]] = {}
    for schema in schemas.values():
        for field in schema:
            types.setdefault(field.name.casefold(), []).append(field.type)
    texts = {name for name, found in types.items() if not have_common_type(found)}
    return " UNION ALL BY NAME ".join(_select(view, schema, texts) for view, schema in schemas.items())


def as_text(column: str, kind: pa.DataType) -> str:
    """The SQL of a column, of this type, as text: lists and structs as JSON."""
    return f"{f'to_json({column})' if pa.types.is_nested(kind) else column}::VARCHAR"


def _select(view: str, schema: pa.Schema, texts: set[str]) -> str:
    casts: Mapping[str, str] = {
        quoted(field.name): as_text(quoted(field.name), field.type)
        for field in schema
        if field.name.casefold() in texts
    }
    replaced = ", ".join(f"{value} AS {name}" for name, value in casts.items())
    return f"SELECT *{f' REPLACE ({replaced})' if replaced else ''} FROM {view}"


def have_common_type(types: Sequence[pa.DataType]) -> bool:
    """Whether one column can hold values of all these types; not where all are NULL alone."""
    if all(pa.types.is_null(one) for one in types):
        return False
    return all(_go_together(one, other) for one, other in combinations(dict.fromkeys(types), 2))


def _go_together(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether values of both can be cast to one type: DuckDB picks one for any two, and fails on the rows."""
    if pa.types.is_null(one) or pa.types.is_null(other):
        return True
    if pa.types.is_list(one) and pa.types.is_list(other):
        return _go_together(one.value_type, other.value_type)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {field.name: field.type for field in one}
        return all(_go_together(fields.get(field.name, pa.null()), field.type) for field in other)
    return not pa.types.is_nested(one) and not pa.types.is_nested(other)
