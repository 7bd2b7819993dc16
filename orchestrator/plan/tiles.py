"""Tiles: at most 64 pairs of one class under one list of cells, kept from an earlier plan or new."""

__all__ = ["PAIRS_PER_TILE", "Group", "make_tiles"]

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.earlier import Earlier, Ranges
from orchestrator.plan.tables import Tile

PAIRS_PER_TILE = 64


@dataclass(frozen=True, slots=True)
class Group:
    """The kept pairs of one class in one lane, and the cells that they get."""

    lane: int
    cells: tuple[int, ...]
    """In running order."""
    pairs: tuple[int, ...]
    num_tokens: int
    """Of each base."""


def make_tiles(groups: Sequence[Group], earlier: Earlier) -> tuple[dict[int, Sequence[int]], list[Tile]]:
    """Earlier tiles as far as the plan still wants them, then new ones for what they do not cover.

    Returns:
        The cells of every cellset in running order, and the tiles in the order in which they are to run.
    """
    cellsets = dict(earlier.cellsets)
    tiles, covered = _keep_tiles(groups, cellsets, earlier)
    numbers = {tuple(cells): number for number, cells in cellsets.items()}
    fresh: list[tuple[int, int, tuple[int, ...]]] = []
    for group in groups:
        for cells, pairs in _uncovered(group, covered).items():
            number = numbers.setdefault(cells, max(cellsets, default=-1) + 1)
            cellsets[number] = cells
            fresh += [(group.lane, number, chunk) for chunk in _chunks(pairs)]
    # Whoever looks early should see a sample of all tiles, not the first model and the shortest pairs.
    random.Random(0).shuffle(fresh)
    first = max((tile.tile for tile in earlier.tiles), default=-1) + 1
    ord0 = max((t.ord0 + len(cellsets[t.cellset]) * len(t.pairs) for t in earlier.tiles), default=0)
    for tile, (lane, cellset, chunk) in enumerate(fresh, first):
        num_cells = len(cellsets[cellset])
        tiles.append(Tile(tile, lane, cellset, chunk, ord0, ((0, num_cells),), len(chunk)))
        ord0 += num_cells * len(chunk)
    return cellsets, tiles


def _chunks(pairs: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(pairs[at : at + PAIRS_PER_TILE]) for at in range(0, len(pairs), PAIRS_PER_TILE)]


def _keep_tiles(
    groups: Sequence[Group], cellsets: Mapping[int, Sequence[int]], earlier: Earlier
) -> tuple[list[Tile], dict[int, set[int]]]:
    """Earlier tiles with what is wanted of them now; pair → cells that they cover.

    A tile all of whose pairs are still wanted together goes on; of any other one only what is done
    stays, and the rest of its jobs goes to new tiles.
    """
    home = {pair: group for group in groups for pair in group.pairs}
    kept: list[Tile] = []
    covered: dict[int, set[int]] = defaultdict(set)
    for tile in earlier.tiles:
        homes = [home.get(pair) for pair in tile.pairs]
        cells = cellsets[tile.cellset]
        whole = homes[0] is not None and all(h is homes[0] for h in homes)
        done = {k for lo, hi in earlier.done.get(tile.tile, ()) for k in range(lo, hi)}
        asked = set().union(*({*h.cells} for h in homes if h is not None))
        ks = [k for k, cell in enumerate(cells) if cell in asked and (whole or k in done)]
        for pair, group in zip(tile.pairs, homes, strict=True):
            if group is not None:
                covered[pair].update(cells[k] for k in ks)
        selected = sum(h is not None for h in homes)
        kept.append(replace(tile, wanted=_ranges(ks), num_selected=selected))
    return kept, covered


def _uncovered(group: Group, covered: Mapping[int, set[int]]) -> dict[tuple[int, ...], list[int]]:
    """For each set of cells that is still to be planned, the pairs that lack just those."""
    by_cover: dict[frozenset[int], list[int]] = defaultdict(list)
    for pair in group.pairs:
        by_cover[frozenset(covered.get(pair, ()))].append(pair)
    lacking = {tuple(c for c in group.cells if c not in have): pairs for have, pairs in by_cover.items()}
    lacking.pop((), None)
    return lacking


def _ranges(ks: Iterable[int]) -> Ranges:
    ranges: list[tuple[int, int]] = []
    for k in ks:
        if ranges and ranges[-1][1] == k:
            ranges[-1] = (ranges[-1][0], k + 1)
        else:
            ranges.append((k, k + 1))
    return tuple(ranges)
