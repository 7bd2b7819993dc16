"""Heat maps: layers upwards, positions to the right, a facet for each site, token or metric."""

__all__ = ["Scale", "draw_heatmap", "scale_of"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure

from orchestrator.plots.data import Facet, Grid, GridAxis
from orchestrator.plots.labels import caption, facet_text, key_text, label_of
from orchestrator.plots.style import (
    CHAR_IN,
    both_signs_ticks,
    log_ticks,
    new_figure,
    plain_log,
    thin_ticks,
    title_of,
    wrapped,
)
from studies.language.results import Plot
from workers.errors import QueryError

LINEAR_SHARE = 0.01
"""A logarithmic scale of values with both signs is linear around 0, up to this share of the largest."""
_SHARES = ("iia", "flip", "changed")
"""Columns that go from 0 to 1, and are drawn so wherever pictures are to be compared."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Colour scale of one facet or of several."""

    low: float
    high: float
    colours: str
    is_log: bool = False

    @property
    def norm(self) -> Normalize:
        """Values to [0, 1]."""
        if not self.is_log:
            return Normalize(self.low, self.high)
        if self.low < 0:
            return SymLogNorm(self.high * LINEAR_SHARE, vmin=self.low, vmax=self.high)
        return LogNorm(self.low, self.high)

    @property
    def colormap(self) -> Colormap:
        """[0, 1] to colours; what is not positive on a logarithmic scale is as the lowest."""
        found = colormaps[self.colours]
        return found.with_extremes(under=found(0.0))

    def clips(self, values: np.ndarray) -> bool:
        """Whether some of `values` lie below the scale."""
        return bool((values < self.low).any())


def scale_of(values: Sequence[np.ndarray], columns: Sequence[str], *, log: bool, shared: bool) -> Scale:
    """The scale for grids of `values` (NaN where blank), which are of `columns`.

    Raises:
        QueryError: a logarithmic scale, and nothing is positive.
    """
    found = np.concatenate([grid[np.isfinite(grid)] for grid in values])
    if log and not (found.min(initial=0) < 0 < found.max(initial=0)):
        return _log_scale(found, columns)
    if not log and shared and all(column in _SHARES for column in columns):
        return Scale(0.0, 1.0, "viridis")
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    if low < 0 < high:
        reach = max(-low, high)
        return Scale(-reach, reach, "RdBu_r", is_log=log)
    # One value alone still needs a scale with two ends.
    return Scale(low, high if high > low else low + (abs(low) or 1.0), "viridis")


def _log_scale(found: np.ndarray, columns: Sequence[str]) -> Scale:
    positive = found[found > 0]
    if not len(positive):
        raise QueryError(f"log: fill needs positive values, and {', '.join(columns)} has none; leave log out")
    low, high = float(positive.min()), float(positive.max())
    return Scale(low, high if high > low else 10 * low, "viridis", is_log=True)


MAX_WIDTH_IN = 14.0
MAX_HEIGHT_IN = 9.0
ROW_IN = 0.165
RASTER_ABOVE = 4000
"""More squares than this are an image within the SVG, which would be slow to open otherwise."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Size of a facet, in inches, and the number of facets side by side."""

    width: float
    height: float
    bar: float
    """Width of a colour bar beside it."""
    beside: int
    below: int

    @property
    def size(self) -> tuple[float, float]:
        """Size of the figure; labels of rows, titles and the common colour bar included."""
        return self.beside * (self.width + self.bar) + 1.6, self.below * (self.height + 0.65) + 0.8


def draw_heatmap(grid: Grid, plot: Plot, across: Sequence[str], down: Sequence[str]) -> Figure:
    """The picture of `grid`; the texts `across` and `down` label its columns and rows."""
    own = plot.scale == "own"
    across = [text.replace(" ", "\n", 1) for text in across]
    layout = _layout(grid, across, own)
    figure = new_figure(*layout.size)
    axes = list(figure.subplots(layout.below, layout.beside, squeeze=False).flat)
    for spare in axes[len(grid.facets) :]:
        spare.remove()
    scales = _scales(grid, log=plot.log == "fill", own=own)
    meshes = []
    for i, (facet, scale) in enumerate(zip(grid.facets, scales, strict=True)):
        meshes.append(_draw_facet(axes[i], facet, scale))
        axes[i].set_title(wrapped(facet_text(grid, facet), max(1.2, layout.width + layout.bar)))
        _label_columns(axes[i], grid.across, across, named=i + layout.beside >= len(grid.facets))
        _label_rows(axes[i], grid.down, down, named=i % layout.beside == 0)
    groups = [[i] for i in range(len(meshes))] if own else [list(range(len(meshes)))]
    for group in groups:
        _add_bar(
            figure,
            meshes[group[0]],
            [axes[i] for i in group],
            label_of(grid.facets[0].value) if grid.num_values == 1 else "",
            height_in=layout.height if own else layout.size[1] - 1.2,
            clipped=any(scales[i].clips(grid.facets[i].values) for i in group),
        )
    title_of(figure, plot.title, caption(grid, plot), grid.over_text)
    return figure


def _layout(grid: Grid, across: Sequence[str], own: bool) -> _Layout:
    longest = max((len(line) for text in across for line in text.split("\n")), default=1)
    num_columns, num_rows = len(grid.across.keys), len(grid.down.keys)
    column = min(max(0.3, CHAR_IN * longest + 0.1), 1.2)
    width = min(max(1.0, column * num_columns), MAX_WIDTH_IN - 2.0)
    height = min(max(1.2, ROW_IN * num_rows), MAX_HEIGHT_IN)
    bar = 0.75 if own else 0.15
    below = math.ceil(len(grid.facets) / max(1, int((MAX_WIDTH_IN - 1.6) / (width + bar))))
    return _Layout(width, height, bar, math.ceil(len(grid.facets) / below), below)


def _scales(grid: Grid, *, log: bool, own: bool) -> list[Scale]:
    """A scale for each facet; all the same one where they share it."""
    if own:
        return [scale_of([f.values], [f.value], log=log, shared=False) for f in grid.facets]
    values, columns = [f.values for f in grid.facets], [f.value for f in grid.facets]
    return [scale_of(values, columns, log=log, shared=True)] * len(grid.facets)


def _draw_facet(ax: Axes, facet: Facet, scale: Scale) -> QuadMesh:
    values = np.ma.masked_invalid(facet.values)
    few = values.size <= RASTER_ABOVE
    mesh = ax.pcolormesh(
        values,
        cmap=scale.colormap,
        norm=scale.norm,
        edgecolors="white" if few else "none",
        linewidth=0.4 if few else 0.0,
        rasterized=not few,
    )
    if values.mask.any():
        # On a diverging scale 0 is white: what is missing must look otherwise.
        ax.patch.set(facecolor="white", edgecolor="0.8", hatch="/////")
    ax.tick_params(length=2, width=0.4)
    ax.spines[:].set_linewidth(0.4)
    return mesh


def _label_columns(ax: Axes, axis: GridAxis, texts: Sequence[str], *, named: bool) -> None:
    shown = thin_ticks(len(texts), 40)
    crowded = len(texts) > 16 and max(map(len, texts)) > 3
    ax.set_xticks([i + 0.5 for i in shown], [texts[i].replace("\n", " " if crowded else "\n") for i in shown])
    ax.tick_params(axis="x", rotation=90 if crowded else 0)
    if named:
        ax.set_xlabel(key_text(tuple(map(label_of, axis.columns))))


def _label_rows(ax: Axes, axis: GridAxis, texts: Sequence[str], *, named: bool) -> None:
    shown = thin_ticks(len(texts), 60)
    ax.set_yticks([i + 0.5 for i in shown], [texts[i] for i in shown])
    if not axis.is_numeric:
        ax.invert_yaxis()
    if named:
        ax.set_ylabel(key_text(tuple(map(label_of, axis.columns))))
    else:
        ax.set_yticklabels([])


def _add_bar(
    figure: Figure,
    mesh: QuadMesh,
    beside: Sequence[Axes],
    label: str,
    *,
    height_in: float,
    clipped: bool,
) -> None:
    """A colour bar beside some facets; unlabelled where the facets' titles say what they show."""
    aspect = max(10.0, 8 * height_in)
    extend = "min" if clipped else "neither"
    bar = figure.colorbar(mesh, ax=list(beside), aspect=aspect, pad=0.02, extend=extend)
    bar.set_label(wrapped(label, max(height_in, 1.2)))
    if isinstance(mesh.norm, LogNorm):
        plain_log(bar.ax.yaxis, log_ticks(_end(mesh.norm.vmin), _end(mesh.norm.vmax)))
    elif isinstance(mesh.norm, SymLogNorm):
        plain_log(bar.ax.yaxis, both_signs_ticks(mesh.norm.linthresh, _end(mesh.norm.vmax)))
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2, width=0.4)


def _end(value: float | None) -> float:
    """An end of a scale, which has both."""
    assert value is not None
    return value
