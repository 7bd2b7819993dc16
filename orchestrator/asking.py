"""One question to studies, of which only what it needs is read."""

__all__ = ["ask"]

from collections.abc import Sequence
from pathlib import Path

import duckdb

from orchestrator.lost import TellLost
from orchestrator.query import check_sql, run_query
from orchestrator.query_limits import QueryLimits, Watch
from orchestrator.reading import LeaveOut
from orchestrator.views import EVERYTHING, connect, needs_of
from workers.errors import OutOfTimeError, QueryError


def ask(
    studies: Sequence[Path],
    sql: str,
    *,
    leave_out: LeaveOut | None,
    lost: TellLost | None = None,
    verify: bool = True,
    limits: QueryLimits,
    watch: Watch,
) -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyRelation]:
    """The answer to `sql` over the studies in these folders, and the connection that it runs on.

    The arguments are those of `connect`. Rows are fetched within `watch.over` and `explained`.

    Raises:
        OutOfTimeError: `watch` says so.
        QueryError: see `connect` and `run_query`.
        StoreError: see `connect`.
    """
    with duckdb.connect(config={"threads": 1}) as parser:
        check_sql(parser, sql)
    needs = needs_of(sql)
    for some in dict.fromkeys((needs, EVERYTHING)):
        connection = connect(
            studies, leave_out=leave_out, lost=lost, verify=verify, limits=limits, watch=watch, needs=some
        )
        try:
            with watch.over(connection):
                return connection, run_query(connection, sql)
        except OutOfTimeError:
            raise
        except QueryError:
            # What is near a name that is not there is told by all that there is.
            if some == EVERYTHING:
                raise
    raise AssertionError("everything is the last that is tried")
