"""Small in-memory tables that a study's views join its rows with."""

__all__ = [
    "FilesOf",
    "StudyTables",
    "lacking_columns",
    "no_rows",
    "numbers",
    "study_tables",
    "texts",
    "values_of",
]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from orchestrator.plan.remaining import finished_cells, mask
from orchestrator.plan.tables import Plan
from orchestrator.query.needs import EVERYTHING, QueryNeeds
from orchestrator.store import ADDED_COLUMNS, COLLECTED, State, part_columns
from workers.libraries.duckdb import literal
from workers.metrics import ESTIMATE
from workers.vocabulary import Pair, locate, span_name

# Made without `pyarrow.array`, which loads pandas where it is installed: half a second of CPU and 50 MB that
# no query needs.


def no_rows(schema: pa.Schema) -> pa.Table:
    """A table of these columns without any row."""
    return pa.Table.from_batches([], schema=schema)


def numbers(values: "np.ndarray[Any, Any]") -> pa.Array:
    """A column of numbers; shape (rows,)."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def values_of(column: pa.ChunkedArray, kind: "np.dtype[Any]") -> "np.ndarray[Any, Any]":
    """The numbers of a column without NULL, in another type; shape (rows,)."""
    pieces = [
        np.frombuffer(chunk.buffers()[1], chunk.type.to_pandas_dtype(), len(chunk), chunk.offset * width)
        for chunk in column.chunks
        for width in [chunk.type.bit_width // 8]
        if len(chunk)
    ]
    return np.concatenate(pieces).astype(kind) if pieces else np.empty(0, kind)


def texts(values: Sequence[str | None]) -> pa.Array:
    """A column of texts, NULL where there is none."""
    data = [b"" if text is None else text.encode() for text in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    there = np.packbits(np.array([text is not None for text in values], bool), bitorder="little")
    buffers = [pa.py_buffer(there), pa.py_buffer(ends), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(pa.string(), len(data), buffers)


_TIERS = ("resumed", "hooked", "rerun", "unchanged", "estimated")
"""The ways in which the engine obtains rows, each a column of ``batches``."""


_NOT_SCREENED = no_rows(
    pa.schema([("cell", pa.uint32()), ("selected", pa.string()), ("weight", pa.float64())])
)
_LOCATED = pa.schema(
    [
        ("pair", pa.uint32()),
        ("symbolic", pa.string()),
        ("base_positions", pa.list_(pa.int32())),
        ("source_positions", pa.list_(pa.int32())),
    ]
)
_NO_TOKENS = no_rows(pa.schema([("lane", pa.uint16()), ("id", pa.int32()), ("token", pa.string())]))
_NO_RUNS = no_rows(
    pa.schema(
        [
            ("lane", pa.uint16()),
            ("pair", pa.uint32()),
            *((name, pa.string()) for name in ("run", "read")),
            *((name, pa.float32()) for name in ("label_logit", "base_label_logit", "logsumexp")),
            *((name, pa.int32()) for name in ("label_rank", "base_label_rank", "pred_id")),
        ]
    )
)
"""Clean runs where none is looked at: a join with no rows costs nothing."""


@dataclass(frozen=True, slots=True)
class FilesOf:
    """Files with the same columns, by whole path."""

    first: list[str] = field(default_factory=list)
    """Files of jobs when they ran first."""
    retries: list[str] = field(default_factory=list)
    """Files whose rows take the place of failed ones."""


@dataclass(frozen=True, slots=True)
class StudyTables:
    """Tables and files of one study, for DuckDB."""

    tables: Mapping[str, pa.Table]
    files: Mapping[tuple[str, ...], FilesOf]
    """Metric families → the files whose rows have just these."""
    several_labels: bool
    """Whether some label is a list of which any counts."""
    axes: Mapping[str, str]
    """Each axis but the model → its column in ``points``."""
    given: Mapping[str, str]
    """Each column of the given pairs → its column in ``pairs``."""
    study: str | None
    """Name of the study; None where these are several studies, which their tables then name."""
    shifts: Mapping[str, int] = field(default_factory=dict)
    """Offset of the numbers of each file's cells and pairs, where these are several studies."""


