"""Which files of rows lack columns that others have: of an earlier version, or without any value there."""

__all__ = ["lacking_columns"]

from collections.abc import Mapping

import duckdb

from orchestrator.store import ADDED_COLUMNS, COLLECTED, part_columns
from orchestrator.views.names import literal
from orchestrator.views.tables import FilesOf


def lacking_columns(
    connection: duckdb.DuckDBPyConnection, files: Mapping[tuple[str, ...], FilesOf]
) -> dict[str, frozenset[str]]:
    """For each file the columns of its families that it lacks.

    The files are asked once, here (0.1 ms each): a view that made up for differences would ask them at
    every use.
    """
    wanted = {
        path: (ADDED_COLUMNS & part_columns(families).keys()) | {COLLECTED}
        for families, found in files.items()
        for path in (*found.first, *found.retries)
    }
    if not wanted:
        return {}
    listed = ", ".join(map(literal, wanted))
    names = ", ".join(map(literal, sorted(ADDED_COLUMNS | {COLLECTED})))
    found = connection.execute(
        f"SELECT file_name, list(name) FILTER (name IN ({names})) FROM parquet_schema([{listed}]) GROUP BY 1"
    ).fetchall()
    there = {name: frozenset(columns or ()) for name, columns in found}
    return {path: frozenset(columns - there[path]) for path, columns in wanted.items()}
