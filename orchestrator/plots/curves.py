"""Learning curves: a facet for each metric, a line for each model and variable, with the range over seeds."""

__all__ = ["draw_curves"]


import duckdb
import numpy as np
from matplotlib.figure import Figure

from orchestrator.plots.bars import colour_of
from orchestrator.plots.style import new_figure, title_of
from orchestrator.query.axes import distinct, means_over, model_columns, varying
from orchestrator.query.statements import Row, fetch, run_query
from workers.errors import QueryError
from workers.libraries.duckdb import quoted

_METRICS = "metric IN ('task_loss', 'interchange_loss', 'task_accuracy', 'interchange_accuracy')"
_TESTED = "split = 'test'"
MOST_LINES = 24
_STYLES = ("-", "--", ":", "-.")


def draw_curves(
    connection: duckdb.DuckDBPyConnection, *, where: str | None = None, title: str | None = None
) -> tuple[Figure, str]:
    """The curves of a study's trainings, and what a line runs over, such as ``mean over 3 seeds``.

    Args:
        connection: with the study's views.
        where: SQL over ``curves``; without it what is measured on the test split.
        title: above all.

    Raises:
        QueryError: nothing was measured yet, or there are too many lines to tell apart.
    """
    there = run_query(connection, "FROM curves").columns
    kinds = [kind for kind in model_columns(connection) if kind in there and kind != "variable"]
    series = ["name", *kinds, "head", "variable"]
    columns = ", ".join(["metric", *map(quoted, series), "step"])
    merged = [axis for axis in varying(connection, "curves") if axis not in ("metric", "step", *series)]
    counts = f"[{', '.join(map(distinct, merged))}]::BIGINT[]"
    rows = fetch(
        connection,
        f"SELECT {columns}, {counts}, avg(value), min(value), max(value) FROM curves"
        f" WHERE {_METRICS} AND ({where or _TESTED}\n) GROUP BY ALL ORDER BY ALL",
    )
    if not rows:
        raise QueryError("there is no curve to draw yet; see: swapyard status")
    differing = [at for at in range(len(series)) if len({row[1 + at] for row in rows}) > 1]
    lines: dict[str, dict[str, list[Row]]] = {}
    # A model has its colour in every facet, and a variable its kind of line.
    drawn: dict[str, tuple[str, object]] = {}
    for row in rows:
        said = [(series[at], row[1 + at]) for at in differing if row[1 + at] is not None]
        named = " · ".join(f"{kind} {value}" for kind, value in said) or str(row[1])
        model = " · ".join(f"{kind} {value}" for kind, value in said if kind != "variable")
        drawn[named] = model, dict(said).get("variable")
        lines.setdefault(row[0], {}).setdefault(named, []).append((row[-5], *row[-3:]))
    names = sorted(drawn)
    models = sorted({model for model, _ in drawn.values()})
    variables = sorted({str(variable) for _, variable in drawn.values() if variable is not None})
    if len(names) > MOST_LINES:
        raise QueryError(f"{len(names)} curves; draw at most {MOST_LINES}, chosen by --where")
    figure = new_figure(3.4 * len(lines) + 2.2, 2.8)
    axes = figure.subplots(1, len(lines), squeeze=False)[0]
    for ax, (metric, found) in zip(axes, sorted(lines.items()), strict=True):
        for name, points in found.items():
            step, mean, low, high = np.array(points, dtype=np.float64).T
            model, variable = drawn[name]
            colour = colour_of(models.index(model), len(models))
            number = 0 if variable is None else variables.index(str(variable))
            ax.plot(step, mean, _STYLES[number % len(_STYLES)], color=colour, linewidth=1.1, label=name)
            ax.fill_between(step, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set_title(metric.replace("_", " "))
        ax.set_xlabel("step")
        ax.spines[["top", "right"]].set_visible(False)
        if metric.endswith("accuracy"):
            ax.set_ylim(0.0, 1.02)
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False)
    over = means_over(merged, [row[-4] for row in rows])
    title_of(figure, title, f"{over}, and their range" if over else "one training each", over)
    return figure, over
