"""Names of DuckDB that may move: the tree of a query, settings that lock a connection, texts of errors.

What a query may do is decided by its parsed tree. Where the tree is not of the form that is known here, a
query is refused, never let through: kinds are listed that only read, and the trees of queries that write must
show that they do.
"""

__all__ = [
    "PLACES",
    "Asked",
    "Parsed",
    "asked",
    "confine",
    "explained_select",
    "file_value",
    "is_interruption",
    "is_passed_on",
    "limit",
    "lock",
    "parsed",
    "pointer",
    "statements",
    "unknown_column",
    "unknown_table",
]

import json
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from workers.errors import QueryError
from workers.libraries import Place

Connection = duckdb.DuckDBPyConnection

_QUERIES = ("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE")
_TABLES = (
    *("BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT"),
    *("SHOW_REF", "COLUMN_DATA", "CTE", "DELIM_GET"),
)
_MODIFIERS = ("ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER")
_ORDERS = ("ASCENDING", "DESCENDING", "ORDER_DEFAULT", "INVALID")
_READING = frozenset((*_QUERIES, *_TABLES, *_MODIFIERS, *_ORDERS))
"""Kinds of node that change nothing; all others but expressions, which have a class too, are refused."""
_ENDS = ("_QUERY_NODE", "_NODE")

_SPOKEN = {"MULTI": "PIVOT without IN (…)"}
"""Kinds of statement that DuckDB calls otherwise than its users."""

_UNKNOWN_COLUMN = re.compile(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"')
_UNKNOWN_TABLE = re.compile(r"Table with name (.+?) does not exist")
_POINTER = "LINE "
_INTERRUPTED = "INTERRUPT Error"

_TRIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "WITH x AS (COPY (SELECT 1) TO 'a') SELECT 1": (("COPY",), ()),
    "SELECT * FROM (SELECT 1) JOIN read_csv('a') ON true": ((), ("read_csv",)),
    "WITH x AS (SELECT 1 AS n) SELECT n, (SELECT max(n) FROM range(2)) FROM x ORDER BY 1": ((), ("range",)),
}
"""Queries, with what must be found in the tree of each: what writes, and table functions."""

_EXPLAIN = re.compile(
    r"(?:\s|--[^\n]*(?:\n|$)|/\*[^*/]*\*/)*explain\s+(?:analy[sz]e\s+)?(?:\(\s*(?:analy[sz]e|format\s+[a-z]+)"
    r"(?:\s*,\s*(?:analy[sz]e|format\s+[a-z]+))*\s*\)\s*)?",
    re.IGNORECASE,
)
"""How a statement begins that only shows how another would be answered, or was."""

# Queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What the tree of one query shows."""

    problem: str = ""
    """DuckDB's words, where it has no tree of the query."""
    writing: tuple[str, ...] = ()
    """What in it does more than read, as its users call it: ``COPY``."""
    functions: tuple[str, ...] = ()
    """Table functions that it calls, in small letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the tree of one query names; all in small letters."""

    tables: frozenset[str]
    """Tables and views, and whatever it calls its own by ``WITH``."""
    own: frozenset[str]
    """Those that it defines by ``WITH``."""
    words: frozenset[str] | None
    """All names and texts in it, columns among them; None where columns need no name to be asked for."""
    calls: frozenset[str]
    """Functions that it calls."""


def statements(connection: Connection, sql: str) -> list[tuple[str, str, bool]]:
    """Each statement of `sql`: what its kind is called, its text, and whether it is a SELECT.

    Raises:
        duckdb.Error: it cannot be parsed.
        QueryError: this DuckDB does not say what kind a statement is of.
    """
    try:
        kinds = duckdb.StatementType
        found = connection.extract_statements(sql)
        return [(_spoken(one.type.name), one.query, one.type == kinds.SELECT) for one in found]
    except AttributeError as error:
        raise _unread(f"it does not say the kinds of statements ({error})") from error


def asked(connection: Connection, query: str) -> Asked | None:
    """What a SELECT asks for, by its tree; None where that cannot be told: then it may be anything."""
    try:
        answer = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
        nodes = list(_all_nodes(json.loads(answer)["statements"]))
        tables = {_lower(node["table_name"]) for node in nodes if node.get("type") == "BASE_TABLE"}
        calls = {_lower(node["function_name"]) for node in nodes if "function_name" in node}
        own = {_lower(one["key"]) for node in nodes if "cte_map" in node for one in node["cte_map"]["map"]}
        if any(node.get("show_type") == "SHOW_SPECIAL" for node in nodes):
            return None
        names = tables | own | {_lower(node["alias"]) for node in nodes if node.get("alias")}
        is_open = any(_takes_all(node, names) for node in nodes)
    except (LookupError, TypeError, ValueError, AttributeError, duckdb.Error):
        return None
    words = None if is_open else frozenset(_lower(text) for node in nodes for text in _texts(node))
    return Asked(tables=frozenset(tables), own=frozenset(own), words=words, calls=frozenset(calls))


