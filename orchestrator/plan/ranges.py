"""Half-open ranges of cells, and the same as arrays."""

__all__ = ["Counted", "Ranges", "mask", "stretches"]

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

Ranges = tuple[tuple[int, int], ...]
"""Sorted half-open ranges that do not overlap."""

Counted = tuple[int, int, int]
"""A half-open range, and a number that holds for all of it."""


def mask(num_cells: int, ranges: Iterable[tuple[int, int]]) -> np.ndarray:
    """Which cells lie in some of the half-open `ranges`; shape (num_cells,), bool."""
    inside = np.zeros(num_cells, bool)
    for lo, hi in ranges:
        inside[lo:hi] = True
    return inside


def stretches(values: np.ndarray) -> list[tuple[int, int]]:
    """The longest half-open ranges in which neighbours are equal, of `values` with shape (n,)."""
    edges = np.flatnonzero(np.diff(values)) + 1
    return [(lo, hi) for lo, hi in pairwise([0, *edges.tolist(), len(values)]) if lo < hi]
