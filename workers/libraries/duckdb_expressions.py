"""Expressions of one row, by DuckDB's trees and its list of functions: what they call, and what may differ.

A condition decides which pairs are in a study, so that it must mean the same whenever it is asked: functions
that are called have to be listed as consistent, and what looks at other rows has no place in it.
"""

__all__ = ["PLACES", "WITHOUT_BRACKETS", "Expression", "expression"]

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from workers.errors import QueryError
from workers.libraries import LibraryPlace

Connection = duckdb.DuckDBPyConnection

_ELSEWHERE = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "DEFAULT": "DEFAULT",
}
"""Classes of an expression's parts that ask for more than one row, and what their users call them."""
_CLOCKS = {"age": 1}
"""Functions that look at a clock where they have so many arguments, and are listed as consistent."""
WITHOUT_BRACKETS = frozenset(
    (
        *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"),
        *("user", "current_user", "session_user", "current_role", "current_schema", "current_catalog"),
    )
)
"""Functions of the clock and of the session that are called like columns, where there is no such column."""
_FUNCTION, _LAMBDA, _COLUMN = "FUNCTION", "LAMBDA", "COLUMN_REF"
_SPOKEN = {"count_star": "count"}
_LISTED = (
    "SELECT function_type, stability, macro_definition FROM duckdb_functions()"
    " WHERE lower(function_name) = lower(?)"
)
_CHANGES = "a function whose answer may be another one each time"
_DEEPEST = 8
"""Macros within macros that are looked into; none of DuckDB's own are so deep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """Reading of one expression of SQL."""

    problem: str = ""
    """DuckDB's words, where it is none."""
    columns: tuple[str, ...] = ()
    """Columns as it writes them, the first part of each; none where it has parameters of its own."""
    texts: tuple[str, ...] = ()
    """Constants of text."""
    refused: tuple[str, ...] = ()
    """Parts of it that may give another answer another time, or ask for more than one row, in words."""


def expression(connection: Connection, text: str) -> Expression:
    """Read `text` as one expression over the columns of a table.

    Raises:
        QueryError: this DuckDB gives no tree, or one in a form that is not known.
    """
    # The line break ends a comment at the end.
    asked = f"SELECT ({text}\n) FROM one_table"
    try:
        tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [asked]).fetchall()[0][0])
        if tree["error"]:
            return Expression(problem=str(tree["error_message"]).splitlines()[0])
        if not _is_one(tree["statements"]):
            return Expression(problem="this is more than one expression")
        nodes = list(_parts(tree["statements"][0]["node"]["select_list"]))
        refused = dict.fromkeys(why for node in nodes for why in _refused(connection, node))
        has_own = any(node.get("class") == _LAMBDA for node in nodes)
        named = [str(node["column_names"][0]) for node in nodes if node.get("class") == _COLUMN]
        return Expression(
            columns=() if has_own else tuple(dict.fromkeys(named)),
            texts=tuple(dict.fromkeys(_texts(nodes))),
            refused=tuple(refused),
        )
    except RecursionError:
        return Expression(problem="the expression is nested too deep")
    except duckdb.CatalogException as error:
        raise _unread(str(error).splitlines()[0]) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unread(f"its tree lacks what was there ({type(error).__name__}: {error})") from error


def _is_one(statements: Any) -> bool:
    """Whether it is a SELECT of one expression and nothing else."""
    if len(statements) != 1 or statements[0]["node"]["type"] != "SELECT_NODE":
        return False
    node = statements[0]["node"]
    others = ("modifiers", "where_clause", "group_expressions", "having", "sample", "qualify")
    return (
        len(node["select_list"]) == 1
        and not any(node.get(key) for key in others)
        and not node["cte_map"]["map"]
        and node["from_table"]["type"] == "BASE_TABLE"
        and node["from_table"]["table_name"] == "one_table"
    )


