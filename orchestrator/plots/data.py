"""Numbers of a picture: one query, one grid a facet, axes in the prompt's order. Nothing is drawn here.

``base_position`` is NULL where a cell changes several tokens of the base, as in causal tracing, where noise
lies on the subject and one state is put back. Such a cell is drawn where its ``position`` was written, or
else at the positions in which it differs from the others.
"""

__all__ = [
    "BASE_POSITION",
    "RECOVERED",
    "Facet",
    "Grid",
    "GridAxis",
    "Key",
    "columns_of",
    "key_sql",
    "places_of",
    "prompt_order",
    "read_grid",
]

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import duckdb
import numpy as np

from orchestrator.query.axes import distinct, distinct_pairs, over, over_text, varying
from orchestrator.query.statements import Row, fetch, run_query
from studies.language.blocks import AXES
from studies.language.results import Plot
from workers.errors import QueryError
from workers.libraries.duckdb import quoted

Value = str | int | float | None
"""Value that can be a place of an axis."""

BASE_POSITION = "base_position"
_OF_JOBS = ("results", "scores", "activations")
_NO_PLACES = {*AXES, "study", "dtype", "revision", "block", "role", "fit_rank", BASE_POSITION} - {"position"}
"""Columns whose values do not lie in a prompt; an axis that a study named itself may."""
_LIST = "at "
"""Prefix of the text of several positions."""


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


