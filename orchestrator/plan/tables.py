"""A plan as the tables in `plan/<uuid>/`, written there and read back for workers and views.

| table    | one row for each                         | what it says |
|---|---|---|
| pairs    | given pair                               | its columns, as given |
| inputs   | lane × given pair                        | tokens (or vectors), spans, labels, class, kept |
| runs     | lane × pair × run × read                 | the unintervened values |
| cells    | resolved cell                            | number, id, units |
| points   | written grid point                       | block and axes, as written |
| grid     | class × point                            | the cell that the point is in that class of pairs |
| cellsets | cell of a cellset, in running order      | k-th cell, and its cost |
| tiles    | lane × cellset × at most 64 pairs        | pairs, first ordinal, the k wanted, and of how many |
| screening| cell of a screened plan                  | whether it runs, and how many it stands for |
| carried  | cell or pair of an earlier plan          | what it is: an earlier tile still names it |
| retired  | number that no longer belongs to the plan| so that it is never used again |
| tokens   | lane × token id                          | readable text |
"""

__all__ = [
    "OPTIONAL_TABLES",
    "Counted",
    "Lane",
    "Plan",
    "Ranges",
    "Tile",
    "decode_plan",
    "encode_plan",
    "mask",
    "read_plan",
    "stretches",
]

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.plan.pair_columns import prompts_of
from orchestrator.store import PlanRef, StudyStore
from workers.errors import StoreError
from workers.libraries.pyarrow import open_parquet, read_all
from workers.metrics import ESTIMATE
from workers.vocabulary import Cell, ModelSpec, Pair, Prompt, Vectors

PLAN_FORMAT = 2
"""Of the tables. In format 1 a cell cost all tokens of the longest base: the next run plans once more."""
_READABLE = (1, PLAN_FORMAT)
TABLES = (
    "pairs",
    "inputs",
    "runs",
    "cells",
    "points",
    "grid",
    "cellsets",
    "tiles",
    "carried",
    "retired",
    "tokens",
)
OPTIONAL_TABLES = ("fits", "fit_pairs", "screening", "trainings")
"""Only the plans of studies that name fits have the first two (see `orchestrator.plan.fit_tables`), of those
that are screened the third (see `orchestrator.plan.screening`), of those that train the last (see
`orchestrator.plan.trainings`)."""

Ranges = tuple[tuple[int, int], ...]
"""Sorted half-open ranges that do not overlap."""

