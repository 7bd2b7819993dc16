"""Which slice of which tile a worker gets next. Pure: clocks and workers are the caller's.

A slice is whole cells × all pairs of one tile: one call, one part. The captures that a tile needs
stay in the worker that owns it, so an owner goes on from the low end of its tile; when no fresh tile
is left, an idle worker takes from the high end of the largest remainder, if that is worth making the
captures again.
"""

__all__ = ["Schedule", "Slice", "TileWork"]

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MIN_SLICE_S = 2.0
MAX_SLICE_S = 30.0
FIRST_RATE = 200.0
"""Cost units per second of a worker that has not been measured yet."""
SMOOTHING = 0.4
LOAD_S = 5.0
"""What loading another model costs, about."""
CAPTURES_PER_PAIR = 2.0
"""A capture costs about as much as a job: one of the base and one of the source for each pair."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Cells ``k_lo`` to ``k_hi`` of a tile, for the metric families that they lack."""

    tile: int
    lane: int
    k_lo: int
    k_hi: int
    families: tuple[str, ...]


@dataclass(slots=True)
class TileWork:
    """What remains of a tile: ranges of k that lack the same metric families, in order."""

    tile: int
    lane: int
    num_pairs: int
    costs: np.ndarray
    """Cost units of each cell for one pair, shape (num_cells,)."""
    todo: list[tuple[int, int, tuple[str, ...]]]
    owner: int | None = None

    @property
    def cost(self) -> float:
        """Cost units that remain."""
        return float(sum(self.costs[lo:hi].sum() for lo, hi, _ in self.todo) * self.num_pairs)

    @property
    def capture_cost(self) -> float:
        """What a worker pays before its first job here."""
        return float(self.costs.max() * CAPTURES_PER_PAIR * self.num_pairs)

    def take(self, budget: float, *, high: bool) -> Slice:
        """Remove and return about `budget` cost units from the low or the high end, at least one cell."""
        lo, hi, families = self.todo.pop(-1 if high else 0)
        costs = self.costs[lo:hi] * self.num_pairs
        num = int(np.searchsorted(np.cumsum(costs[::-1] if high else costs), budget, side="right"))
        num = max(1, min(num, hi - lo))
        if num < hi - lo:
            rest = (lo, hi - num, families) if high else (lo + num, hi, families)
            self.todo.insert(len(self.todo) if high else 0, rest)
        cut = (hi - num, hi) if high else (lo, lo + num)
        return Slice(self.tile, self.lane, *cut, families)

    def put_back(self, lo: int, hi: int, families: tuple[str, ...]) -> None:
        """Return a range that was taken and not done; it melts into its neighbours."""
        joined: list[tuple[int, int, tuple[str, ...]]] = []
        for part in sorted([*self.todo, (lo, hi, families)]):
            if joined and joined[-1][1:] == (part[0], part[2]):
                joined[-1] = (joined[-1][0], *part[1:])
            else:
                joined.append(part)
        self.todo = joined


@dataclass(slots=True)
class _Worker:
    tile: TileWork | None = None
    lane: int | None = None
    rate: float | None = None
    """Cost units per second."""


