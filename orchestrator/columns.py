"""Columns of answers in types that every reader holds: DuckDB has dates past Python's, times with zones, and
numbers, spans and unions that Arrow, Parquet or pandas do not know, or read as something else.

A column with such a type somewhere in it is cast, there to text and elsewhere not at all.
"""

__all__ = ["TEXT", "for_arrow", "for_files", "for_frames", "for_people"]

from collections.abc import Collection
from contextlib import suppress

import duckdb
from duckdb.sqltypes import DuckDBPyType

from orchestrator.views.names import quoted

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
