"""How many rows one forward takes: found by measuring while the work is done."""

__all__ = ["Pacer"]

from dataclasses import dataclass, field
from typing import Literal

_SAMPLES = 2
"""Forwards timed at each size; the fastest counts, since everything else on a machine only slows."""
_GAIN = 1.03
"""Another size must be this much faster, else noise would move the search for ever."""

_MOST_GROWTH = 8
"""Times the first size, at most: on a CPU memory that runs out is not an exception but a kill."""


@dataclass(slots=True)
class _Search:
    """The sizes tried for prompts of one length: doubled while that is faster, else halved while it is."""

    rows: int
    best: int
    ceiling: int
    step: Literal["up", "down", "settled"] = "up"
    speeds: dict[int, list[float]] = field(default_factory=dict)

    def record(self, rows: int, speed: float) -> None:
        samples = self.speeds.setdefault(rows, [])
        samples.append(speed)
        if rows == self.rows and len(samples) == _SAMPLES and self.step != "settled":
            self._move()

    def _move(self) -> None:
        is_first = len(self.speeds) == 1
        if is_first or max(self.speeds[self.rows]) > max(self.speeds[self.best]) * _GAIN:
            self.best = self.rows
        elif self.step == "up" and self.rows == 2 * min(self.speeds):
            self.step = "down"
        else:
            self.step = "settled"
        self._go()

    def _go(self) -> None:
        following = {"up": self.best * 2, "down": self.best // 2, "settled": self.best}[self.step]
        if not 1 <= following <= self.ceiling:
            self.step, following = "settled", self.best
        self.rows = following

    def shrink(self, rows: int) -> None:
        self.ceiling = max(1, rows // 2)
        self.best = min(self.best, self.ceiling)
        self.rows, self.step = self.best, "settled"


class Pacer:
    """The number of rows to put into one forward, for prompts of each length.

    Args:
        start_tokens: rows × tokens of the first forwards, before anything was measured.
        max_rows: never more rows than this; None lets what was measured decide.
    """

    def __init__(self, *, start_tokens: int, max_rows: int | None = None) -> None:
        self._start_tokens = start_tokens
        self._max_rows = max_rows
        self._searches: dict[int, _Search] = {}

    def rows(self, num_tokens: int) -> int:
        """Rows for the next forward of prompts with `num_tokens` tokens."""
        return self._search(num_tokens).rows

    def record(self, num_tokens: int, num_rows: int, elapsed_s: float) -> None:
        """Learn from a forward of `num_rows` rows."""
        self._search(num_tokens).record(num_rows, num_rows / elapsed_s)

    def shrink(self, num_tokens: int, num_rows: int) -> None:
        """Learn that `num_rows` rows did not fit into memory."""
        self._search(num_tokens).shrink(num_rows)

    def _search(self, num_tokens: int) -> _Search:
        if num_tokens not in self._searches:
            start = max(1, self._start_tokens // max(1, num_tokens))
            ceiling = self._max_rows or start * _MOST_GROWTH
            start = min(start, ceiling)
            self._searches[num_tokens] = _Search(rows=start, best=start, ceiling=ceiling)
        return self._searches[num_tokens]
