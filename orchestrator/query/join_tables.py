"""Tables that a study's rows are joined with: pairs, cells, clean runs, as narrow as a query allows."""

__all__ = ["one_position", "sides", "tie_bound"]

from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.query.needs import QueryNeeds
from orchestrator.query.tables import StudyTables
from workers.libraries.duckdb import literal
from workers.tolerances import AGREEMENT

_RUN_VALUES = ("label_logit", "base_label_logit", "logsumexp", "label_rank", "base_label_rank", "pred_id")


def sides(prefix: str, made: StudyTables, needs: QueryNeeds) -> list[str]:
    """The statements that make them: ``p`` of pairs, ``c`` of cells and ``q`` of unintervened runs."""
    return [
        *_pair_sides(prefix, made, needs),
        *([_reads(prefix)] if needs.clean_runs else []),
        *_cell_sides(prefix, made, needs),
        _run_sides(prefix, f"read::{prefix}reads" if needs.clean_runs else "read"),
    ]


class _Side(NamedTuple):
    """Column of a table that rows are joined with."""

    value: str
    kind: str
    """Its type where it is left out, and NULL."""
    is_needed: bool


def _side(table: str, columns: Mapping[str, _Side], source: str) -> list[str]:
    """The statements that make a table that has the columns that are needed, and NULL for the others."""
    needed = ", ".join(f"{one.value} AS {name}" for name, one in columns.items() if one.is_needed)
    lacking = "".join(f", NULL::{one.kind} AS {name}" for name, one in columns.items() if not one.is_needed)
    if not lacking:
        return [f"CREATE TABLE {table} AS SELECT {needed} {source}"]
    return [
        f"CREATE TABLE {table}_ AS SELECT {needed} {source}",
        f"CREATE VIEW {table} AS SELECT *{lacking} FROM {table}_",
    ]


def _pair_sides(prefix: str, made: StudyTables, needs: QueryNeeds) -> list[str]:
    has_one = "list_sort(list_distinct(i.label_ids)) = list_sort(list_distinct(i.base_label_ids))"
    number = "(dense_rank() OVER (ORDER BY i.pair_id) - 1)::INTEGER"
    own = {
        column: _Side(f"g.{column}", "VARCHAR", needs.given(name) or needs.axes)
        for name, column in made.given.items()
        if column != "NULL"
    }
    columns = {
        **{name: _Side(f"i.{name}", "", True) for name in ("lane", "pair", "class")},
        "pair_id": _Side("i.pair_id", "UUID", needs.names("pair_id", "job_id")),
        "base_tokens": _Side("i.base_tokens", "VARCHAR[]", needs.names("base_tokens")),
        "label_ids": _Side("i.label_ids", "INTEGER[]", needs.names("iia")),
        "label_id": _Side("i.label_ids[1]", "INTEGER", needs.names("label_id", "iia")),
        "base_label_id": _Side("i.base_label_ids[1]", "INTEGER", needs.names("base_label_id")),
        "has_one_label": _Side(has_one, "BOOLEAN", needs.names("flip")),
        "number": _Side(number, "INTEGER", needs.words is None),
        **own,
    }
    source = f"FROM {prefix}inputs i JOIN {prefix}pairs g ON g.given = i.given WHERE i.kept"
    return _side(f"{prefix}p", columns, source)


def _cell_sides(prefix: str, made: StudyTables, needs: QueryNeeds) -> list[str]:
    axes = {
        column: _Side(f"p.{column}", "VARCHAR", needs.axes or needs.given(axis))
        for axis, column in made.axes.items()
        if column != "NULL"
    }
    models = {
        name: _Side(f"l.{name}", "VARCHAR", needs.axes or needs.names(name, *also))
        for name, *also in (("model",), ("dtype", "near_tie"), ("revision",))
    }
    places = {
        name: _Side(f"c.{name}", kind, needs.places)
        for name, kind in (
            ("symbolic", "VARCHAR"),
            ("base_positions", "INTEGER[]"),
            ("source_positions", "INTEGER[]"),
        )
    }
    columns = {
        "study": _Side("l.study", "VARCHAR", needs.axes or needs.names("study")),
        **{name: _Side(f"g.{name}", "", True) for name in ("class", "cell")},
        "lane": _Side("p.lane", "USMALLINT", needs.words is None),
        "block": _Side("p.block", "VARCHAR", needs.axes or needs.names("block")),
        **axes,
        **models,
        "cell_id": _Side("c.cell_id", "UUID", needs.names("cell_id", "job_id")),
        "read_at": _Side(f"c.read::{prefix}reads", "VARCHAR", needs.clean_runs),
        **places,
        # Of each cell once, and not of each of its rows.
        "base_position": _Side(one_position("c.base_positions"), "INTEGER", needs.places),
        "tie_bound": _Side(tie_bound("l"), "DOUBLE", needs.names("near_tie")),
    }
    if made.study is not None:
        del columns["study"]
    used = {one.value[0] for one in columns.values() if one.is_needed}
    source = f"FROM {prefix}grid g"
    # Each point of the grid has its cell and its model: where nothing is asked of them, nothing is joined.
    if used & {"p", "l"}:
        source += f" JOIN {prefix}points p ON p.point = g.point JOIN {prefix}lanes l ON l.lane = p.lane"
    if "c" in used:
        source += f" JOIN {prefix}cells c ON c.cell = g.cell"
    return _side(f"{prefix}c", columns, source)


def _reads(prefix: str) -> str:
    """The type of where cells read: a number, for each row is joined by it, and not the text."""
    found = f"SELECT read FROM {prefix}cells UNION SELECT read FROM {prefix}runs UNION SELECT ''"
    return f"CREATE TYPE {prefix}reads AS ENUM (SELECT read FROM ({found}) WHERE read IS NOT NULL ORDER BY 1)"


def _run_sides(prefix: str, read: str) -> str:
    """One row for each lane, pair and read, with the base run's and the source run's values."""
    columns = ", ".join(
        f"any_value({value}) FILTER (run = '{run}') AS {run}_run_{value}"
        for run in ("base", "source")
        for value in _RUN_VALUES
    )
    return f"""CREATE TABLE {prefix}q AS
        SELECT lane, pair, {read} AS read_at, {columns} FROM {prefix}runs GROUP BY ALL"""


def one_position(positions: str) -> str:
    """The only one of a list of positions; NULL where there are several."""
    return f"CASE WHEN len({positions}) = 1 THEN {positions}[1] END"


def tie_bound(lane: str) -> str:
    """Bound below which the order of two choices in a model's dtype depends on the shape of the forward."""
    bounds = " ".join(f"WHEN {literal(dtype)} THEN {bound!r}" for dtype, bound in AGREEMENT.items())
    return f"CASE {lane}.dtype {bounds} END"
