"""Batch size: the number of rows of one forward, found by measuring while the work is done, and remembered.

Sizes are rows × the tokens that each of them runs. Forwards of a kind share a search: those that run whole
prompts by their length, those that resume by the order of magnitude of the tokens that they run.
"""

__all__ = ["BatchSizer"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_SAMPLES = 2
"""Forwards timed at each size; the fastest counts, since everything else on a machine only slows."""
_GAIN = 1.03
"""Another size must be this much faster, else noise would move the search for ever."""

_MOST_GROWTH = 8
"""Largest size, in times of the first one: on a CPU memory that runs out is not an exception but a kill."""

_PATIENCE = 64
"""Forwards after which a size that memory could not hold is tried again; twice as many each time it fails."""


@dataclass(slots=True)
class _Search:
    """Sizes tried for one kind of forward: doubled while that is faster, else halved while it is."""

    size: int
    best: int
    most: int
    ceiling: int
    """Below `most` once memory ran out."""
    step: Literal["up", "down", "settled"] = "up"
    speeds: dict[int, list[float]] = field(default_factory=dict)
    patience: int = _PATIENCE
    num_since: int = 0
    """Forwards since memory ran out."""

    def record(self, size: int, speed: float) -> None:
        if self.ceiling < self.most:
            self._recover()
        samples = self.speeds.setdefault(size, [])
        samples.append(speed)
        if size == self.size and len(samples) == _SAMPLES and self.step != "settled":
            self._move()

    def _recover(self) -> None:
        """Dare twice the size again, once enough went well."""
        self.num_since += 1
        if self.num_since >= self.patience:
            self.ceiling = min(self.most, 2 * self.ceiling)
            self.num_since, self.patience = 0, 2 * self.patience
            self.speeds, self.step, self.size = {}, "up", self.best

    def _move(self) -> None:
        is_first = len(self.speeds) == 1
        if is_first or max(self.speeds[self.size]) > max(self.speeds[self.best]) * _GAIN:
            self.best = self.size
        elif self.step == "up" and self.size == 2 * min(self.speeds):
            self.step = "down"
        else:
            self.step = "settled"
        self._go()

    def _go(self) -> None:
        following = {"up": self.best * 2, "down": self.best // 2, "settled": self.best}[self.step]
        if not 1 <= following <= self.ceiling:
            self.step, following = "settled", self.best
        self.size = following

    def shrink(self, size: int) -> None:
        self.ceiling = max(1, size // 2)
        self.best = min(self.best, self.ceiling)
        self.size, self.step, self.num_since = self.best, "settled", 0


class BatchSizer:
    """Search for the number of rows to put into one forward.

    Args:
        start_tokens: rows × tokens of the first forwards, before anything was measured.
        max_rows: never more rows than this; None lets what was measured decide.
        known: sizes by kind, as the `state` of an earlier one on such a model and device; the search begins
            there.
    """

    def __init__(
        self, *, start_tokens: int, max_rows: int | None = None, known: Mapping[str, int] | None = None
    ) -> None:
        self._start_tokens = start_tokens
        self._max_rows = max_rows
        self._known = dict(known or {})
        self._searches: dict[str, _Search] = {}

    def rows(self, num_tokens: int, *, resumed: bool = False) -> int:
        """Rows for the next forward, each of which runs `num_tokens` tokens."""
        rows = max(1, self._search(num_tokens, resumed).size // max(1, num_tokens))
        # A row costs memory of its own, however few tokens it runs: its logits, its cache.
        rows = min(rows, self._start_tokens) if resumed else rows
        return min(rows, self._max_rows or rows)

    def record(
        self,
        num_tokens: int,
        num_rows: int,
        elapsed_s: float,
        *,
        resumed: bool = False,
        work: float | None = None,
    ) -> None:
        """Learn from a forward of as many rows as `rows` said; `work` is what it did, where rows differ."""
        search = self._search(num_tokens, resumed)
        search.record(search.size, (num_rows if work is None else work) / elapsed_s)

    def shrink(self, num_tokens: int, num_rows: int, *, resumed: bool = False) -> None:
        """Learn that `num_rows` rows did not fit into memory."""
        self._search(num_tokens, resumed).shrink(num_rows * max(1, num_tokens))

    def state(self) -> dict[str, int]:
        """The sizes found so far, by kind: plain numbers, to begin with another time."""
        return self._known | {kind: search.best for kind, search in self._searches.items()}

    def _search(self, num_tokens: int, resumed: bool) -> _Search:
        kind = _kind(num_tokens, resumed)
        if kind not in self._searches:
            most = self._start_tokens * _MOST_GROWTH
            if self._max_rows is not None:
                most = min(most, max(1, self._max_rows * num_tokens))
            start = max(1, min(self._known.get(kind, self._start_tokens), most))
            self._searches[kind] = _Search(size=start, best=start, most=most, ceiling=most)
        return self._searches[kind]


def _kind(num_tokens: int, resumed: bool) -> str:
    """``hooked/24``; ``resumed/1``, ``resumed/4`` for 2 to 4 tokens, ``resumed/16`` for 5 to 16, …"""
    if not resumed:
        return f"hooked/{num_tokens}"
    size = 1
    while size < num_tokens:
        size *= 4
    return f"resumed/{size}"