def _refused(connection: Connection, node: Mapping[str, Any]) -> Iterator[str]:
    """Reason why a part of an expression is not allowed."""
    kind = node.get("class")
    if kind in _ELSEWHERE:
        name = node.get("function_name")
        yield f"{name}(), {_ELSEWHERE[kind]}" if name else _ELSEWHERE[kind]
    if node.get("type") == "TABLE_FUNCTION":
        yield f"{node['function']['function_name']}(), a table function"
    elif kind == _FUNCTION:
        why = _unstable(connection, str(node["function_name"]), len(node.get("arguments") or ()), 0)
        if why:
            yield f"{_SPOKEN.get(node['function_name'], node['function_name'])}(), {why}"
    elif kind not in _ELSEWHERE and "function_name" in node and kind is not None:
        yield f"{node['function_name']}(), a window function"


def _unstable(connection: Connection, name: str, num_arguments: int, depth: int) -> str:
    """Why a function may give another answer another time; empty where it may not, or is not there."""
    listed = connection.execute(_LISTED, [name]).fetchall()
    kinds = {kind for kind, _, _ in listed}
    if not listed:
        return ""
    if "scalar" in kinds:
        stabilities = {stability for kind, stability, _ in listed if kind == "scalar"}
        changes = "VOLATILE" in stabilities or "CONSISTENT" not in stabilities
        is_clock = _CLOCKS.get(name.lower()) == num_arguments
        return _CHANGES if changes or is_clock else ""
    if "macro" in kinds:
        if depth == _DEEPEST:
            return "whose definition is too deep"
        for kind, _, definition in listed:
            why = _unstable_macro(connection, str(definition), depth) if kind == "macro" else ""
            if why:
                return why
        return ""
    if kinds & {"aggregate", "window"}:
        return "an aggregate" if "aggregate" in kinds else "a window function"
    return "a table function"


def _unstable_macro(connection: Connection, definition: str, depth: int) -> str:
    tree = json.loads(
        connection.execute("SELECT json_serialize_sql(?)", [f"SELECT ({definition}\n)"]).fetchall()[0][0]
    )
    if tree["error"]:
        return "whose definition cannot be read"
    for node in _parts(tree["statements"][0]["node"]["select_list"]):
        kind = node.get("class")
        if kind in _ELSEWHERE:
            return f"which has {_ELSEWHERE[kind]} in it"
        name = node.get("function_name") if kind == _FUNCTION else None
        if kind == _COLUMN and str(node["column_names"][0]).lower() in WITHOUT_BRACKETS:
            return _CHANGES
        why = _unstable(connection, str(name), len(node.get("arguments") or ()), depth + 1) if name else ""
        if why:
            return why
    return ""


def _texts(nodes: list[Mapping[str, object]]) -> Iterator[str]:
    for node in nodes:
        literal = node.get("literal")
        if node.get("class") == "CONSTANT" and isinstance(literal, Mapping) and literal["kind"] == "STRING":
            yield str(literal["text"])


def _parts(tree: object) -> Iterator[Mapping[str, Any]]:
    """Everything in a tree that has a class or a kind; a stack, for trees may be deep."""
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if "class" in found or isinstance(found.get("type"), str):
                yield found
            waiting.extend(reversed(list(found.values())))
        elif isinstance(found, list):
            waiting.extend(reversed(found))


def _unread(what: str) -> QueryError:
    return QueryError(
        f"no condition is answered: what it calls cannot be told of DuckDB {duckdb.__version__} ({what});"
        ' install one that swapyard knows: pip install "duckdb>=2.0,<2.1"'
    )


# What is tried by `make versions`


def _probe_expression() -> str | None:
    connection = duckdb.connect()
    found = expression(connection, "a = 'x' AND lower(b) = 'y' AND random() > max(c)")
    if (found.columns, found.texts) != (("a", "b", "c"), ("x", "y")):
        raise LookupError(f"an expression is shown as {found}")
    if [why.partition("(")[0] for why in found.refused] != ["random", "max"]:
        raise LookupError(f"of random() and max() it refuses {found.refused}")
    return None


PLACES = (
    LibraryPlace(
        library="duckdb",
        name="duckdb_functions() with function_type, stability and macro_definition",
        used_for="refusing conditions that may give another answer another time",
        seen_with="2.0.0 to 2.0.1",
        without="no condition is answered, and the message says why",
        marks=("duckdb_functions() WHERE", "macro_definition", '"COLUMN_REF"'),
        probe=_probe_expression,
    ),
)
