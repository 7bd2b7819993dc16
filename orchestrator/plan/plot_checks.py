"""Plots of a study, checked against the views that its plan will have: before the run, not after it.

The views are made of the plan with no rows, so that DuckDB binds what a plot asks for as it will later.
Nothing is drawn, and matplotlib is not loaded.
"""

__all__ = ["LOG", "check_plots", "plot_notes"]

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from orchestrator.plan.conditions import condition_problem, listed
from orchestrator.plan.tables import Plan
from orchestrator.query.connection import connect_plan
from orchestrator.query.statements import explained, run_query
from studies import Study
from studies.language.results import Plot
from studies.names import RESULT_COLUMNS
from studies.problems import shown
from workers.errors import QueryError, StudyError, nearest
from workers.libraries.duckdb import quoted
from workers.libraries.duckdb_expressions import expression

LOG: Mapping[str, str] = {"heatmap": "fill", "bars": "y"}
"""Key of each kind of plot that may be on a logarithmic scale."""
RECOVERED = "recovered"
"""A value that is no column: the share of the effect recovered."""
_TEXT = ("VARCHAR", "UUID")
_VIEW_OF = {"curves": "curves", "alignment": "results"}
"""The views of plots that name none."""


def check_plots(study: Study, plan: Plan, name: str) -> None:
    """Refuse plots of `study` that cannot be drawn of `plan`, whatever its rows will be.

    Args:
        study: as it was written.
        plan: what its views will be of.
        name: of the study.

    Raises:
        StudyError: a line for each fault, beginning with ``plots.NAME: KEY``.
    """
    if not study.plots:
        return
    connection = connect_plan(plan, Path(name))
    try:
        problems = [
            f"plots.{plot}: {text}"
            for plot, spec in study.plots.items()
            for text in _problems(study, connection, spec)
        ]
    finally:
        connection.close()
    if problems:
        raise StudyError("\n".join(problems))


def plot_notes(study: Study, plan: Plan) -> list[str]:
    """Plots of which it is seen already that they will show nothing: their ``where`` meets no cell.

    Raises:
        StudyError: a condition compares a cell's column with what it cannot be.
    """
    found: list[str] = []
    if not any(plot.where for plot in (study.plots or {}).values()):
        return found
    with duckdb.connect() as connection:
        connection.register("points", plan.tables["points"])
        for name, plot in (study.plots or {}).items():
            if plot.where is None or plot.view not in ("results", "scores", "cells") or plot.kind == "curves":
                continue
            begin = f"plots.{name}: where: {shown(plot.where)}"
            try:
                sql = f"SELECT count(*) FROM points WHERE ({plot.where}\n)"
                if not connection.execute(sql).fetchall()[0][0]:
                    found.append(f"{begin} meets no cell: nothing to draw")
            except duckdb.ConversionException as error:
                raise StudyError(f"{begin}: {str(error).splitlines()[0]}") from None
            except duckdb.Error:
                # It is about more than a cell's own columns, and cannot be answered yet.
                continue
    return found


def _problems(study: Study, connection: duckdb.DuckDBPyConnection, plot: Plot) -> Iterator[str]:
    view = _VIEW_OF.get(plot.kind, plot.view)
    columns = run_query(connection, f"FROM {view}").columns
    if (lacking := _nothing_in(study, view)) is not None:
        yield f"view: {view!r} stays empty: {lacking}"
    if plot.log not in (None, LOG.get(plot.kind)):
        yield f"log: {plot.log!r} cannot be drawn; {plot.kind} takes log: {LOG[plot.kind]}"
    values = "fill" if plot.kind == "heatmap" else "y"
    for key in ("x", "y", "facet"):
        if key != values:
            for item in _items(getattr(plot, key)):
                yield from _key_problems(connection, view, columns, key, item)
    if plot.kind in LOG:
        for item in _items(getattr(plot, values)):
            if item != RECOVERED:
                yield from _value_problems(connection, view, columns, values, item)
            elif "logit_diff" not in columns:
                yield f"{values}: {RECOVERED} is of the view results, and here is {view}"
    if plot.where is not None:
        problem = condition_problem(connection, plot.where, columns, f"the view {view}'s", view)
        if problem is None:
            problem = _bound(connection, f"SELECT 1 FROM {view} WHERE ({plot.where}\n)")
            problem = problem and f"where: {shown(plot.where)}: {problem}"
        if problem is not None:
            yield problem


def _nothing_in(study: Study, view: str) -> str | None:
    """Why a view will have no rows; None where it may have some."""
    if view == "screening" and study.screen is None:
        return "the study has no screen"
    if view == "curves" and not study.train:
        return "the study trains nothing"
    return None


def _key_problems(
    connection: duckdb.DuckDBPyConnection, view: str, columns: Sequence[str], key: str, item: str
) -> Iterator[str]:
    """Faults of a key of places along an axis, or of facets."""
    if item in columns:
        return
    if (text := _unknown(connection, view, columns, item)) is None:
        text = _bound(connection, f"SELECT ({item}\n), count(*) FROM {view} GROUP BY 1")
        text = text and f"{shown(item)}: {text}"
    if text is not None:
        yield f"{key}: {text}"


def _value_problems(
    connection: duckdb.DuckDBPyConnection, view: str, columns: Sequence[str], key: str, item: str
) -> Iterator[str]:
    """Faults of a value, which is averaged, or an aggregate itself."""
    if (text := _unknown(connection, view, columns, item)) is None:
        own = quoted(item) if item in columns else item
        if (
            item in RESULT_COLUMNS
            and str(run_query(connection, f"SELECT {own} FROM {view}").types[0]) in _TEXT
        ):
            yield f"{key}: {item!r} is text, which has no mean; take a number, or count(DISTINCT {item})"
            return
        text = _bound(connection, f"SELECT avg(({own}\n)::DOUBLE) FROM {view}")
        if text is not None and _bound(connection, f"SELECT ({own}\n)::DOUBLE, count(*) FROM {view}") is None:
            return
        text = text and f"{shown(item)}: {text}"
    if text is not None:
        yield f"{key}: {text}"


def _unknown(
    connection: duckdb.DuckDBPyConnection, view: str, columns: Sequence[str], item: str
) -> str | None:
    """The first column of an expression that the view does not have, with the nearest that it has."""
    known = {name.casefold() for name in (*columns, view)}
    for name in expression(connection, item).columns:
        if name.casefold() not in known:
            there = f"the view {view} has no column {name!r}; it has {listed(columns)}"
            return there + nearest(name, (*columns, RECOVERED))
    return None


def _bound(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Complaint of DuckDB about a query; None where it can be answered."""
    try:
        relation = run_query(connection, sql)
        with explained(connection):
            relation.fetchall()
    except QueryError as error:
        return str(error).splitlines()[0]
    return None


def _items(written: str | Sequence[str] | None) -> Sequence[str]:
    return () if written is None else (written,) if isinstance(written, str) else tuple(written)
