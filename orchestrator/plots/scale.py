"""Colour scales: safe for the colour-blind, diverging around 0 where values have both signs."""

__all__ = ["Scale", "scale_of"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LogNorm, Normalize, SymLogNorm

from workers.errors import QueryError

LINEAR_SHARE = 0.01
"""A logarithmic scale of values with both signs is linear around 0, up to this share of the largest."""
_SHARES = ("iia", "flip", "changed")
"""Columns that go from 0 to 1, and are drawn so wherever pictures are to be compared."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours mean."""

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