def _takes_all(node: Mapping[str, Any], names: set[str]) -> bool:
    """Whether a part of a tree asks for columns that it does not name; `names` are those of tables."""
    if node.get("class") in ("STAR", "POSITIONAL_REFERENCE") or node.get("type") in ("SHOW_REF", "PIVOT"):
        return True
    if node.get("ref_type") == "NATURAL" or node.get("column_name_alias"):
        return True
    path = node.get("column_names")
    # A table's name alone is a row with all of its columns.
    return path is not None and _lower(path[-1]) in names


def _texts(node: Mapping[str, Any]) -> Iterator[str]:
    for value in node.values():
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _all_nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every part of a tree; but the star of ``ORDER BY ALL``, which is no column that is not named."""
    if isinstance(tree, dict):
        yield tree
        tree = [one for key, one in tree.items() if not (key == "expression" and _is_all(tree))]
    if isinstance(tree, list):
        for item in tree:
            yield from _all_nodes(item)


def _is_all(order: Mapping[str, Any]) -> bool:
    star = order["expression"]
    return "null_order" in order and star.get("class") == "STAR" and star["query_location_length"] == 0


def _lower(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no name")
    return name.casefold()


def explained_select(connection: Connection, query: str) -> str | None:
    """The SELECT that an EXPLAIN, with or without ANALYZE, is of; None where it is of anything else."""
    begins = _EXPLAIN.match(query)
    if begins is None:
        return None
    try:
        found = statements(connection, query[begins.end() :])
    except duckdb.Error:
        return None
    return found[0][1] if len(found) == 1 and found[0][2] else None


def _spoken(kind: str) -> str:
    return _SPOKEN.get(kind, kind)


def parsed(connection: Connection, query: str) -> Parsed:
    """What a SELECT does, by its tree.

    Raises:
        QueryError: this DuckDB gives no tree, or one in a form that is not known.
    """
    for one, (writing, functions) in _TRIES.items():
        shown = _parsed(connection, one)
        if (shown.writing, shown.functions) != (writing, functions):
            raise _unread(f"of {one!r} it shows {shown}")
    return _parsed(connection, query)


def _parsed(connection: Connection, query: str) -> Parsed:
    try:
        answer = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
        tree = json.loads(answer)
        if tree["error"]:
            return Parsed(problem=str(tree["error_message"]))
        whole = [one["node"]["type"] for one in tree["statements"]]
        nodes = list(_nodes(tree["statements"]))
        functions = tuple(_function(node) for node in nodes if node["type"] == "TABLE_FUNCTION")
    except duckdb.CatalogException as error:
        raise _unread(str(error).splitlines()[0]) from error
    except (LookupError, TypeError, ValueError) as error:
        raise _unread(f"its tree lacks what was there ({type(error).__name__}: {error})") from error
    kinds = [*whole, *(node["type"] for node in nodes)]
    writing = [_said(kind) for kind in kinds if kind not in _READING and kind.endswith(_ENDS)]
    if not whole or (unknown := [k for k in kinds if k not in _READING and not k.endswith(_ENDS)]):
        raise _unread(f"a query has a part {unknown[0]!r}" if whole else "a query has no parts")
    return Parsed(writing=tuple(dict.fromkeys(writing)), functions=functions)


def _said(kind: str) -> str:
    for end in _ENDS:
        kind = kind.removesuffix(end)
    return kind.replace("_", " ")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Everything in a tree that has a kind, but for expressions."""
    if isinstance(tree, dict):
        if isinstance(tree.get("type"), str) and "class" not in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)


def _function(node: Mapping[str, Any]) -> str:
    name = node["function"]["function_name"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"a table function is called {name!r}")
    return name.lower()


def _unread(what: str) -> QueryError:
    return QueryError(
        f"no query is answered: whether DuckDB {duckdb.__version__} would only read cannot be told ({what});"
        ' install one that swapyard knows: pip install "duckdb>=2.0,<2.1"'
    )


# Connections


def limit(connection: Connection, num_bytes: int, folder: str | None) -> None:
    """Bound the memory of a connection; what does not fit goes to a `folder` of its own, if there is one.

    Of a connection that is locked afterwards DuckDB lets queries reach that folder, too.

    Raises:
        QueryError: this DuckDB cannot be limited so.
    """
    try:
        connection.execute("SET memory_limit = ?", [f"{num_bytes}B"])
        connection.execute("SET temp_directory = ?", [folder or ""])
    except duckdb.Error as error:
        raise QueryError(
            f"no query is answered: the memory of DuckDB {duckdb.__version__} cannot be limited"
            f' ({str(error).splitlines()[0]}); install one whose can: pip install "duckdb>=2.0,<2.1"'
        ) from error