@dataclass(slots=True)
class Schedule:
    """Hands out slices until nothing remains."""

    tiles: Sequence[TileWork]
    first_rate: float = FIRST_RATE
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _by_number: dict[int, TileWork] = field(default_factory=dict)
    _fresh: dict[int, list[TileWork]] = field(default_factory=dict)
    _remaining: float = 0.0

    def __post_init__(self) -> None:
        for work in reversed(self.tiles):
            self._by_number[work.tile] = work
            self._fresh.setdefault(work.lane, []).append(work)
            self._remaining += work.cost

    @property
    def remaining_cost(self) -> float:
        """Cost units that nobody has taken yet."""
        return self._remaining

    def join(self, worker: int) -> None:
        """A worker that may be given slices."""
        self._workers[worker] = _Worker()

    def leave(self, worker: int) -> None:
        """A worker that is gone: its tile is anyone's."""
        gone = self._workers.pop(worker)
        if gone.tile is not None:
            gone.tile.owner = None
            if gone.tile.todo:
                self._fresh.setdefault(gone.tile.lane, []).append(gone.tile)

    def next_slice(self, worker: int, elapsed_s: float) -> Slice | None:
        """The worker's next slice; None when nothing is worth giving it."""
        me = self._workers[worker]
        budget = self._rate(me) * self.target_s(elapsed_s)
        high = False
        if me.tile is None or not me.tile.todo:
            self._release(me)
            me.tile = self._take_fresh(worker, me)
        tile = me.tile
        if tile is None:
            tile, high = self._victim(me), True
        if tile is None:
            return None
        taken = tile.take(budget, high=high)
        self._remaining -= self._cost(taken)
        me.lane = taken.lane
        return taken

    def report(self, worker: int, taken: Slice, num_cells: int, seconds: float) -> None:
        """`worker` did the first `num_cells` cells of a slice in `seconds`; the rest is open again."""
        did = Slice(taken.tile, taken.lane, taken.k_lo, taken.k_lo + num_cells, taken.families)
        cost = self._cost(did)
        if cost and seconds > 0 and (me := self._workers.get(worker)) is not None:
            old = me.rate
            me.rate = cost / seconds if old is None else old + SMOOTHING * (cost / seconds - old)
        if num_cells < taken.k_hi - taken.k_lo:
            self.give_up(Slice(taken.tile, taken.lane, did.k_hi, taken.k_hi, taken.families))

    def give_up(self, taken: Slice) -> None:
        """A slice that was not done: open again."""
        work = self._by_number[taken.tile]
        if not work.todo and work.owner is None:
            self._fresh.setdefault(work.lane, []).append(work)
        work.put_back(taken.k_lo, taken.k_hi, taken.families)
        self._remaining += self._cost(taken)

    @property
    def rate(self) -> float:
        """Cost units per second of all workers together."""
        return sum(self._rate(worker) for worker in self._workers.values())

    @property
    def measured_rate(self) -> float | None:
        """Cost units per second of the average worker that was measured; None where none was."""
        known = [w.rate for w in self._workers.values() if w.rate is not None]
        return sum(known) / len(known) if known else None

    def _rate(self, worker: _Worker) -> float:
        return worker.rate or self.measured_rate or self.first_rate

    def target_s(self, elapsed_s: float) -> float:
        """How long a slice should take: longer as the run goes on, shorter towards its end."""
        target = min(max(elapsed_s / 100, MIN_SLICE_S), MAX_SLICE_S)
        tail = self._remaining / (2 * self.rate) if self._workers else target
        return min(target, max(tail, MIN_SLICE_S / 4))

    def _cost(self, taken: Slice) -> float:
        work = self._by_number[taken.tile]
        return float(work.costs[taken.k_lo : taken.k_hi].sum() * work.num_pairs)

    def _release(self, worker: _Worker) -> None:
        if worker.tile is not None:
            worker.tile.owner = None
            worker.tile = None

    def _take_fresh(self, number: int, worker: _Worker) -> TileWork | None:
        """A tile without owner: of the worker's own model where there is one."""
        lanes = sorted((lane for lane, tiles in self._fresh.items() if tiles), key=lambda n: n != worker.lane)
        if not lanes:
            return None
        tile = self._fresh[lanes[0]].pop()
        tile.owner = number
        return tile

    def _victim(self, thief: _Worker) -> TileWork | None:
        """The owned tile with the most left, if that is worth making its captures again.

        Another model's tile must be worth loading that model, too.
        """
        owned = [w.tile for w in self._workers.values() if w.tile is not None and w.tile.todo]
        best = max(owned, key=lambda tile: (tile.lane == thief.lane, tile.cost), default=None)
        if best is None:
            return None
        load_cost = 0.0 if thief.lane in (None, best.lane) else LOAD_S * self._rate(thief)
        return best if best.cost > 2 * (best.capture_cost + load_cost) else None
