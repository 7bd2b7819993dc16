"""The rows of a plan as Arrow tables; `tables.py` says what each holds."""

__all__ = [
    "carried_table",
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa

from orchestrator.plan.pair_columns import Row, given_column, prompt_columns
from orchestrator.plan.prepare import Input
from orchestrator.plan.tables import Tile
from studies.language.blocks import is_source
from studies.language.expand import Point
from studies.language.identity import unit_json
from workers.vocabulary import Cell, CellUnit, Pair, Place, Position, Vectors

_T = TypeVar("_T")

_PIECE = 1024

Placed = tuple[int, uuid.UUID, int]
"""A kept input's pair number, pair id and class."""


def pairs_table(rows: Sequence[Row]) -> pa.Table:
    """The given pairs, as given; a pair's number is its place, so no column of ours meets the user's."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: given_column([row.get(name) for row in rows]) for name in names})


def inputs_table(rows: Sequence[tuple[int, Input, Placed | None, Sequence[str]]]) -> pa.Table:
    """One row for each (lane, input, where it was placed, texts of the base's tokens)."""
    ids = pa.list_(pa.int32())
    return pa.table(
        {
            "lane": pa.array([lane for lane, *_ in rows], pa.uint16()),
            "given": pa.array([one.given for _, one, *_ in rows], pa.uint32()),
            "pair": pa.array([placed and placed[0] for _, _, placed, _ in rows], pa.uint32()),
            "pair_id": _uuids(placed and placed[1] for _, _, placed, _ in rows),
            "class": pa.array([placed and placed[2] for _, _, placed, _ in rows], pa.uint32()),
            **prompt_columns([one.tokens for _, one, *_ in rows]),
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
    located = [_located(_runs_and_positions(cell)) for cell in found]
    positions = pa.list_(pa.int32())
    return pa.table(
        {
            "cell": pa.array(list(cells), pa.uint32()),
            "cell_id": _uuids(identity for identity, _, _ in cells.values()),
            "lane": pa.array([lane for _, lane, _ in cells.values()], pa.uint16()),
            "resolved": _texts(found, _resolved),
            "read": pa.array([str(cell.read) for cell in found], pa.string()),
            "base_positions": pa.array([base for base, _, _ in located], positions),
            "source_positions": pa.array([source for _, source, _ in located], positions),
            "symbolic": pa.array([text for _, _, text in located], pa.string()),
        }
    )


def points_table(points: Sequence[tuple[int, int, Point]]) -> pa.Table:
    """Written grid points: (number, lane, point), a column for each axis.

    The other columns begin with an underscore: no axis is called so.
    """
    axes = dict.fromkeys(name for _, _, point in points for name in point.axes)
    return pa.table(
        {
            "_point": pa.array([number for number, _, _ in points], pa.uint32()),
            "_lane": pa.array([lane for _, lane, _ in points], pa.uint16()),
            "_block": pa.array([point.block for _, _, point in points], pa.string()),
            **{name: given_column([point.axes.get(name) for _, _, point in points]) for name in axes},
        }
    )


def grid_table(numbers: Sequence[int]) -> pa.Table:
    """Class, point and cell, one after the other."""
    return _numbers(("class", "point", "cell"), np.array(numbers, np.uint32).reshape(-1, 3))


def cellsets_table(cellsets: Mapping[int, Sequence[int]], costs: Mapping[int, np.ndarray]) -> pa.Table:
    """The cells of each cellset in running order, each with its cost for one pair."""
    rows = [
        np.stack([np.full(len(cells), number), np.arange(len(cells)), cells], 1)
        for number, cells in cellsets.items()
    ]
    table = _numbers(("cellset", "k", "cell"), np.concatenate(rows).astype(np.uint32))
    return table.append_column("cost", pa.array(np.concatenate([costs[number] for number in cellsets])))


def tiles_table(tiles: Sequence[Tile]) -> pa.Table:
    """Tiles in the order in which they are to run."""
    ranges = pa.list_(pa.struct([(name, pa.uint32()) for name in ("lo", "hi", "num_pairs")]))
    return pa.table(
        {
            "tile": pa.array([t.tile for t in tiles], pa.uint32()),
            "lane": pa.array([t.lane for t in tiles], pa.uint16()),
            "cellset": pa.array([t.cellset for t in tiles], pa.uint32()),
            "pairs": pa.array([t.pairs for t in tiles], pa.list_(pa.uint32())),
            "ord0": pa.array([t.ord0 for t in tiles], pa.uint64()),
            "selected": pa.array([t.selected for t in tiles], ranges),
            "estimates": pa.array([t.estimates for t in tiles], pa.bool_()),
        }
    )


def carried_table(cells: Mapping[int, Cell], pairs: Mapping[int, Pair]) -> pa.Table:
    """Cells and pairs by number, as JSON: few, so that they need no columns of their own."""
    rows = [("cell", number, cell.to_json()) for number, cell in cells.items()]
    rows += [("pair", number, _pair_json(pair)) for number, pair in pairs.items()]
    return pa.table(
        {
            "what": pa.array([what for what, _, _ in rows], pa.string()),
            "number": pa.array([number for _, number, _ in rows], pa.uint32()),
            "content": pa.array([json.dumps(content) for _, _, content in rows], pa.string()),
        }
    )


def _pair_json(pair: Pair) -> dict[str, object]:
    tokens = {run: p.to_json() if isinstance(p, Vectors) else p for run, p in pair.tokens.items()}
    return {
        "tokens": tokens,
        "spans": pair.spans,
        "label_ids": pair.label_ids,
        "base_label_ids": pair.base_label_ids,
    }


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


def _numbers(names: Sequence[str], rows: np.ndarray) -> pa.Table:
    """A column for each name, of `rows` with shape (num_rows, num_names)."""
    columns = zip(names, rows.T, strict=True)
    return pa.table({name: np.ascontiguousarray(column) for name, column in columns})


def _texts(items: Sequence[_T], text_of: Callable[[_T], str]) -> pa.ChunkedArray:
    """The text of each item, made in pieces, so that few lie in memory twice."""
    pieces = (items[at : at + _PIECE] for at in range(0, len(items), _PIECE))
    return pa.chunked_array([[text_of(item) for item in piece] for piece in pieces], pa.string())


def _resolved(cell: Cell) -> str:
    """``cell.to_json()`` as text."""
    if cell.runs:
        return json.dumps(cell.to_json())
    units = ",".join([unit_json(unit) for unit in cell.units])
    read = cell.read if isinstance(cell.read, int) else json.dumps(cell.read)
    text = f'{{"read":{read},"units":[{units}]}}'
    # An identity normalises names, and a worker needs them as they are: where all is ASCII, both are one.
    return text if text.isascii() else json.dumps(cell.to_json())


_Positions = tuple[tuple[Position, str, Position | None], ...]
"""For each unit: where in the base, whose value, and where in that run."""


def _runs_and_positions(cell: Cell) -> _Positions:
    units: Iterable[CellUnit] = cell.every_unit() if cell.runs else cell.units
    return tuple([(u.place.position, _prompt_of(u.run), _position_of(u.origin)) for u in units])


def _position_of(place: Place | None) -> Position | None:
    return None if place is None else place.position


def _prompt_of(run: str) -> str:
    """Whose prompt a run has: a source its own, any other that of the base."""
    return run if is_source(run) else "base"


@lru_cache(maxsize=4096)
def _located(units: _Positions) -> tuple[list[int] | None, list[int] | None, str | None]:
    """All indices in the base, all in other runs, and the positions as JSON where some are no index."""
    places = {
        "base": [("base", position) for position, _, _ in units],
        "source": [(run, origin) for _, run, origin in units if origin is not None],
    }
    base, source = (_indices([position for _, position in found]) for found in places.values())
    return base, source, json.dumps(places) if base is None or source is None else None


def _indices(positions: Sequence[Position]) -> list[int] | None:
    """All positions in order; None where some are no index."""
    items = {item for position in positions for item in position}
    indices = sorted(item for item in items if isinstance(item, int))
    return indices if len(indices) == len(items) else None
