"""The small in-memory tables that a study's views join its rows with."""

__all__ = ["FilesOf", "StudyTables", "study_tables"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.plan.tables import Plan
from orchestrator.remaining import finished_cells, mask
from orchestrator.store import State
from workers.vocabulary import Pair, locate, span_name

_TIERS = ("resumed", "hooked", "rerun", "unchanged", "estimated")
"""The ways in which the engine obtains rows, each a column of ``batches``."""


_NOT_SCREENED = pa.table(
    {
        "cell": pa.array([], pa.uint32()),
        "selected": pa.array([], pa.string()),
        "weight": pa.array([], pa.float64()),
    }
)


@dataclass(frozen=True, slots=True)
class FilesOf:
    """Files with the same columns, by path."""

    first: list[str] = field(default_factory=list)
    """Those of jobs when they ran first."""
    retries: list[str] = field(default_factory=list)
    """Those whose rows take the place of failed ones."""


@dataclass(frozen=True, slots=True)
class StudyTables:
    """What DuckDB needs of one study besides its parts."""

    tables: Mapping[str, pa.Table]
    files: Mapping[tuple[str, ...], FilesOf]
    """Metric families → the files whose rows have just these."""
    several_labels: bool
    """Whether some label is a list of which any counts."""
    axes: Mapping[str, str]
    """Each axis but the model → its column in ``points``."""
    given: Mapping[str, str]
    """Each column of the given pairs → its column in ``pairs``."""


def study_tables(plan: Plan, state: State) -> StudyTables:
    """The tables of one study, from its latest plan and its committed parts."""
    made = dict(plan.tables)
    made["cells"] = _with_counts(plan, state)
    made["lanes"] = _lanes(plan)
    made["points"], axes = _numbered(
        made["points"].drop_columns(["model"]), ("point", "lane", "block"), "axis"
    )
    numbers = pa.array(range(made["pairs"].num_rows), pa.uint32())
    made["pairs"], given = _numbered(made["pairs"].add_column(0, "given", numbers), ("given",), "pair")
    made["batches"] = _batches(state)
    made["located"] = _located(plan)
    made.setdefault("screening", _NOT_SCREENED)
    files: dict[tuple[str, ...], FilesOf] = {}
    for file in state.files.values():
        found = files.setdefault(file.families, FilesOf())
        (found.retries if file.is_retry else found.first).append(file.path)
    labels = made["inputs"]["label_ids"].combine_chunks()
    several = bool(len(labels)) and bool((np.diff(labels.offsets.to_numpy()) > 1).any())
    return StudyTables(tables=made, files=files, several_labels=several, axes=axes, given=given)


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
    """Which model each lane is."""
    specs = [lane.spec for lane in plan.lanes.values()]
    return pa.table(
        {
            "lane": pa.array(plan.lanes.keys(), pa.uint16()),
            "model": pa.array([lane.model for lane in plan.lanes.values()], pa.string()),
            "dtype": pa.array([spec.dtype for spec in specs], pa.string()),
            "revision": pa.array([spec.revision for spec in specs], pa.string()),
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
    """Where the named spans of each cell lie in each pair: only for cells that name any."""
    rows: list[dict[str, Any]] = []
    for text in dict.fromkeys(plan.tables["cells"]["symbolic"].drop_null().to_pylist()):
        places = json.loads(text)
        for number, pair in plan.pairs.items():
            found = {f"{side}_positions": _find(places[side], pair) for side in ("base", "source")}
            rows.append({"pair": number, "symbolic": text, **found})
    positions = pa.list_(pa.int32())
    schema = pa.schema(
        [
            ("pair", pa.uint32()),
            ("symbolic", pa.string()),
            ("base_positions", positions),
            ("source_positions", positions),
        ]
    )
    return pa.Table.from_pylist(rows, schema)


def _find(places: Sequence[tuple[str, Sequence[int | str]]], pair: Pair) -> list[int] | None:
    """The tokens at all places; None where the pair lacks a span, and so the cell."""
    found: set[int] = set()
    for run, position in places:
        spans = pair.spans.get(run, {})
        if any(isinstance(item, str) and span_name(item) not in spans for item in position):
            return None
        found.update(locate(tuple(position), spans))
    return sorted(found)