def study_tables(plan: Plan, state: State, root: Path, needs: QueryNeeds = EVERYTHING) -> StudyTables:
    """The tables of one study, from its latest plan and its committed parts, as far as a query needs them.

    Args:
        plan: with the tables that are needed.
        state: what the study holds.
        root: its folder.
        needs: what the query needs.
    """
    made = dict(plan.tables)
    axes: dict[str, str] = {}
    given: dict[str, str] = {}
    made["lanes"] = _lanes(plan)
    if needs.has("cells"):
        made["cells"] = _with_counts(plan, state)
    if "points" in made:
        made["points"], axes = _numbered(
            made["points"].drop_columns(["model"]), ("point", "lane", "block"), "axis"
        )
    if "pairs" in made:
        places = numbers(np.arange(made["pairs"].num_rows, dtype=np.uint32))
        made["pairs"], given = _numbered(made["pairs"].add_column(0, "given", places), ("given",), "pair")
    if needs.has("batches"):
        made["batches"] = _batches(state)
    if needs.sides:
        made.setdefault("runs", _NO_RUNS)
        made.setdefault("tokens", _NO_TOKENS)
        made["located"] = _located(plan) if needs.places else no_rows(_LOCATED)
    if needs.has("screening"):
        made.setdefault("screening", _NOT_SCREENED)
    return StudyTables(
        tables=made,
        files=_files(state, root, needs) if needs.rows else {},
        several_labels="inputs" in made and _has_several(made["inputs"]),
        axes=axes,
        given=given,
        study=root.name,
    )


def _files(state: State, root: Path, needs: QueryNeeds) -> dict[tuple[str, ...], FilesOf]:
    folder = root.resolve()
    files: dict[tuple[str, ...], FilesOf] = {}
    for file in state.files.values():
        if ESTIMATE in file.families and not needs.estimates:
            continue
        found = files.setdefault(file.families, FilesOf())
        (found.retries if file.is_retry else found.first).append(str(folder / file.path))
    return files


def _has_several(inputs: pa.Table) -> bool:
    if "label_ids" not in inputs.column_names:
        return False
    labels = inputs["label_ids"].combine_chunks()
    return bool(len(labels)) and bool((np.diff(labels.offsets.to_numpy()) > 1).any())


def _numbered(table: pa.Table, keys: Sequence[str], kind: str) -> tuple[pa.Table, dict[str, str]]:
    """`table` with numbers for the names that users gave, which could be ours; and the column of each name.

    Its first columns become `keys`, the others are the users'. An empty column is just NULL: its type would
    be a guess.
    """
    names = table.column_names[len(keys) :]
    columns = [f"{kind}_{number}" for number in range(len(names))]
    empty = [pa.types.is_null(field.type) for field in list(table.schema)[len(keys) :]]
    found = {name: "NULL" if no else column for name, column, no in zip(names, columns, empty, strict=True)}
    return table.rename_columns([*keys, *columns]), found


def _lanes(plan: Plan) -> pa.Table:
    """Model, dtype and revision of each lane."""
    specs = [lane.spec for lane in plan.lanes.values()]
    return pa.table(
        {
            "lane": numbers(np.array([*plan.lanes], np.uint16)),
            "model": texts([lane.model for lane in plan.lanes.values()]),
            "dtype": texts([spec.dtype for spec in specs]),
            "revision": texts([spec.revision for spec in specs]),
        }
    )


