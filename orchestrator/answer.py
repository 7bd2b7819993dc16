"""The small table that a run ends with: the places where swapping does most."""

__all__ = ["answer"]

from pathlib import Path

import duckdb

from orchestrator.lines import table
from orchestrator.query import explained
from orchestrator.views import connect
from orchestrator.views.names import quoted
from orchestrator.views.trainings import kinds_of

_TOP = 3
_SQL = """
WITH places AS (
    SELECT {axes}, avg(iia) AS iia,
           sum(logit_diff - base_run_logit_diff)
               / nullif(sum(source_run_logit_diff - base_run_logit_diff), 0) AS recovered,
           avg(changed) AS changed, avg(kl_base) AS kl_base, count(*) AS jobs
    FROM results GROUP BY ALL
)
SELECT * FROM places
QUALIFY row_number() OVER ({partition} ORDER BY {rank}) <= {top}
ORDER BY {order}
"""
_RANK = ("iia DESC NULLS LAST", "recovered DESC NULLS LAST", "kl_base DESC NULLS LAST")


def answer(root: Path) -> str | None:
    """The three places of each kind where the study in `root` found the largest effects, as a table.

    None where no job succeeded.

    Raises:
        QueryError: rows cannot be read.
    """
    connection = connect([root])
    with explained(connection):
        relation = connection.sql(_sql(connection))
        rows = relation.fetchall()
    if not rows:
        return None
    keep = [i for i in range(len(relation.columns)) if any(row[i] is not None for row in rows)]
    return table([relation.columns[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _sql(connection: duckdb.DuckDBPyConnection) -> str:
    there = [name for name, *_ in connection.execute("DESCRIBE results").fetchall()]
    every = (*kinds_of(connection), "block", "site")
    places = (*every, "layer", "head", "base_position")
    axes = [name for name in places if name in there and _varies(connection, name)] or ["block"]
    kinds = [name for name in axes if name in every]
    return _SQL.format(
        axes=", ".join(map(quoted, axes)),
        partition=f"PARTITION BY {', '.join(map(quoted, kinds))}" if kinds else "",
        rank=", ".join(_RANK),
        order=", ".join([*map(quoted, kinds), *_RANK]),
        top=_TOP,
    )


def _varies(connection: duckdb.DuckDBPyConnection, column: str) -> bool:
    # Of a cell without its pair one only knows the position as it was written.
    view = "results" if column == "base_position" else "cells"
    (num,) = connection.execute(f"SELECT count(DISTINCT {quoted(column)}) FROM {view}").fetchall()[0]
    return bool(num > 1)
