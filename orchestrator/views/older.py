"""Which files of rows lack a column that was added to their metric family since they were written."""

__all__ = ["older_files"]

from collections.abc import Mapping

import duckdb

from orchestrator.store import ADDED_COLUMNS, METRIC_COLUMNS
from orchestrator.views.names import literal
from orchestrator.views.tables import FilesOf


def older_files(
    connection: duckdb.DuckDBPyConnection, root: str, files: Mapping[tuple[str, ...], FilesOf]
) -> frozenset[str]:
    """The paths of those files of the study in the folder `root`.

    The files are asked once, here (0.1 ms each): a view that made up for differences would ask them at
    every use.
    """
    paths = [
        path
        for families, found in files.items()
        if any(ADDED_COLUMNS & METRIC_COLUMNS[family].keys() for family in families)
        for path in (*found.first, *found.retries)
    ]
    if not paths:
        return frozenset()
    listed = ", ".join(literal(f"{root}/{path}") for path in paths)
    names = ", ".join(map(literal, sorted(ADDED_COLUMNS)))
    found = connection.execute(
        f"SELECT file_name FROM parquet_schema([{listed}]) GROUP BY file_name"
        f" HAVING count(*) FILTER (name IN ({names})) < {len(ADDED_COLUMNS)}"
    ).fetchall()
    return frozenset(name.removeprefix(f"{root}/") for (name,) in found)
