"""Questions in SQL: exactly one statement that only reads, on the views' locked-down connection."""

__all__ = ["Row", "check_sql", "explained", "fetch", "named_queries", "run_query"]

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from orchestrator.interrupts import interruptible
from workers.errors import QueryError, nearest
from workers.libraries.duckdb import is_passed_on, pointer, unknown_column, unknown_table
from workers.libraries.duckdb_trees import explained_select, parsed, statements

_FOLDER = Path(str(files("orchestrator.query"))) / "queries"

_TABLE_FUNCTIONS = ("duckdb_columns", "duckdb_functions", "generate_series", "range", "unnest")
"""Table functions that cannot run SQL of their own or reach files."""

_ALLOWED = (
    "a query is one SELECT (or FROM VIEW …, DESCRIBE VIEW, SUMMARIZE VIEW, EXPLAIN SELECT) that only reads"
)


Row = tuple[Any, ...]
"""Row of an answer, in the types that DuckDB gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedQuery:
    """Query that comes with swapyard."""

    name: str
    about: str
    """Question that it answers, in one line."""
    sql: str


@cache
def named_queries() -> Mapping[str, NamedQuery]:
    """The bundled queries by name; the first line of each file is a comment that says what it answers."""
    found: dict[str, NamedQuery] = {}
    for file in sorted(_FOLDER.glob("*.sql")):
        sql = file.read_text(encoding="utf-8")
        about = sql.splitlines()[0].removeprefix("--").strip()
        found[file.stem] = NamedQuery(name=file.stem, about=about, sql=sql)
    return found


def run_query(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """The answer to `sql` as a relation, which runs when its rows are fetched (see `explained`).

    Raises:
        QueryError: it is no single statement that only reads, or names what is not there.
    """
    check_sql(connection, sql)
    with explained(connection):
        return connection.sql(sql)


def fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    """All rows of the answer to `sql`; raises as `run_query` does."""
    relation = run_query(connection, sql)
    with explained(connection):
        return relation.fetchall()


def check_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse all SQL but one statement that only reads, or an EXPLAIN of such a one.

    The kind of statement alone does not tell: ``WITH x AS (COPY … TO …) SELECT …`` is a SELECT to
    DuckDB, and writes into the folders that a locked-down connection may read. So the parsed tree is
    looked through; where it cannot be read, nothing is allowed.

    Raises:
        QueryError: with what was found instead.
    """
    with explained(connection):
        found = statements(connection, sql)
    if len(found) != 1:
        raise QueryError(f"the SQL has {len(found)} statements; {_ALLOWED}")
    ((kind, query, is_select),) = found
    if not is_select and (select := explained_select(connection, query)) is not None:
        query, is_select = select, True
    if not is_select:
        raise QueryError(f"{kind} is not allowed; {_ALLOWED}")
    shown = parsed(connection, query)
    if shown.problem:
        raise QueryError(f"{shown.problem}; {_ALLOWED}")
    for what in shown.writing:
        raise QueryError(f"{what} is not allowed, not even in WITH; {_ALLOWED}")
    for name in shown.functions:
        if name not in _TABLE_FUNCTIONS:
            allowed = ", ".join(_TABLE_FUNCTIONS)
            raise QueryError(
                f"the table function {name} is not allowed; allowed: views and {allowed}"
                f"{nearest(name, _TABLE_FUNCTIONS)}"
            )


@contextmanager
def explained(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turn DuckDB's errors into a `QueryError` that says what to do; also needed where rows are fetched."""
    try:
        with interruptible(connection):
            yield
    except duckdb.OutOfMemoryException as error:
        raise QueryError(_out_of_memory(str(error))) from None
    except duckdb.Error as error:
        raise QueryError(_explain(connection, str(error))) from None
    except OSError as error:
        if not is_passed_on(error):
            raise
        raise QueryError(_explain(connection, str(error))) from None


def _out_of_memory(message: str) -> str:
    return (
        f"{message.strip().splitlines()[0].rstrip('!')}; give the query more memory with --memory (memory= in"
        " Python), more room for temporary files (TMPDIR), or ask for less"
    )


def _explain(connection: duckdb.DuckDBPyConnection, message: str) -> str:
    """DuckDB's first line and where it points, and the nearest name where one is unknown."""
    first, *rest = message.strip().splitlines()
    head = first.rstrip("!")
    at = "".join(f"\n{line}" for line in pointer(rest))
    if (name := unknown_column(head)) is not None:
        columns = _columns(connection)
        views = columns.get(name)
        hint = f"; there is one in {', '.join(views)}" if views else nearest(name, columns)
        return f'{head}; "DESCRIBE results" lists a view\'s columns{hint}{at}'
    if (name := unknown_table(head)) is not None:
        views = _view_names(connection)
        return f"{head}; there are {', '.join(views)}{nearest(name, views)}{at}"
    return head + at


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The views that have each column."""
    known = set(_view_names(connection))
    views: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns()"
    ).fetchall():
        if table in known and table not in views.setdefault(column, []):
            views[column].append(table)
    return views


def _view_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The views that users see; names that begin with an underscore are ours."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT starts_with(view_name, '_')"
    )
    return [name for (name,) in rows.fetchall()]
