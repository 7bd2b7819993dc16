"""Pictures of studies: heat maps and bars, as PNG and SVG."""

__all__ = ["default_plot", "draw", "draw_study", "own_plots"]

from pathlib import Path

import duckdb

from orchestrator.plots.bars import draw_bars
from orchestrator.plots.choose import default_plot, own_plots
from orchestrator.plots.data import read_grid
from orchestrator.plots.heatmap import draw_heatmap
from orchestrator.plots.labels import position_texts, tick_texts
from orchestrator.plots.style import save, style
from orchestrator.views import connect
from studies.plots import Plot
from workers.errors import QueryError

_LOG = {"heatmap": "fill", "bars": "y"}


def draw(connection: duckdb.DuckDBPyConnection, plot: Plot, stem: Path) -> list[Path]:
    """Draw `plot` into ``STEM.png`` and ``STEM.svg``, and give their paths.

    Raises:
        QueryError: the plot's SQL cannot be answered, or there is nothing to draw.
    """
    if plot.log not in (None, _LOG[plot.kind]):
        raise QueryError(f"log: {plot.log} cannot be drawn; {plot.kind} takes log: {_LOG[plot.kind]}")
    grid = read_grid(connection, plot)
    by_position = ("base_position",) in (grid.across.columns, grid.down.columns)
    positions = position_texts(connection, plot) if by_position else {}
    across, down = tick_texts(grid.across, positions), tick_texts(grid.down, positions)
    draw_kind = draw_heatmap if plot.kind == "heatmap" else draw_bars
    with style():
        return save(draw_kind(grid, plot, across, down), stem)


def draw_study(root: Path) -> list[Path]:
    """Draw all plots of the study in the folder `root` into its ``plots/``; a heat map if it names none.

    Raises:
        QueryError, StoreError: the study cannot be read, or a plot cannot be drawn.
    """
    connection = connect([root])
    plots = own_plots(root) or {"heatmap": default_plot(connection, "heatmap")}
    return [path for name, plot in plots.items() for path in draw(connection, plot, root / "plots" / name)]