def lock(connection: Connection, folders: Sequence[str]) -> None:
    """Let a connection reach files in `folders` and nothing else, for good.

    Raises:
        QueryError: this DuckDB cannot be locked so.
    """
    _set(connection, "SET allowed_directories = ?", [list(folders)])
    confine(connection)
    _set(connection, "SET lock_configuration = true")
    # A locked one takes no setting any more, this one neither.
    if _succeeds(connection, "SET lock_configuration = true"):
        raise _unlocked("it can be opened again")


def confine(connection: Connection) -> None:
    """Let a connection reach no files but those that it was allowed.

    Raises:
        QueryError: this DuckDB cannot be confined so.
    """
    _set(connection, "SET enable_external_access = false")
    if _succeeds(connection, "SELECT size FROM read_text(?)", [__file__]):
        raise _unlocked("it reads other files")


def _set(connection: Connection, statement: str, values: Sequence[Any] = ()) -> None:
    try:
        connection.execute(statement, list(values))
    except duckdb.Error as error:
        raise _unlocked(str(error).splitlines()[0]) from error


def _succeeds(connection: Connection, statement: str, values: Sequence[Any] = ()) -> bool:
    try:
        connection.execute(statement, list(values))
    except duckdb.Error:
        return False
    return True


def _unlocked(what: str) -> QueryError:
    return QueryError(
        f"no query is answered: DuckDB {duckdb.__version__} cannot be kept from other files ({what});"
        ' install one that can: pip install "duckdb>=2.0,<2.1"'
    )


def file_value(values: Sequence[str]) -> str:
    """SQL of the value, of one for each file of a ``read_parquet`` in order, of the file that a row is of."""
    return f"[{', '.join(values)}][file_index::BIGINT + 1]"


# Errors


def unknown_column(message: str) -> str | None:
    """Name of the column that is not there, of which `message` complains; None where it does not."""
    found = _UNKNOWN_COLUMN.search(message)
    return None if found is None else found[1] or found[2]


def unknown_table(message: str) -> str | None:
    """Name of the table that is not there, likewise."""
    found = _UNKNOWN_TABLE.search(message)
    return None if found is None else found[1]


def pointer(lines: Sequence[str]) -> Sequence[str]:
    """The two lines of a message that show where in the query it is; none where it has none."""
    at = next((i for i, line in enumerate(lines) if line.startswith(_POINTER)), len(lines))
    return lines[at : at + 2]


def is_passed_on(error: OSError) -> bool:
    """Whether it is an error of DuckDB's that Arrow's readers pass on: one of the system has a number."""
    return error.errno is None