def _with_counts(plan: Plan, state: State) -> pa.Table:
    """Cells with how many jobs each has, and how many of them are done in every metric family."""
    table = plan.tables["cells"]
    size = max(table["cell"].to_pylist(), default=-1) + 1
    size = max([size, *(int(cells.max()) + 1 for cells in plan.cellsets.values())])
    jobs, done = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for tile in plan.tiles.values():
        if tile.estimates:
            continue
        cells = plan.cellsets[tile.cellset]
        jobs[cells] += tile.num_selected * mask(len(cells), tile.wanted)
        done[cells] += tile.num_selected * finished_cells(plan, state, tile)
    numbers = table["cell"].to_numpy()
    counted = table.append_column("num_jobs", pa.array(jobs[numbers]))
    return counted.append_column("num_done", pa.array(done[numbers]))


def _batches(state: State) -> pa.Table:
    rows = [
        {
            "path": m.path,
            "file": state.file_of(m.path).path,
            "lane": m.lane,
            "tile": m.tile,
            "k_lo": m.k_lo,
            "k_hi": m.k_hi,
            "families": list(m.families),
            "num_rows": m.rows,
            "num_failed": m.failed,
            **{f"num_{tier}": m.tiers.get(tier, 0) for tier in _TIERS},
            "tier_reason": m.tier_reason or None,
            "capability": m.capability or None,
            "total_s": m.timings.get("total_s"),
            "model_s": m.timings.get("model_s"),
            "capture_s": m.timings.get("capture_s"),
            "size_bytes": m.size_bytes,
            "worker": m.worker,
            "host": m.host,
            "attempt": m.attempt,
        }
        for m in state.live.values()
    ]
    fields = [
        *((name, pa.string()) for name in ("path", "file", "lane")),
        *((name, pa.int64()) for name in ("tile", "k_lo", "k_hi")),
        ("families", pa.list_(pa.string())),
        *((name, pa.int64()) for name in ("num_rows", "num_failed", *(f"num_{tier}" for tier in _TIERS))),
        ("tier_reason", pa.string()),
        ("capability", pa.string()),
        *((name, pa.float64()) for name in ("total_s", "model_s", "capture_s")),
        ("size_bytes", pa.int64()),
        *((name, pa.string()) for name in ("worker", "host")),
        ("attempt", pa.int64()),
    ]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def _located(plan: Plan) -> pa.Table:
    """Positions of the named spans of each cell in each pair: only for cells that name any."""
    rows: list[dict[str, object]] = []
    for text in dict.fromkeys(plan.tables["cells"]["symbolic"].drop_null().to_pylist()):
        places = json.loads(text)
        for number, pair in plan.pairs.items():
            found = {f"{side}_positions": _find(places[side], pair) for side in ("base", "source")}
            rows.append({"pair": number, "symbolic": text, **found})
    return pa.Table.from_pylist(rows, _LOCATED) if rows else no_rows(_LOCATED)


def _find(places: Sequence[tuple[str, Sequence[int | str]]], pair: Pair) -> list[int] | None:
    """The tokens at all places; None where the pair lacks a span, and so the cell."""
    found: set[int] = set()
    for run, position in places:
        spans = pair.spans.get(run, {})
        if any(isinstance(item, str) and span_name(item) not in spans for item in position):
            return None
        found.update(locate(tuple(position), spans))
    return sorted(found)


def lacking_columns(
    connection: duckdb.DuckDBPyConnection, files: Mapping[tuple[str, ...], FilesOf]
) -> dict[str, frozenset[str]]:
    """For each file the columns of its families that it lacks.

    The files are asked once, here (0.1 ms each): a view that made up for differences would ask them at
    every use.
    """
    wanted = {
        path: (ADDED_COLUMNS & part_columns(families).keys()) | {COLLECTED}
        for families, found in files.items()
        for path in (*found.first, *found.retries)
    }
    if not wanted:
        return {}
    listed = ", ".join(map(literal, wanted))
    names = ", ".join(map(literal, sorted(ADDED_COLUMNS | {COLLECTED})))
    found = connection.execute(
        f"SELECT file_name, list(name) FILTER (name IN ({names})) FROM parquet_schema([{listed}]) GROUP BY 1"
    ).fetchall()
    there = {name: frozenset(columns or ()) for name, columns in found}
    return {path: frozenset(columns - there[path]) for path, columns in wanted.items()}
