"""Tiles: at most 64 pairs of one class under one list of cells, kept from an earlier plan or new."""

__all__ = ["PAIRS_PER_TILE", "Group", "make_tiles"]

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from orchestrator.plan.previous_plan import PreviousPlan
from orchestrator.plan.tables import Counted, Tile, mask, stretches

PAIRS_PER_TILE = 64

_Bytes = bytes
"""A mask or a list of cells as bytes, to be looked up by content."""


@dataclass(frozen=True)
class Group:
    """Pairs of one lane that get the same cells. No two groups of a lane share a pair."""

    lane: int
    cells: tuple[int, ...]
    """In running order."""
    pairs: tuple[int, ...]

    @cached_property
    def array(self) -> np.ndarray:
        """The cells, shape (num_cells,)."""
        return np.array(self.cells, np.int64)


def make_tiles(
    groups: Sequence[Group], earlier: PreviousPlan, estimated: Sequence[Group] = ()
) -> tuple[dict[int, Sequence[int]], list[Tile]]:
    """Make the tiles: the previous plan's as far as they are still wanted, then new ones for the other jobs.

    Args:
        groups: pairs with the cells that run on them.
        earlier: the previous plan.
        estimated: pairs with the cells that are estimated, in tiles of their own.

    Returns:
        The cells of every cellset in running order, and the tiles in the order in which they are to run.
    """
    cellsets = dict(earlier.cellsets)
    numbers = {tuple(cells): number for number, cells in cellsets.items()}
    fresh: list[tuple[bool, int, int, tuple[int, ...]]] = []
    goes_on: dict[int, Tile] = {}
    for estimates, wanted in ((True, estimated), (False, groups)):
        kept = _KeptTiles(wanted, [tile for tile in earlier.tiles if tile.estimates == estimates], earlier)
        goes_on |= {tile.tile: tile for tile in kept.tiles}
        for group in wanted:
            for cells, pairs in kept.lacking(group).items():
                number = numbers.setdefault(cells, max(cellsets, default=-1) + 1)
                cellsets[number] = cells
                fresh += [(estimates, group.lane, number, chunk) for chunk in _chunks(pairs)]
    # Whoever looks early should see a sample of all tiles, not the first model and the shortest pairs.
    random.Random(0).shuffle(fresh)
    tiles = [goes_on[tile.tile] for tile in earlier.tiles]
    first = max((tile.tile for tile in tiles), default=-1) + 1
    ord0 = max((tile.ord0 + tile.num_jobs for tile in tiles), default=0)
    for number, (estimates, lane, cellset, chunk) in enumerate(fresh, first):
        num_cells = len(cellsets[cellset])
        selected = ((0, num_cells, len(chunk)),)
        tiles.append(Tile(number, lane, cellset, chunk, ord0, num_cells, selected, estimates))
        ord0 += tiles[-1].num_jobs
    return cellsets, tiles


def _chunks(pairs: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(pairs[at : at + PAIRS_PER_TILE]) for at in range(0, len(pairs), PAIRS_PER_TILE)]


class _KeptTiles:
    """Tiles of the previous plan that this one goes on with, and the cells that each keeps.

    A tile keeps its finished cells, as long as one of its pairs is in the plan and wants them. Of the others
    it keeps those that all of its pairs want and that no other tile has for any of them: the rest goes to
    new tiles.
    """

    def __init__(self, groups: Sequence[Group], tiles: Sequence[Tile], earlier: PreviousPlan) -> None:
        self._groups = groups
        self._cells = {number: np.array(cells, np.int64) for number, cells in earlier.cellsets.items()}
        self._home = {(group.lane, pair): at for at, group in enumerate(groups) for pair in group.pairs}
        self._wants: dict[tuple[int, int], np.ndarray] = {}
        self._tiles_of: dict[tuple[int, int], list[int]] = defaultdict(list)
        """(lane, pair) → places of its tiles."""
        for at, tile in enumerate(tiles):
            for pair in tile.pairs:
                if (tile.lane, pair) in self._home:
                    self._tiles_of[tile.lane, pair].append(at)
        counts = [self._num_wanting(tile) for tile in tiles]
        done = [mask(tile.num_cells, earlier.done.get(tile.tile, ())) for tile in tiles]
        self._earlier = tiles
        self._kept = [is_done & (count > 0) for is_done, count in zip(done, counts, strict=True)]
        """Mask of the cells that each tile keeps: first the finished ones, then those it may still do."""
        for at, count in enumerate(counts):
            self._kept[at] |= self._may_do(at, count)
        selected = [_selected(count * kept) for count, kept in zip(counts, self._kept, strict=True)]
        self.tiles = [replace(tile, selected=ranges) for tile, ranges in zip(tiles, selected, strict=True)]

    def lacking(self, group: Group) -> dict[tuple[int, ...], list[int]]:
        """Pairs by the cells that no tile has for them yet, in running order."""
        by_tiles: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for pair in group.pairs:
            by_tiles[tuple(self._tiles_of.get((group.lane, pair), ()))].append(pair)
        by_cells: dict[_Bytes, list[int]] = defaultdict(list)
        known: dict[tuple[tuple[int, _Bytes], ...], _Bytes] = {}
        for tiles, pairs in by_tiles.items():
            # Most tiles are alike: done from end to end, or not at all.
            alike = tuple((self._earlier[at].cellset, self._kept[at].tobytes()) for at in tiles)
            if alike not in known:
                known[alike] = group.array[~self._covered(group.array, tiles)].tobytes()
            by_cells[known[alike]] += pairs
        by_cells.pop(b"", None)
        return {tuple(np.frombuffer(cells, np.int64).tolist()): pairs for cells, pairs in by_cells.items()}

    def _num_wanting(self, tile: Tile) -> np.ndarray:
        """Number of the tile's pairs that want each of its cells; shape (num_cells,)."""
        homes = Counter(self._home.get((tile.lane, pair)) for pair in tile.pairs)
        count = np.zeros(tile.num_cells, np.int64)
        for home, num_pairs in homes.items():
            if home is not None:
                count += num_pairs * self._wanted(home, tile.cellset)
        return count

    def _wanted(self, home: int, cellset: int) -> np.ndarray:
        """Mask of the cells of a cellset that a group wants; shape (num_cells,), bool."""
        key = (home, cellset)
        if key not in self._wants:
            self._wants[key] = np.isin(self._cells[cellset], self._groups[home].array)
        return self._wants[key]

    def _may_do(self, at: int, count: np.ndarray) -> np.ndarray:
        """The cells that all pairs of a tile want and that no other tile has for any of them."""
        tile = self._earlier[at]
        others = {other for pair in tile.pairs for other in self._tiles_of.get((tile.lane, pair), ())} - {at}
        free: np.ndarray = count == len(tile.pairs)
        free &= ~self._covered(self._cells[tile.cellset], sorted(others))
        return free

    def _covered(self, cells: np.ndarray, tiles: Sequence[int]) -> np.ndarray:
        """Mask of those `cells` that some of these tiles go on with; shape of `cells`, bool."""
        covered = np.zeros(len(cells), bool)
        for at in tiles:
            if self._kept[at].any():
                covered |= np.isin(cells, self._cells[self._earlier[at].cellset][self._kept[at]])
        return covered


def _selected(counts: np.ndarray) -> tuple[Counted, ...]:
    """The stretches of cells that equally many pairs want, those that none wants left out."""
    return tuple((lo, hi, int(counts[lo])) for lo, hi in stretches(counts) if counts[lo])
