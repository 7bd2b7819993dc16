"""Axes of the views: what a study varies, so that no mean runs over one of them unseen.

The one home of what each column of a view is. The table at the end of a run, the named queries and the
pictures ask here which columns to group by, and how to say what they average over ("mean over 12 heads").

A connection's SQL variable ``axes`` lists the columns of ``results`` in which the studies that it sees
differ, so that a query that selects and groups by them merges nothing but pairs:

    SELECT COLUMNS(lambda c: list_contains(getvariable('axes'), c)), avg(iia), count(*)
    FROM results GROUP BY ALL
"""

__all__ = [
    "ColumnKind",
    "add_counted",
    "axes_view",
    "distinct",
    "distinct_pairs",
    "kinds_of_columns",
    "means_over",
    "model_columns",
    "over",
    "over_text",
    "set_axes",
    "varying",
]

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

import duckdb

from orchestrator.query.columns import said_by_pairs
from orchestrator.query.join_tables import one_position
from orchestrator.query.tables import StudyTables
from orchestrator.query.view_sql import axis_columns, pair_column
from studies.language.blocks import AXES
from studies.language.values import RANK
from studies.names import PAIR_COLUMNS
from workers.libraries.duckdb import literal, quoted
from workers.metrics import DERIVED, OBSERVED, RUN_VALUES


class ColumnKind(StrEnum):
    """Kind of a column of a view."""

    AXIS = "axis"
    """Axis that a study varies: a mean over it must say so."""
    IDENTITY = "identity"
    """Names one cell, pair, job, fit or training."""
    METRIC = "metric"
    """A number that was measured, or the choice that it was measured of."""
    LABEL = "label"
    """Description of a pair, or of a cell's positions in it: means run over pairs."""
    PROVENANCE = "provenance"
    """Circumstances in which something was made. Rows of all tiers agree, so a tier is no axis."""


def _columns(*kinds: tuple[ColumnKind, str]) -> Mapping[str, ColumnKind]:
    return MappingProxyType({name: kind for kind, names in kinds for name in names.split()})


_KINDS = _columns(
    (ColumnKind.AXIS, "study model dtype revision block base_position role collected_unit collected_token"),
    (ColumnKind.IDENTITY, "cell_id pair_id job_id fit training artifact units spec"),
    (ColumnKind.METRIC, " ".join(metric.name for metric in (*OBSERVED, *DERIVED))),
    (ColumnKind.METRIC, " ".join(f"{run}_run_{value}" for run in ("base", "source") for value in RUN_VALUES)),
    (ColumnKind.LABEL, " ".join(PAIR_COLUMNS)),
    (ColumnKind.LABEL, "base_positions source_positions base_tokens label_id base_label_id token"),
    (ColumnKind.LABEL, "tokens spans label_ids base_label_ids kept reason"),
    (ColumnKind.METRIC, "estimate logit logprob rank logsumexp pred_logit collected"),
    (ColumnKind.METRIC, "weight estimated_effect estimated_change exact_effect exact_change"),
    (ColumnKind.METRIC, "loss held_out_iia value error"),
    (ColumnKind.PROVENANCE, "tier tier_reason capability selected num_estimates num_exact num_jobs num_done"),
    (ColumnKind.PROVENANCE, "attempt error_type error_message path file tile k_lo k_hi families num_rows"),
    (
        ColumnKind.PROVENANCE,
        "num_failed num_resumed num_hooked num_rerun num_unchanged num_estimated total_s model_s",
    ),
    (ColumnKind.PROVENANCE, "capture_s size_bytes worker host num_pairs num_held_out made num_steps"),
    (ColumnKind.PROVENANCE, "num_parameters seconds status num_attempts resumed_from num_executed"),
)
"""The columns that views have whatever a study is."""

_OF_VIEW: Mapping[str, Mapping[str, ColumnKind]] = MappingProxyType(
    {
        "runs": _columns((ColumnKind.AXIS, "run read")),
        "fits": _columns((ColumnKind.AXIS, "name method site layer heads position read rank seed per")),
        "trainings": _columns((ColumnKind.AXIS, "name"), (ColumnKind.PROVENANCE, "step")),
        "curves": _columns((ColumnKind.AXIS, "name step epoch split metric head variable")),
    }
)
"""Columns that are something else, or nothing, in the other views."""

