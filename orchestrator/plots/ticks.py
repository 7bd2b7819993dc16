"""Ticks of logarithmic axes: plain numbers that can be read, and told apart."""

__all__ = ["both_signs_ticks", "log_ticks", "texts_of_ticks"]

import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

MOST = 8
"""Ticks of an axis."""
FEWEST = 3
_LEAST_PLAIN, _MOST_PLAIN = 1e-4, 1e6
"""Numbers between these are written without an exponent."""
_EXACT = 1e-10
"""Of a tick, that it may be off."""
_SUBDIVISIONS: tuple[tuple[int, ...], ...] = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))
"""What of each decade has a tick, from the coarsest."""


def log_ticks(low: float, high: float) -> list[float]:
    """The ticks between two positive ends: whole decades as far as these are enough, else parts of them, and
    round numbers where not even these are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in _SUBDIVISIONS:
        found = [part * 10.0**decade for decade in decades for part in parts]
        found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) >= FEWEST:
            return found[:: math.ceil(len(found) / MOST)]
    ticks = MaxNLocator(nbins=5).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high] or [low, high]


def both_signs_ticks(linear: float, high: float) -> list[float]:
    """The ticks from -`high` to `high` on a scale that is linear up to `linear`."""
    above = log_ticks(linear, high)
    above = above[:: -max(1, math.ceil(len(above) / (MOST // 2)))][::-1]
    return [*(-tick for tick in reversed(above)), 0.0, *above]


def texts_of_ticks(ticks: Sequence[float]) -> list[str]:
    """Ticks in as few digits as say exactly where they are."""
    return [_text(tick) for tick in ticks]


def _text(tick: float) -> str:
    found = next(text for digits in range(1, 18) if _is_near(float(text := f"{tick:.{digits}g}"), tick))
    plain = f"{float(found):.12g}"
    return plain if _LEAST_PLAIN <= abs(tick) < _MOST_PLAIN else found


def _is_near(value: float, tick: float) -> bool:
    return abs(value - tick) <= abs(tick) * _EXACT