Counted = tuple[int, int, int]
"""A half-open range, and a number that holds for all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One model as the jobs see it: its number in the store, how it is loaded, and what it is."""

    lane: int
    spec: ModelSpec
    identity: str
    """Reference, revision and dtype, which make it this model and no other, as canonical JSON."""
    num_parameters: int
    training: str | None = None
    """``STUDY/IDENTITY`` of the training that makes it; None for a model that is there."""

    @property
    def model(self) -> str:
        """Name in views: of a trained model that of its training, whose axes are columns of their own."""
        return self.spec.title if self.training is None else self.spec.ref

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "spec": self.spec.model_dump(mode="json")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The lane that `to_json` wrote."""
        return cls(**{**data, "spec": ModelSpec.stored(data["spec"])})


class TileSize(NamedTuple):
    """Size of a tile, and its lane."""

    lane: int
    num_cells: int
    num_pairs: int
    estimates: bool
    """Whether its jobs are estimated, and not run."""


@dataclass(frozen=True, slots=True)
class Tile:
    """At most 64 pairs of one class under one cellset: the jobs (k, j), k a cell's place, j a pair's."""

    tile: int
    lane: int
    cellset: int
    pairs: tuple[int, ...]
    ord0: int
    """Ordinal of its first job; that of job (k, j) is ``ord0 + k * len(pairs) + j``."""
    num_cells: int
    """Of its cellset."""
    selected: tuple[Counted, ...]
    """Half-open ranges of k that the plan asks for, each with the number of pairs that want it."""
    estimates: bool = False
    """Whether its jobs are estimated, and not run."""

    @property
    def num_jobs(self) -> int:
        """Number of ordinals that it takes, whatever the plan asks for."""
        return self.num_cells * len(self.pairs)

    @property
    def wanted(self) -> Ranges:
        """The ranges of k that the plan asks for."""
        return tuple((lo, hi) for lo, hi, _ in self.selected)

    @property
    def num_selected(self) -> np.ndarray:
        """Number of pairs for which each cell is wanted; shape (num_cells,)."""
        counts = np.zeros(self.num_cells, np.int64)
        for lo, hi, num_pairs in self.selected:
            counts[lo:hi] = num_pairs
        return counts


@dataclass(frozen=True)
class Plan:
    """All tables of one plan, and a head of plain facts."""

    head: Mapping[str, Any]
    tables: Mapping[str, pa.Table]

    @property
    def has_fits(self) -> bool:
        """Whether cells use fits, which are made before they run."""
        return "fits" in self.tables

    @property
    def num_jobs(self) -> int:
        """Distinct jobs that the plan runs: none before those of a screened study are selected."""
        return int(self.head["num_jobs"])

    @property
    def num_estimates(self) -> int:
        """Distinct jobs that are estimated first."""
        return int(self.head.get("num_estimates", 0))

    @property
    def families(self) -> tuple[str, ...]:
        """The metric families that every job that runs is done for."""
        return tuple(self.head["families"])

    def families_of(self, tile: Tile) -> tuple[str, ...]:
        """The metric families that the jobs of a tile are done for."""
        return (ESTIMATE,) if tile.estimates else self.families

    @cached_property
    def is_selected(self) -> bool:
        """Whether it is known which cells run; of a study that is not screened, all."""
        return (
            "screening" not in self.tables or "open" not in self.tables["screening"]["selected"].to_pylist()
        )

    @cached_property
    def lanes(self) -> dict[int, Lane]:
        """Lanes by number."""
        return {data["lane"]: Lane.from_json(data) for data in self.head["lanes"]}

    @cached_property
    def tiles(self) -> dict[int, Tile]:
        """Tiles by number, in the order in which they are to run."""
        return {
            row["tile"]: Tile(
                tile=row["tile"],
                lane=row["lane"],
                cellset=row["cellset"],
                pairs=tuple(row["pairs"]),
                ord0=row["ord0"],
                num_cells=len(self.cellsets[row["cellset"]]),
                selected=tuple((r["lo"], r["hi"], r["num_pairs"]) for r in row["selected"]),
                estimates=row.get("estimates", False),
            )
            for row in self.tables["tiles"].to_pylist()
        }

    @cached_property
    def tile_sizes(self) -> dict[int, TileSize]:
        """Sizes by tile, against which committed parts are checked.

        Made of plain lists: numpy's arrays of Arrow's would load pandas, 50 MB, into every query.
        """
        num_cells = Counter(self.tables["cellsets"]["cellset"].to_pylist())
        tiles = self.tables["tiles"]
        estimates = (
            tiles["estimates"].to_pylist() if "estimates" in tiles.column_names else [False] * tiles.num_rows
        )
        columns = (tiles[name].to_pylist() for name in ("tile", "lane", "cellset"))
        num_pairs = [
            end - begin
            for chunk in tiles["pairs"].chunks
            for begin, end in pairwise(chunk.offsets.to_pylist())
        ]
        return {
            tile: TileSize(lane, num_cells[cellset], pairs, bool(is_estimate))
            for tile, lane, cellset, pairs, is_estimate in zip(*columns, num_pairs, estimates, strict=True)
        }

    @cached_property
    def cellsets(self) -> dict[int, np.ndarray]:
        """For each cellset, the numbers of its cells in running order, shape (num_cells,)."""
        return self._by_cellset("cell")

    @cached_property
    def costs(self) -> dict[int, np.ndarray]:
        """For each cellset, what each cell costs for one pair in cost units, shape (num_cells,)."""
        return self._by_cellset("cost")

    @cached_property
    def cells(self) -> dict[int, Cell]:
        """Resolved cells by number."""
        table = self.tables["cells"]
        numbers, texts = table["cell"].to_pylist(), table["resolved"].to_pylist()
        return {n: Cell.from_json(json.loads(text)) for n, text in zip(numbers, texts, strict=True)}

    @cached_property
    def pairs(self) -> dict[int, Pair]:
        """Kept pairs by number."""
        kept = self.tables["inputs"].filter(self.tables["inputs"]["kept"])
        rows = kept.select(["pair", "spans", "label_ids", "base_label_ids"]).to_pylist()
        return {row["pair"]: _pair(row, tokens) for row, tokens in zip(rows, prompts_of(kept), strict=True)}

    @cached_property
    def carried_cells(self) -> dict[int, Cell]:
        """Cells that are no longer the plan's, but are left in an earlier tile."""
        return {number: Cell.from_json(data) for number, data in self._carried("cell")}

    @cached_property
    def carried_pairs(self) -> dict[int, Pair]:
        """Pairs that are no longer the plan's, but are left in an earlier tile."""
        return {
            number: _pair({"pair": number, **data}, {run: _prompt(p) for run, p in data["tokens"].items()})
            for number, data in self._carried("pair")
        }

    def _carried(self, what: str) -> list[tuple[int, Any]]:
        rows = self.tables["carried"].to_pylist()
        return [(row["number"], json.loads(row["content"])) for row in rows if row["what"] == what]

    def _by_cellset(self, column: str) -> dict[int, np.ndarray]:
        table = self.tables["cellsets"]
        numbers = table["cellset"].to_numpy()
        values = table[column].to_numpy()
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        pieces = np.split(values, starts[1:]) if len(starts) else []
        return {int(numbers[s]): piece for s, piece in zip(starts, pieces, strict=True)}