def places_of(keys: Collection[Value]) -> dict[Value, Value]:
    """Base positions as `key_sql` gave them, as numbers where one position tells them apart."""
    lists = {key: _numbers(key) for key in keys if isinstance(key, str)}
    tried = {key: numbers for key, numbers in lists.items() if numbers}
    shared = set.intersection(*map(set, tried.values())) if len(tried) > 1 else set()
    own = {key: [at for at in numbers if at not in shared] or numbers for key, numbers in tried.items()}
    if len({tuple(one) for one in own.values()}) < len(own):
        own = tried
    named: dict[Value, Value] = {
        key: one[0] if len(one) == 1 else ", ".join(map(str, one)) for key, one in own.items()
    }
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
    values: Collection[Value],
    columns: Collection[str],
) -> Mapping[Value, float] | None:
    """Mean place in the base prompt of each of an axis' values, over its pairs.

    None where the values lie nowhere, or are in order as they are: they are numbers from the beginning.
    """
    if view not in _OF_JOBS or key in _NO_PLACES - {BASE_POSITION} or "base_positions" not in columns:
        return None
    if all(value is None or (isinstance(value, int | float) and value >= 0) for value in values):
        return None
    if key not in columns or (key != BASE_POSITION and not _are_places(connection, view, where, key)):
        return None
    said = key_sql(key, view, columns)
    rows = fetch(
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
    rows = fetch(
        connection,
        f"SELECT max(n), count(DISTINCT place) FROM (SELECT {column}, count(DISTINCT base_positions) AS n,"
        f" any_value(base_positions) AS place FROM {view}{_where(where)} GROUP BY {column}, pair_id)",
    )
    return bool(rows[0][0] == 1 and rows[0][1] > 1)


def _where(where: str | None) -> str:
    return f" WHERE ({where})" if where else ""


RECOVERED = (
    "sum(logit_diff - base_run_logit_diff) / nullif(sum(source_run_logit_diff - base_run_logit_diff), 0)"
)
"""SQL of ``recovered``: the share of the effect that is recovered, a ratio of sums."""

MAX_FACETS = 24
MAX_SQUARES = 1_000_000

Order = Mapping[Value, float] | None
"""Place in the prompt of each value of a column; None where they lie nowhere."""
Key = tuple[Value, ...]
"""The values of an axis' columns at one place; () for an axis without columns."""


@dataclass(frozen=True, slots=True)
class GridAxis:
    """Axis of a grid: the places along one side, sorted: numbers up, then text, then NULL."""

    columns: tuple[str, ...]
    keys: tuple[Key, ...]

    @property
    def is_numeric(self) -> bool:
        """Whether its first column is a number wherever it is not NULL."""
        return all(isinstance(key[0], int | float) or key[0] is None for key in self.keys if key)


@dataclass(frozen=True, slots=True, eq=False)
class Facet:
    """One grid of aggregated values."""

    key: Key
    """The values of the facet's columns."""
    value: str
    """The column or expression shown, as written."""
    values: np.ndarray
    """Shape (len(down), len(across)), float64; NaN where there is nothing."""
    counts: np.ndarray
    """Of the same shape: how many rows each value is of."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All facets of a picture; they share both axes."""

    across: GridAxis
    down: GridAxis
    facets: tuple[Facet, ...]
    facet_columns: tuple[str, ...]
    of_pairs: bool
    """Whether every row that was counted is a pair of its own."""
    num_near_ties: int
    """Number of rows with another first choice within reach; 0 where the view does not say."""
    over: Mapping[str, tuple[int, int]]
    """Axes that one value runs over, with how many of their values: the least and the most of any place."""
    of_means: bool
    """Whether values are averages; otherwise aggregates that the study wrote, or ratios of sums."""

    @property
    def over_text(self) -> str:
        """Axes that values run over besides pairs, such as ``mean over 12 heads``; may be empty."""
        told = over_text(self.over)
        return f"{'mean' if self.of_means else 'each'} over {told}" if told else ""

    @property
    def num_values(self) -> int:
        """Number of columns or expressions shown, each in facets of its own."""
        return len({facet.value for facet in self.facets})


def columns_of(written: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns that a plot's key names: none, one or several."""
    return () if written is None else (written,) if isinstance(written, str) else tuple(written)


def read_grid(connection: duckdb.DuckDBPyConnection, plot: Plot) -> Grid:
    """The numbers that `plot` shows.

    A heat map has x across and y down; bars have the first of x across and its others, the series, down.

    Raises:
        QueryError: the plot's SQL cannot be answered, gives no rows, or far too many.
    """
    x = columns_of(plot.x)
    across, down = (x, columns_of(plot.y)) if plot.kind == "heatmap" else (x[:1], x[1:])
    values = columns_of(plot.fill if plot.kind == "heatmap" else plot.y)
    facet = columns_of(plot.facet)
    keys = (*across, *down, *facet)
    axes = [axis for axis in varying(connection, plot.view) if axis not in keys]
    found = [_aggregates(connection, plot.view, value) for value in values]
    columns = run_query(connection, f"FROM {plot.view}").columns
    rows = _rows(connection, plot, keys, [one for asked, _ in found for one in asked], axes, columns)
    if not rows:
        where = f" where {plot.where}" if plot.where else ""
        raise QueryError(f"there is nothing to draw: view {plot.view} has no rows{where}")
    of_means = all(is_mean for _, is_mean in found)
    rows = _placed(rows, keys)
    orders = {
        key: prompt_order(connection, plot.view, plot.where, key, {_plain(row[at]) for row in rows}, columns)
        for at, key in enumerate(keys)
    }
    return _assemble(across, down, facet, values, axes, rows, orders, of_means=of_means)


def _placed(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Rows whose base positions are places; see `places_of`."""
    placed = [list(row) for row in rows]
    for at, key in enumerate(keys):
        if key == BASE_POSITION:
            named = places_of({row[at] for row in rows})
            for row in placed:
                row[at] = named[row[at]]
    return [tuple(row) for row in placed]


def _rows(
    connection: duckdb.DuckDBPyConnection,
    plot: Plot,
    keys: Sequence[str],
    aggregates: Sequence[str],
    axes: Sequence[str],
    columns: Sequence[str],
) -> list[Row]:
    """One row for each group: its keys, the aggregates, how many values it has on each axis, near ties, all
    rows, and distinct pairs."""
    of_jobs = plot.view in ("results", "scores")
    asked = [key_sql(key, plot.view, columns) for key in keys]
    asked += [*aggregates, *map(distinct, axes)]
    asked += ["count(*) FILTER (near_tie)" if of_jobs else "0"]
    view, num_pairs = distinct_pairs(connection, plot.view) if of_jobs else (plot.view, "-1")
    asked += ["count(*)", num_pairs]
    groups = ", ".join(str(i) for i in range(1, len(keys) + 1))
    sql = f"SELECT {', '.join(asked)} FROM {view}"
    sql += f" WHERE ({plot.where})" if plot.where else ""
    sql += f" GROUP BY {groups}" if keys else ""
    return fetch(connection, sql)


def _aggregates(connection: duckdb.DuckDBPyConnection, view: str, value: str) -> tuple[tuple[str, str], bool]:
    """The aggregated value, and how many rows have one; and whether it is a mean."""
    if value == "recovered":
        return (f"({RECOVERED})::DOUBLE", "count(logit_diff)"), False
    mean = f"avg(({value})::DOUBLE)"
    if _is_aggregate(connection, view, value, mean):
        return (f"({value})::DOUBLE", "count(*)"), False
    return (mean, f"count({value})"), True


def _is_aggregate(connection: duckdb.DuckDBPyConnection, view: str, value: str, mean: str) -> bool:
    """Whether `value`, which `mean` averages, is an aggregate already: it then stands beside a count."""
    try:
        run_query(connection, f"SELECT {mean} FROM {view}")
    except QueryError:
        with suppress(QueryError):
            run_query(connection, f"SELECT ({value})::DOUBLE, count(*) FROM {view}")
            return True
        raise
    return False


def _assemble(
    across: tuple[str, ...],
    down: tuple[str, ...],
    facet: tuple[str, ...],
    values: tuple[str, ...],
    axes: Sequence[str],
    rows: Sequence[Row],
    orders: Mapping[str, Order],
    *,
    of_means: bool,
) -> Grid:
    ends = (len(across), len(across) + len(down), len(across) + len(down) + len(facet))
    keys = [tuple(_plain(v) for v in row[: ends[2]]) for row in rows]
    columns = _axis(across, (key[: ends[0]] for key in keys), orders)
    lines = _axis(down, (key[ends[0] : ends[1]] for key in keys), orders)
    facets = _axis(facet, (key[ends[1] :] for key in keys), orders)
    _refuse_too_much(columns, lines, facets, len(values))
    shape = (len(facets.keys), len(values), len(lines.keys), len(columns.keys))
    grid, counts = np.full(shape, np.nan), np.zeros(shape, np.int64)
    places = [{key: i for i, key in enumerate(axis.keys)} for axis in (columns, lines, facets)]
    for key, row in zip(keys, rows, strict=True):
        i = places[0][key[: ends[0]]]
        j = places[1][key[ends[0] : ends[1]]]
        f = places[2][key[ends[1] :]]
        for v in range(len(values)):
            value, count = row[ends[2] + 2 * v : ends[2] + 2 * v + 2]
            grid[f, v, j, i] = np.nan if value is None or not np.isfinite(value) else value
            counts[f, v, j, i] = count
    return Grid(
        across=columns,
        down=lines,
        facets=tuple(
            Facet(key, value, grid[f, v], counts[f, v])
            for f, key in enumerate(facets.keys)
            for v, value in enumerate(values)
        ),
        facet_columns=facet,
        of_pairs=all(row[-1] == row[-2] for row in rows),
        num_near_ties=sum(row[-3] for row in rows),
        over=over(axes, [row[ends[2] + 2 * len(values) :] for row in rows]),
        of_means=of_means,
    )


def _axis(columns: tuple[str, ...], keys: Iterable[Key], orders: Mapping[str, Order]) -> GridAxis:
    def at(key: Key) -> list[tuple[float | str, ...]]:
        return [_order(value, orders.get(column)) for column, value in zip(columns, key, strict=True)]

    return GridAxis(columns, tuple(sorted(dict.fromkeys(keys), key=at)))


def _order(value: Value, order: Order) -> tuple[float | str, ...]:
    """Sort key of a value: its place in the prompt, or else numbers up, then text, then NULL."""
    if value is None:
        return 3, 0, 0
    place = (1, value) if isinstance(value, int | float) else (2, str(value))
    return place if order is None else (0, order[value], *place) if value in order else (1, 0, *place)


def _plain(value: object) -> Value:
    """A value that can be a key; lists, such as ``base_positions``, become text."""
    return value if value is None or isinstance(value, int | float) else _text(value)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _refuse_too_much(across: GridAxis, down: GridAxis, facets: GridAxis, num_values: int) -> None:
    if len(facets.keys) * num_values > MAX_FACETS:
        what = " and ".join(facets.columns) or "fill"
        raise QueryError(
            f"{what} would make {len(facets.keys) * num_values:,} facets, and {MAX_FACETS} can be drawn;"
            " take other columns for facet, or fewer rows with where"
        )
    if len(across.keys) * len(down.keys) > MAX_SQUARES:
        raise QueryError(
            f"the picture would have {len(across.keys):,} × {len(down.keys):,} places, too many to see;"
            " take fewer rows with where"
        )
