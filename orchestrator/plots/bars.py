"""Bars: the first column of x along the axis, its other columns as colours with a legend."""

__all__ = ["colour_of", "draw_bars"]

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.plots.data import Facet, Grid
from orchestrator.plots.labels import caption, facet_text, key_text, label_of
from orchestrator.plots.style import CHAR_IN, log_ticks, new_figure, plain_log, thin_ticks, title_of, wrapped
from studies.language.results import Plot
from workers.errors import QueryError

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart."""

MAX_WIDTH_IN = 12.0


def draw_bars(grid: Grid, plot: Plot, across: Sequence[str], down: Sequence[str]) -> Figure:
    """The picture of `grid`; the texts `across` label the groups of bars and `down` the bars of a group.

    Raises:
        QueryError: a logarithmic axis, and nothing is positive.
    """
    if plot.log == "y" and not any((facet.values > 0).any() for facet in grid.facets):
        raise QueryError("log: y needs positive values, and there is none; leave log out")
    width = _width(len(across), len(down), max(map(len, across)))
    beside = max(1, min(len(grid.facets), int(MAX_WIDTH_IN / (width + 0.8))))
    below = math.ceil(len(grid.facets) / beside)
    figure = new_figure(beside * (width + 0.8) + 0.3, below * 2.6 + 0.9)
    axes = list(
        figure.subplots(
            below, beside, squeeze=False, sharey=plot.scale == "shared" and grid.num_values == 1
        ).flat
    )
    for spare in axes[len(grid.facets) :]:
        spare.remove()
    for i, (ax, facet) in enumerate(zip(axes, grid.facets, strict=False)):
        _draw_facet(ax, facet, down, log=plot.log == "y")
        _label_groups(ax, across, named=label_of(grid.across.columns[0]), width_in=width)
        ax.set_title(wrapped(facet_text(grid, facet), width))
        if i % beside == 0 or grid.num_values > 1:
            ax.set_ylabel(wrapped(label_of(facet.value), 2.4))
    if plot.log == "y":
        # Facets may share an axis, whose ends are known once all are drawn.
        for ax in axes[: len(grid.facets)]:
            plain_log(ax.yaxis, log_ticks(*ax.get_ylim()))
    if len(down) > 1:
        named = key_text(tuple(map(label_of, grid.down.columns)))
        figure.legend(
            *axes[0].get_legend_handles_labels(), title=named, loc="outside right upper", frameon=False
        )
    title_of(figure, plot.title, caption(grid, plot), grid.over_text)
    return figure


def _width(num_groups: int, num_bars: int, longest: int) -> float:
    """Width of one facet's axis, in inches."""
    return min(max(1.6, num_groups * max(0.09 * num_bars + 0.08, CHAR_IN * min(longest, 4) + 0.05)), 10.0)


def _draw_facet(ax: Axes, facet: Facet, bars: Sequence[str], *, log: bool) -> None:
    width = 0.84 / len(bars)
    at = np.arange(facet.values.shape[1])
    for j, text in enumerate(bars):
        left = at - 0.42 + (j + 0.5) * width
        ax.bar(left, facet.values[j], width, color=colour_of(j, len(bars)), label=text)
    if log:
        ax.set_yscale("log")
    else:
        ax.axhline(0.0, color="black", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2, width=0.4)
    ax.margins(x=0.01)


def colour_of(j: int, num: int) -> object:
    """The colour of the j-th of so many."""
    return _COLOURS[j] if num <= len(_COLOURS) else colormaps["viridis"](j / (num - 1))


def _label_groups(ax: Axes, texts: Sequence[str], *, named: str, width_in: float) -> None:
    shown = thin_ticks(len(texts), 60)
    room = width_in / len(shown)
    crowded = CHAR_IN * max(len(texts[i]) for i in shown) > room
    ax.set_xticks(list(shown), [texts[i] for i in shown], rotation=90 if crowded else 0)
    ax.set_xlabel(named)