def _prompt(data: Any) -> Prompt:
    return Vectors.from_json(data) if isinstance(data, dict) else tuple(data)


def _pair(row: Mapping[str, Any], tokens: Mapping[str, Prompt]) -> Pair:
    spans = row["spans"] if isinstance(row["spans"], dict) else json.loads(row["spans"])
    return Pair(
        pair=row["pair"],
        tokens=tokens,
        spans={run: {name: (lo, hi) for name, (lo, hi) in named.items()} for run, named in spans.items()},
        label_ids=tuple(row["label_ids"]),
        base_label_ids=tuple(row["base_label_ids"]),
    )


Wanted = Mapping[str, Callable[[str], bool]]
"""Tables that are wanted, and whether a column of each is."""


def read_plan(store: StudyStore, ref: PlanRef, tables: Wanted | None = None) -> Plan:
    """A committed plan of `store`; only some of its `tables` may be asked for, None means all."""
    wanted = None if tables is None else {"plan.json", *(f"{name}.parquet" for name in tables)}
    names = [name for name in ref.files if wanted is None or name in wanted]
    return decode_plan({name: store.read_plan_file(ref, name) for name in names}, tables)


def encode_plan(plan: Plan) -> dict[str, bytes]:
    """The plan's files by name."""
    files = {
        "plan.json": json.dumps({"format": PLAN_FORMAT, **plan.head}, indent=1, ensure_ascii=False).encode()
    }
    for name, table in plan.tables.items():
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        files[f"{name}.parquet"] = sink.getvalue()
    return files


def decode_plan(files: Mapping[str, bytes], tables: Wanted | None = None) -> Plan:
    """The plan that `encode_plan` wrote, with some of its `tables` or with all.

    Raises:
        StoreError: another version wrote it in another form, or a file is missing.
    """
    needed = [name for name in TABLES if tables is None or name in tables]
    lacking = {"plan.json", *(f"{name}.parquet" for name in needed)} - files.keys()
    if lacking:
        raise StoreError(f"the plan lacks {min(lacking)}; restore it from a copy")
    head = json.loads(files["plan.json"])
    if head.get("format") not in _READABLE:
        known = " and ".join(map(str, _READABLE))
        raise StoreError(
            f"the plan has format {head.get('format')}, and this version reads {known};"
            f" use the swapyard that made it ({head.get('version')}), or another folder with --store"
        )
    names = [*TABLES, *(name for name in OPTIONAL_TABLES if f"{name}.parquet" in files)]
    chosen = [name for name in names if tables is None or name in tables]
    read = {
        name: _read_table(files[f"{name}.parquet"], None if tables is None else tables[name])
        for name in chosen
    }
    return Plan(head=head, tables=read)


def _read_table(data: bytes, is_wanted: Callable[[str], bool] | None) -> pa.Table:
    file = open_parquet(io.BytesIO(data))
    return read_all(file, None if is_wanted is None else [*filter(is_wanted, file.schema_arrow.names)])


def mask(num_cells: int, ranges: Iterable[tuple[int, int]]) -> np.ndarray:
    """Mask of the cells that lie in some of the half-open `ranges`; shape (num_cells,), bool."""
    inside = np.zeros(num_cells, bool)
    for lo, hi in ranges:
        inside[lo:hi] = True
    return inside


def stretches(values: np.ndarray) -> list[tuple[int, int]]:
    """The longest half-open ranges in which neighbours are equal, of `values` with shape (n,)."""
    edges = np.flatnonzero(np.diff(values)) + 1
    return [(lo, hi) for lo, hi in pairwise([0, *edges.tolist(), len(values)]) if lo < hi]
