"""Trees of DuckDB's queries, and what they say: what a query does, and what it asks for.

What a query may do is decided by its parsed tree. Where the tree is not of the form that is known here, a
query is refused, never let through: kinds are listed that only read, and the trees of queries that write must
show that they do.
"""

__all__ = ["PLACES", "Asked", "Parsed", "asked", "explained_select", "parsed", "statements"]

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from workers.errors import QueryError
from workers.libraries import LibraryPlace

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
"""Beginnings of statements that only show how another would be answered, or was."""
_OPEN = (
    "FROM t",
    "SELECT t.* FROM t",
    "SELECT COLUMNS('a') FROM t",
    "SELECT r FROM t r",
    "SELECT a FROM t AS r(a)",
    "SELECT a FROM t NATURAL JOIN u",
    "SELECT #1 FROM t",
    "DESCRIBE t",
    "PIVOT t ON a IN (1) USING sum(b)",
)
"""Queries that ask for columns without naming them."""
_NAMING = "WITH w AS (SELECT c FROM t) SELECT f(a) FROM w JOIN u USING (b) ORDER BY ALL"
"""One that names all that it asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """Effects of one query, by its tree."""

    problem: str = ""
    """DuckDB's words, where it has no tree of the query."""
    writing: tuple[str, ...] = ()
    """Part of it that does more than read, as its users call it: ``COPY``."""
    functions: tuple[str, ...] = ()
    """Table functions that it calls, in small letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Names in the tree of one query; all in small letters."""

    tables: frozenset[str]
    """Tables and views, and whatever it calls its own by ``WITH``."""
    own: frozenset[str]
    """Names that it defines by ``WITH``."""
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
    """Names that a SELECT asks for, by its tree; None where that cannot be told: then it may be anything.

    Whether trees are of the form that is known is tried each time: of a star in another form a query would be
    answered without its columns.
    """
    if any((shown := _asked(connection, one)) is None or shown.words is not None for one in _OPEN):
        return None
    plain = _asked(connection, _NAMING)
    if plain is None or plain.words is None or not plain.words >= {"a", "b", "c", "u"}:
        return None
    if (sorted(plain.tables), sorted(plain.own), sorted(plain.calls)) != (["t", "u", "w"], ["w"], ["f"]):
        return None
    return _asked(connection, query)


def _asked(connection: Connection, query: str) -> Asked | None:
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


def _texts(node: Mapping[str, object]) -> Iterator[str]:
    for value in node.values():
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _all_nodes(tree: object) -> Iterator[dict[str, Any]]:
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


def _lower(name: object) -> str:
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
    """Effects of a SELECT, by its tree.

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


def _nodes(tree: object) -> Iterator[dict[str, object]]:
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


def _probe_explain() -> str | None:
    connection = duckdb.connect()
    text = "EXPLAIN (ANALYZE, FORMAT json) SELECT 1"
    kinds = [kind for kind, _, _ in statements(connection, text)]
    if kinds != ["EXPLAIN"] or explained_select(connection, text) != "SELECT 1":
        raise LookupError(f"an EXPLAIN is shown as {kinds}")
    return None


_SEEN = "2.0.0 to 2.0.1"

PLACES = (
    LibraryPlace(
        library="duckdb",
        name="json_serialize_sql, and the kinds in its tree",
        used_for="refusing queries that do more than read",
        seen_with=_SEEN,
        without="no query is answered, and the message says why",
        marks=("json_serialize_sql", "SELECT_NODE", '"function_name"', "SHOW_REF"),
        probe=_probe_tree,
    ),
    LibraryPlace(
        library="duckdb",
        name="extract_statements, StatementType and the names of its kinds",
        used_for="refusing all but one SELECT",
        seen_with=_SEEN,
        without="no query is answered, and the message says why; a kind of another name is told by that name",
        marks=("extract_statements", "StatementType", '"MULTI"'),
        probe=_probe_kinds,
    ),
    LibraryPlace(
        library="duckdb",
        name="how an EXPLAIN begins",
        used_for="letting an EXPLAIN of a query through, and nothing else",
        seen_with=_SEEN,
        without="EXPLAIN is refused",
        marks=("explain\\s+",),
        probe=_probe_explain,
    ),
)
