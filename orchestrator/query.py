"""Questions in SQL: exactly one statement that only reads, on the views' locked-down connection."""

__all__ = ["check_sql", "explained", "named_queries", "run_query"]

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from workers.errors import QueryError, nearest

_FOLDER = Path(__file__).parent / "queries"

_READING_NODES = ("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE")
_TABLE_FUNCTIONS = ("duckdb_columns", "duckdb_functions", "generate_series", "range", "unnest")
"""Those that cannot run SQL of their own or reach files."""

_UNKNOWN_COLUMN = re.compile(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"')
_UNKNOWN_TABLE = re.compile(r"Table with name (.+?) does not exist")
_SPOKEN = {"MULTI": "PIVOT without IN (…)"}
"""What DuckDB calls otherwise than its users."""

_ALLOWED = "a query is one SELECT (or FROM VIEW …, DESCRIBE VIEW, SUMMARIZE VIEW) that only reads"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedQuery:
    """A question that comes with swapyard."""

    name: str
    about: str
    """What it answers, in one line."""
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


def check_sql(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse all SQL but one statement that only reads.

    The kind of statement alone does not tell: ``WITH x AS (COPY … TO …) SELECT …`` is a SELECT to
    DuckDB, and writes into the folders that a locked-down connection may read. So the parsed tree is
    looked through.

    Raises:
        QueryError: with what was found instead.
    """
    with explained(connection):
        statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"the SQL has {len(statements)} statements; {_ALLOWED}")
    if statements[0].type != duckdb.StatementType.SELECT:
        name = statements[0].type.name
        raise QueryError(f"{_SPOKEN.get(name, name)} is not allowed; {_ALLOWED}")
    answer = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchall()[0][0]
    parsed = json.loads(answer)
    if parsed["error"]:
        raise QueryError(f"{parsed['error_message']}; {_ALLOWED}")
    for node in _nodes(parsed["statements"]):
        _check_node(node)


@contextmanager
def explained(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turn DuckDB's errors into a `QueryError` that says what to do; also needed where rows are fetched."""
    try:
        yield
    except duckdb.Error as error:
        raise QueryError(_explain(connection, str(error))) from None
    except OSError as error:
        # How Arrow's readers pass on an error of DuckDB's; one of the system has a number.
        if error.errno is not None:
            raise
        raise QueryError(_explain(connection, str(error))) from None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)


def _check_node(node: Mapping[str, Any]) -> None:
    kind = node.get("type")
    if not isinstance(kind, str):
        return
    if kind.endswith("_NODE") and kind not in _READING_NODES:
        what = kind.removesuffix("_QUERY_NODE").removesuffix("_NODE").replace("_", " ")
        raise QueryError(f"{what} is not allowed, not even in WITH; {_ALLOWED}")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"]["function_name"]).lower()
        if name not in _TABLE_FUNCTIONS:
            allowed = ", ".join(_TABLE_FUNCTIONS)
            raise QueryError(
                f"the table function {name} is not allowed; allowed: views and {allowed}"
                f"{nearest(name, _TABLE_FUNCTIONS)}"
            )


def _explain(connection: duckdb.DuckDBPyConnection, message: str) -> str:
    """DuckDB's first line and where it points, and the nearest name where one is unknown."""
    first, *rest = message.strip().splitlines()
    head = first.rstrip("!")
    at = next((i for i, line in enumerate(rest) if line.startswith("LINE ")), len(rest))
    pointer = "".join(f"\n{line}" for line in rest[at : at + 2])
    if found := _UNKNOWN_COLUMN.search(head):
        name, columns = found[1] or found[2], _columns(connection)
        views = columns.get(name)
        hint = f"; there is one in {', '.join(views)}" if views else nearest(name, columns)
        return f'{head}; "DESCRIBE results" lists a view\'s columns{hint}{pointer}'
    if found := _UNKNOWN_TABLE.search(head):
        views = _view_names(connection)
        return f"{head}; there are {', '.join(views)}{nearest(found[1], views)}{pointer}"
    return head + pointer


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
