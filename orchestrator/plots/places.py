"""Positions as places of an axis: those of cells with several units too, in the prompt's order.

``base_position`` is NULL where a cell changes several tokens of the base, as in causal tracing, where noise
lies on the subject and one state is put back. Such a cell is drawn where its ``position`` was written, or
else at the positions in which it differs from the others.
"""

__all__ = ["BASE_POSITION", "key_sql", "places_of", "prompt_order"]

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import duckdb

from orchestrator.query import explained, run_query
from orchestrator.views.names import quoted
from studies.blocks import AXES

BASE_POSITION = "base_position"
_OF_JOBS = ("results", "scores", "activations")
_NO_PLACES = {*AXES, "study", "dtype", "revision", "block", "role", "fit_rank", BASE_POSITION} - {"position"}
"""Columns whose values do not lie in a prompt; an axis that a study named itself may."""
_LIST = "at "
"""What the text of several positions begins with."""


def key_sql(key: str, view: str, columns: Collection[str]) -> str:
    """A plot's column or expression as a key of its query over a view with these columns.

    Args:
        key: as the plot has it; a column may be called as a word of SQL, such as ``from``.
        view: the plot's.
        columns: the view's.
    """
    if key == BASE_POSITION and view in _OF_JOBS:
        written = "position::VARCHAR, " if "position" in columns else ""
        several = f"'{_LIST}' || array_to_string(base_positions, ', ')"
        return f"coalesce(base_position::VARCHAR, {written}{several})"
    return quoted(key) if key in columns else f"({key})"


def places_of(keys: Collection[Any]) -> dict[Any, Any]:
    """What `key_sql` gave for base positions, as numbers where one position tells them apart."""
    lists = {key: _numbers(key) for key in keys if isinstance(key, str)}
    tried = {key: numbers for key, numbers in lists.items() if numbers}
    shared = set.intersection(*map(set, tried.values())) if len(tried) > 1 else set()
    own = {key: [at for at in numbers if at not in shared] or numbers for key, numbers in tried.items()}
    if len({tuple(one) for one in own.values()}) < len(own):
        own = tried
    named = {key: one[0] if len(one) == 1 else ", ".join(map(str, one)) for key, one in own.items()}
    return {key: named.get(key, key) for key in keys}


def _numbers(key: str) -> list[int]:
    """The positions that a key names; none of a word."""
    try:
        return [int(part) for part in key.removeprefix(_LIST).split(", ")]
    except ValueError:
        return []


def prompt_order(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    where: str | None,
    key: str,
    values: Collection[Any],
    columns: Collection[str],
) -> Mapping[Any, float] | None:
    """How far into the base prompt each of an axis' values lies, on average over its pairs.

    None where the values lie nowhere, or are in order as they are: they are numbers from the beginning.
    """
    if view not in _OF_JOBS or key in _NO_PLACES - {BASE_POSITION} or "base_positions" not in columns:
        return None
    if all(value is None or (isinstance(value, int | float) and value >= 0) for value in values):
        return None
    if key not in columns or (key != BASE_POSITION and not _are_places(connection, view, where, key)):
        return None
    said = key_sql(key, view, columns)
    rows = _fetch(
        connection,
        f"SELECT {said}, avg(list_avg(base_positions)) FROM {view}{_where(where)} GROUP BY 1",
    )
    named = places_of([value for value, _ in rows]) if key == BASE_POSITION else {}
    return {named.get(value, value): at for value, at in rows if at is not None}


def _are_places(connection: duckdb.DuckDBPyConnection, view: str, where: str | None, key: str) -> bool:
    """Whether an axis' values say where in the prompt a cell is: one place each, and not all the same."""
    if key == "position":
        return True
    column = quoted(key)
    rows = _fetch(
        connection,
        f"SELECT max(n), count(DISTINCT place) FROM (SELECT {column}, count(DISTINCT base_positions) AS n,"
        f" any_value(base_positions) AS place FROM {view}{_where(where)} GROUP BY {column}, pair_id)",
    )
    return bool(rows[0][0] == 1 and rows[0][1] > 1)


def _where(where: str | None) -> str:
    return f" WHERE ({where})" if where else ""


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> Sequence[tuple[Any, ...]]:
    relation = run_query(connection, sql)
    with explained(connection):
        return relation.fetchall()