def is_interruption(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is of a query that was interrupted."""
    while error is not None:
        if isinstance(error, duckdb.InterruptException):
            return True
        if isinstance(error, OSError) and is_passed_on(error) and _INTERRUPTED in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# What is tried by `make versions`


def _probe_tree() -> str | None:
    shown = parsed(duckdb.connect(), "FROM range(3) LIMIT 1")
    if shown != Parsed(functions=("range",)):
        raise LookupError(f"a query that reads is shown as {shown}")
    return None


def _probe_kinds() -> str | None:
    found = [kind for kind, _, _ in statements(duckdb.connect(), "SELECT 1; CREATE TABLE t (a INT)")]
    if found != ["SELECT", "CREATE"]:
        raise LookupError(f"kinds of statements are {found}")
    pivot = "CREATE TABLE t (a INT, b INT); PIVOT t ON a USING sum(b)"
    kinds = [kind for kind, _, _ in statements(duckdb.connect(), pivot)]
    return None if _SPOKEN["MULTI"] in kinds else f"a PIVOT without IN is called {kinds[-1]}"


def _probe_settings() -> str | None:
    lock(duckdb.connect(), [])
    return None


def _message(sql: str) -> str:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (a INT)")
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        return str(error)
    raise LookupError(f"{sql!r} is no error")


def _probe_limit() -> str | None:
    connection = duckdb.connect()
    limit(connection, 64 * 10**6, None)
    try:
        connection.execute("SELECT count(*) FROM (SELECT range, count(*) FROM range(10000000) GROUP BY 1)")
    except duckdb.OutOfMemoryException:
        return None
    return "a query takes more memory than it may"


def _probe_interruption() -> str | None:
    connection = duckdb.connect()
    relation = connection.sql("SELECT count(*) FROM range(1000000000000) t(a) WHERE hash(a) = 0")
    timer = threading.Timer(0.05, connection.interrupt)
    timer.start()
    try:
        relation.fetchall()
    except duckdb.Error as error:
        return None if is_interruption(error) else "a query that was interrupted looks like one that failed"
    finally:
        timer.join()
    raise LookupError("a query cannot be interrupted")


def _probe_explain() -> str | None:
    connection = duckdb.connect()
    text = "EXPLAIN (ANALYZE, FORMAT json) SELECT 1"
    kinds = [kind for kind, _, _ in statements(connection, text)]
    if kinds != ["EXPLAIN"] or explained_select(connection, text) != "SELECT 1":
        raise LookupError(f"an EXPLAIN is shown as {kinds}")
    return None


def _probe_file_index() -> str | None:
    connection = duckdb.connect()
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{number}.parquet" for number in range(2)]
        for number, file in enumerate(files):
            connection.execute(f"COPY (SELECT {number} AS n) TO '{file}' (FORMAT parquet)")
        value = file_value(["10", "20"])
        found = connection.execute(f"SELECT n, {value} FROM read_parquet(?) ORDER BY n", [files]).fetchall()
    return None if found == [(0, 10), (1, 20)] else f"rows are told to be of other files: {found}"


def _probe_texts() -> str | None:
    lost: list[str] = []
    column, table = _message("SELECT b FROM t"), _message("SELECT * FROM u")
    if unknown_column(column) != "b":
        lost.append("the nearest column")
    if unknown_table(table) != "u":
        lost.append("the nearest table")
    if not pointer(column.splitlines()):
        lost.append("where in the query it is")
    return f"messages do not say {', '.join(lost)}" if lost else None


def _probe_passed_on() -> str | None:
    relation = duckdb.connect().sql("SELECT CAST(a AS INT) FROM (VALUES ('1'), ('x')) t(a)")
    try:
        relation.to_arrow_reader(10).read_all()
    except duckdb.Error:
        return None
    except OSError as error:
        return None if is_passed_on(error) else "errors of a query look like errors of the disk"
    raise LookupError("a query that fails while its rows are fetched is no error")


_SEEN = "2.0.0 to 2.0.1"

PLACES = (
    Place(
        library="duckdb",
        name="json_serialize_sql, and the kinds in its tree",
        used_for="refusing queries that do more than read",
        seen_with=_SEEN,
        without="no query is answered, and the message says why",
        marks=("json_serialize_sql", "SELECT_NODE", '"function_name"', "SHOW_REF"),
        probe=_probe_tree,
    ),
    Place(
        library="duckdb",
        name="extract_statements, StatementType and the names of its kinds",
        used_for="refusing all but one SELECT",
        seen_with=_SEEN,
        without="no query is answered, and the message says why; a kind of another name is told by that name",
        marks=("extract_statements", "StatementType", '"MULTI"'),
        probe=_probe_kinds,
    ),
    Place(
        library="duckdb",
        name="allowed_directories, enable_external_access, lock_configuration",
        used_for="a connection that reaches the studies' rows and nothing else",
        seen_with=_SEEN,
        without="no query is answered, and the message says why: whether they hold is tried each time",
        marks=("allowed_directories", "enable_external_access", "lock_configuration"),
        probe=_probe_settings,
    ),
    Place(
        library="duckdb",
        name="memory_limit, temp_directory",
        used_for="a query that takes no more memory than it may",
        seen_with=_SEEN,
        without="no query is answered where they cannot be set; whether they hold is tried here alone",
        marks=("memory_limit", "temp_directory"),
        probe=_probe_limit,
    ),
    Place(
        library="duckdb",
        name="InterruptException, and its text where Arrow passes it on",
        used_for="a query that takes no longer than it may",
        seen_with=_SEEN,
        without="a query ends in time, in words of DuckDB's",
        marks=("InterruptException", "INTERRUPT Error"),
        probe=_probe_interruption,
    ),
    Place(
        library="duckdb",
        name="how an EXPLAIN begins",
        used_for="letting an EXPLAIN of a query through, and nothing else",
        seen_with=_SEEN,
        without="EXPLAIN is refused",
        marks=("explain\\s+",),
        probe=_probe_explain,
    ),
    Place(
        library="duckdb",
        name="file_index, which tells of which file a row is",
        used_for="reading many studies as one",
        seen_with=_SEEN,
        without="studies are read one by one, which takes longer",
        marks=("file_index",),
        probe=_probe_file_index,
    ),
    Place(
        library="duckdb",
        name="texts of errors about unknown columns and tables, and the line that points",
        used_for="the nearest spelling, and the views that have a column",
        seen_with=_SEEN,
        without="DuckDB's own line is shown, without these",
        marks=("Referenced column", "Table with name", '"LINE "'),
        probe=_probe_texts,
    ),
    Place(
        library="duckdb",
        name="an OSError without a number for what fails while Arrow fetches rows",
        used_for="telling a query's error from one of the disk",
        seen_with=_SEEN,
        without="the error is shown as one of the system",
        marks=("errno is None", "errno is not None"),
        probe=_probe_passed_on,
    ),
)