_PLURALS: Mapping[str, str] = MappingProxyType(
    {
        **AXES,
        "study": "studies",
        "dtype": "dtypes",
        "revision": "revisions",
        "block": "blocks",
        "base_position": "base positions",
        "from": "origins",
        RANK: "fit ranks",
        "role": "roles",
        "run": "runs",
        "name": "names",
        "method": "methods",
        "split": "splits",
        "metric": "metrics",
        "epoch": "epochs",
        "rank": "ranks",
    }
)
"""Plurals of axes; several values of any other axis are "values of" it."""

_OF_JOBS = ("results", "scores", "activations")
"""The views whose rows are jobs, with all that is known of where they are."""

_NONE = ["study"]
"""Content of ``axes`` where nothing varies: an empty list would select no column, an error of DuckDB's."""

_DETERMINED = ("revision", "position")
"""Axes that say nothing new where the others tell all of their values apart."""


def kinds_of_columns(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, ColumnKind | None]:
    """Kind of each column of a view, in its order; None where nobody said.

    Whatever a study's points or trainings have as a column is an axis, so new ones need no entry here; the
    columns that users gave their pairs describe pairs.
    """
    known = {**_KINDS, **_OF_VIEW.get(view, {})}
    axes = {name.casefold() for name in (*_names(connection, "cells"), *_training_axes(connection))}
    pairs = {name.casefold() for name in _names(connection, "pairs")}

    def kind(name: str) -> ColumnKind | None:
        if name in known:
            return known[name]
        if name.casefold() in axes or name.startswith("axis."):
            return ColumnKind.AXIS
        if name.casefold() in pairs or name.startswith("pair."):
            return ColumnKind.LABEL
        return None

    return {name: kind(name) for name in _names(connection, view)}


def varying(connection: duckdb.DuckDBPyConnection, view: str = "results") -> tuple[str, ...]:
    """The axes of a view with more than one value, in the order of its columns.

    Of the views of jobs it is those in which the planned jobs differ: an axis of which one value is done so
    far is there too. ``revision`` and ``position`` are left out where the others tell all of their values.
    """
    axes = [name for name, kind in kinds_of_columns(connection, view).items() if kind is ColumnKind.AXIS]
    known = connection.execute("SELECT getvariable('axes')").fetchall()[0][0]
    if known == _NONE:
        known = _several(connection, "_axes", _NONE)
    planned = _names(connection, "_axes") if view in _OF_JOBS else ["revision"]
    others = _several(connection, view, [name for name in axes if name not in planned])
    return tuple(name for name in axes if name in others or (name in planned and name in known))


