"""The rows of a plan as Arrow tables; `tables.py` says what each holds."""

__all__ = [
    "cells_table",
    "cellsets_table",
    "grid_table",
    "inputs_table",
    "pairs_table",
    "points_table",
    "retired_table",
    "tiles_table",
]

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.plan.columns import given_column
from orchestrator.plan.prepare import Input
from orchestrator.plan.tables import Tile
from studies.expand import Point
from workers.vocabulary import Cell, Place

Placed = tuple[int, uuid.UUID, int]
"""A kept input's pair number, pair id and class."""


def pairs_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The given pairs, as given."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: given_column([row.get(name) for row in rows]) for name in names}
    return pa.table({"given": pa.array(range(len(rows)), pa.uint32()), **columns})


def inputs_table(rows: Sequence[tuple[int, Input, Placed | None, Sequence[str]]]) -> pa.Table:
    """One row for each (lane, input, where it was placed, texts of the base's tokens)."""
    runs = sorted({run for _, one, _, _ in rows for run in one.tokens})
    ids = pa.list_(pa.int32())
    return pa.table(
        {
            "lane": pa.array([lane for lane, *_ in rows], pa.uint16()),
            "given": pa.array([one.given for _, one, *_ in rows], pa.uint32()),
            "pair": pa.array([placed and placed[0] for _, _, placed, _ in rows], pa.uint32()),
            "pair_id": _uuids(placed and placed[1] for _, _, placed, _ in rows),
            "class": pa.array([placed and placed[2] for _, _, placed, _ in rows], pa.uint32()),
            "tokens": pa.array([one.tokens for _, one, *_ in rows], pa.struct([(run, ids) for run in runs])),
            "base_tokens": pa.array([texts for *_, texts in rows], pa.list_(pa.string())),
            "spans": pa.array([json.dumps(one.spans) for _, one, *_ in rows], pa.string()),
            "label_ids": pa.array([one.label_ids for _, one, *_ in rows], ids),
            "base_label_ids": pa.array([one.base_label_ids for _, one, *_ in rows], ids),
            "kept": pa.array([placed is not None for _, _, placed, _ in rows], pa.bool_()),
            "reason": pa.array([one.reason for _, one, *_ in rows], pa.string()),
        }
    )


def cells_table(cells: Mapping[int, tuple[uuid.UUID, int, Cell]]) -> pa.Table:
    """Resolved cells by number: id, lane and cell; positions once more in columns of their own.

    ``symbolic`` is NULL where every position is an index; otherwise it says which spans to look up.
    """
    found = [cell for _, _, cell in cells.values()]
    positions = pa.list_(pa.int32())
    return pa.table(
        {
            "cell": pa.array(list(cells), pa.uint32()),
            "cell_id": _uuids(identity for identity, _, _ in cells.values()),
            "lane": pa.array([lane for _, lane, _ in cells.values()], pa.uint16()),
            "resolved": pa.array([json.dumps(cell.to_json()) for cell in found], pa.string()),
            "read": pa.array([str(cell.read) for cell in found], pa.string()),
            "base_positions": pa.array([_indices(_base_places(cell)) for cell in found], positions),
            "source_positions": pa.array([_indices(_source_places(cell)) for cell in found], positions),
            "symbolic": pa.array([_symbolic(cell) for cell in found], pa.string()),
        }
    )


def points_table(points: Sequence[tuple[int, int, Point]]) -> pa.Table:
    """Written grid points: (number, lane, point), a column for each axis."""
    axes = dict.fromkeys(name for _, _, point in points for name in point.axes)
    return pa.table(
        {
            "point": pa.array([number for number, _, _ in points], pa.uint32()),
            "lane": pa.array([lane for _, lane, _ in points], pa.uint16()),
            "block": pa.array([point.block for _, _, point in points], pa.string()),
            **{name: given_column([point.axes.get(name) for _, _, point in points]) for name in axes},
        }
    )


def grid_table(rows: Sequence[tuple[int, int, int]]) -> pa.Table:
    """(class, point, cell)."""
    return _numbers(("class", "point", "cell"), rows)


def cellsets_table(cellsets: Mapping[int, Sequence[int]], costs: Mapping[int, int]) -> pa.Table:
    """The cells of each cellset in running order, each with its cost in tokens to be run."""
    rows = [
        (number, k, cell, costs[number]) for number, cells in cellsets.items() for k, cell in enumerate(cells)
    ]
    return _numbers(("cellset", "k", "cell", "cost"), rows)


def tiles_table(tiles: Sequence[Tile]) -> pa.Table:
    """Tiles in the order in which they are to run."""
    wanted = pa.list_(pa.struct([("lo", pa.uint32()), ("hi", pa.uint32())]))
    return pa.table(
        {
            "tile": pa.array([t.tile for t in tiles], pa.uint32()),
            "lane": pa.array([t.lane for t in tiles], pa.uint16()),
            "cellset": pa.array([t.cellset for t in tiles], pa.uint32()),
            "pairs": pa.array([t.pairs for t in tiles], pa.list_(pa.uint32())),
            "ord0": pa.array([t.ord0 for t in tiles], pa.uint64()),
            "wanted": pa.array([[{"lo": lo, "hi": hi} for lo, hi in t.wanted] for t in tiles], wanted),
            "num_selected": pa.array([t.num_selected for t in tiles], pa.uint16()),
        }
    )


def retired_table(rows: Sequence[tuple[str, int, uuid.UUID]]) -> pa.Table:
    """(``cell`` or ``pair``, number, id) of all that the plan no longer has."""
    return pa.table(
        {
            "what": pa.array([what for what, _, _ in rows], pa.string()),
            "number": pa.array([number for _, number, _ in rows], pa.uint32()),
            "id": _uuids(identity for _, _, identity in rows),
        }
    )


def _uuids(values: Iterable[uuid.UUID | None]) -> pa.Array:
    """As the Parquet type of that name, which DuckDB reads as UUID."""
    raw = pa.array([None if value is None else value.bytes for value in values], pa.binary(16))
    return pa.ExtensionArray.from_storage(pa.uuid(), raw)


def _numbers(names: Sequence[str], rows: Sequence[tuple[int, ...]]) -> pa.Table:
    columns = np.array(rows, np.uint32).reshape(-1, len(names)).T
    return pa.table({name: np.ascontiguousarray(column) for name, column in zip(names, columns, strict=True)})


def _base_places(cell: Cell) -> list[tuple[str, Place]]:
    return [("base", unit.place) for unit in cell.units]


def _source_places(cell: Cell) -> list[tuple[str, Place]]:
    return [(unit.run, unit.origin) for unit in cell.units if unit.origin is not None]


def _indices(places: Sequence[tuple[str, Place]]) -> list[int] | None:
    """All positions, where each is an index."""
    items = [item for _, place in places for item in place.position]
    return sorted({item for item in items if isinstance(item, int)}) if _all_indices(items) else None


def _all_indices(items: Sequence[int | str]) -> bool:
    return all(isinstance(item, int) for item in items)


def _symbolic(cell: Cell) -> str | None:
    places = {"base": _base_places(cell), "source": _source_places(cell)}
    items = [item for found in places.values() for _, place in found for item in place.position]
    if _all_indices(items):
        return None
    return json.dumps(
        {side: [(run, place.position) for run, place in found] for side, found in places.items()}
    )