def model_columns(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Columns of ``results`` that tell models apart.

    Of trained ones these are all that they were trained with but the seed, and which of their outputs is
    read, for a revision says nothing to people.
    """
    axes = _training_axes(connection)
    if not axes:
        return ("model", "dtype", "revision")
    return ("model", "dtype", *(axis for axis in axes if axis != "seed"), "read", "variable")


def distinct(column: str) -> str:
    """SQL that counts the values of a column, NULL being one."""
    name = quoted(column)
    return f"(count(DISTINCT {name}) + (count(*) > count({name}))::BIGINT)"


def over(axes: Sequence[str], counts: Sequence[Sequence[int]]) -> dict[str, tuple[int, int]]:
    """The axes of which some value is over several, with how many of them: the least and the most.

    Args:
        axes: those that vary and are not shown.
        counts: for each value that is shown, how many values of each axis it is over (see `distinct`).
    """
    found = {axis: [row[at] for row in counts] for at, axis in enumerate(axes)}
    return {axis: (min(several), max(several)) for axis, several in found.items() if max(several) > 1}


def over_text(counts: Mapping[str, tuple[int, int]]) -> str:
    """Counts that `over` gives, in words: ``12 heads, 2 to 3 seeds``."""
    return ", ".join(_count_text(axis, low, high) for axis, (low, high) in counts.items())


def means_over(axes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Axes that averages run over besides pairs, such as ``mean over 12 heads``; may be empty."""
    text = over_text(over(axes, counts))
    return f"mean over {text}" if text else ""


def _count_text(axis: str, low: int, high: int) -> str:
    number = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    return f"{number} {_PLURALS.get(axis, f'values of {axis}')}"


def axes_view(prefix: str, made: StudyTables) -> str:
    """The statement that makes the view of what its jobs differ in: a row for each combination.

    It reads no part: cells, what pairs say, and where spans lie in them.
    """
    said = said_by_pairs(made.given)
    of_pairs = "".join(f", {pair_column(made, name, 'p')} AS {quoted(name)}" for name in said)
    base, join = "c.base_positions", ""
    if made.tables["located"].num_rows:
        base = "coalesce(l.base_positions, c.base_positions)"
        join = f"""LEFT JOIN (
                SELECT DISTINCT p.class, l.symbolic, l.base_positions
                FROM {prefix}located l JOIN {prefix}p p ON p.pair = l.pair
            ) l ON l.class = c.class AND l.symbolic = c.symbolic"""
    study = "c.study" if made.study is None else f"{literal(made.study)} AS study"
    return f"""CREATE VIEW {prefix}v__axes AS
        SELECT DISTINCT {study}, c.model, c.dtype, c.revision,
            c.block{axis_columns(made, "c", but=said)}, p.* EXCLUDE (class),
            {one_position(base)} AS base_position
        FROM {prefix}c c JOIN (SELECT DISTINCT p.class{of_pairs} FROM {prefix}p p) p ON p.class = c.class
        {join}"""


def set_axes(connection: duckdb.DuckDBPyConnection, union_sql: str) -> None:
    """Find out which axes vary among the rows of `union_sql`, all studies', and keep them as ``axes``."""
    connection.execute(f"CREATE TABLE _axes AS {union_sql}")
    names = _several(connection, "_axes", _names(connection, "_axes"))
    for name in _DETERMINED:
        rest = [other for other in names if other != name]
        if name in names and _num_distinct(connection, rest) == _num_distinct(connection, names):
            names = rest
    connection.execute("SET VARIABLE axes = ?", [names or _NONE])


def _several(connection: duckdb.DuckDBPyConnection, view: str, names: Sequence[str]) -> list[str]:
    """Columns among `names` that have several values in a view, NULL being one."""
    if not names:
        return []
    asked = ", ".join(map(distinct, names))
    counts = connection.execute(f"SELECT {asked} FROM {view}").fetchall()[0]
    return [name for name, count in zip(names, counts, strict=True) if count > 1]


def _num_distinct(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> int:
    columns = ", ".join(map(quoted, names)) or "1"
    return int(
        connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM _axes)").fetchall()[0][0]
    )


def _names(connection: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    return [name for name, *_ in connection.execute(f"DESCRIBE {view}").fetchall()]


def _training_axes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    columns = _names(connection, "trainings")
    return columns[columns.index("name") + 1 : columns.index("status")]


_COUNTED = "_counted_results"
"""The view ``results`` with a number of each distinct pair of a study alone."""
_MOST = "_most_pairs"
_MOST_BITS = 1 << 16
"""Of each group: 8 kB."""


def add_counted(connection: duckdb.DuckDBPyConnection, prefix: str) -> None:
    """Make the view and the variable that `distinct_pairs` counts with; all studies have this prefix.

    Distinct pairs among millions of rows are counted exactly, with a bit for each: ten times faster than with
    a set of ids.
    """
    connection.execute(f"CREATE VIEW {_COUNTED} AS SELECT * EXCLUDE (_collected) FROM {prefix}jobs")
    ((most,),) = connection.execute(f"SELECT coalesce(max(number), 0) FROM {prefix}p").fetchall()
    connection.execute(f"SET VARIABLE {_MOST} = {max(1, int(most))}")


def distinct_pairs(connection: duckdb.DuckDBPyConnection, view: str) -> tuple[str, str]:
    """The view to ask instead of `view`, a view of jobs, and the aggregate that counts its distinct pairs."""
    ((most,),) = connection.execute(f"SELECT getvariable('{_MOST}')").fetchall()
    if view != "results" or most is None or most >= _MOST_BITS:
        return view, "count(DISTINCT pair_id)"
    return _COUNTED, f"coalesce(bit_count(bitstring_agg(_pair_number, 0, {most})), 0)"
