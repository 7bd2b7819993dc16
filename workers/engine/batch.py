"""Batch of jobs that a worker is given in one call, and the rows that it hands back.

Shapes: n tokens of a unit, C columns of its place.
"""

__all__ = [
    "ESTIMATED",
    "HOOKED",
    "NO_ID",
    "RERUN",
    "RESUMED",
    "UNCHANGED",
    "Batch",
    "BatchResult",
    "CollectedVector",
    "Column",
    "Sheet",
    "empty_columns",
]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.attempts import error_json
from workers.intervene.edits import Edits
from workers.intervene.jobs import Change, Job
from workers.intervene.operations import COLLECT
from workers.metrics import raw_metrics
from workers.vocabulary import Cell, Pair

NO_ID = -1
"""Value of an integer column where there is none; a float column holds NaN."""

Column = NDArray[Any]
"""Values of one name, one a row: float32 with NaN, int32 with -1, or objects with None for no value."""


def empty_columns(families: Sequence[str], num_rows: int) -> dict[str, Column]:
    """An array for each raw metric of these families, all without a value."""
    return {
        name: np.full(num_rows, np.nan if raw.dtype == "float32" else NO_ID, raw.dtype)
        for name, raw in raw_metrics(families).items()
    }


HOOKED, RESUMED, UNCHANGED, ESTIMATED, RERUN = "hooked", "resumed", "unchanged", "estimated", "rerun"
"""Ways to obtain a row: a whole forward, one that begins at what changes first, its base's clean run, none at
all, and a whole forward after a resumed one failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Cells × pairs, all of which run."""

    cells: Sequence[tuple[int, Cell]]
    """(number, cell), sorted by what they change first: neighbours then share their hooks."""
    pairs: Sequence[Pair]
    """Pairs of one class: equal base lengths, and equal lengths of each source."""
    families: tuple[str, ...]
    """Families of metrics, of ``METRIC_FAMILIES``."""


class CollectedVector(TypedDict):
    """One activation vector that a collecting unit found."""

    unit: int
    """Number of the cell's unit, from 0."""
    token: int | None
    """Token of the base; None where the vector is of none: at coordinates, or of the run as a whole."""
    vector: NDArray[np.float32]
    """[C]: the place's columns, or coordinates in a subspace; of a region its values, row after row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """The rows of the first `num_cells` cells on every pair, in the order (cell, pair)."""

    num_cells: int
    columns: dict[str, Column]
    """``cell`` and ``pair`` (uint32), ``error`` (None or JSON text), ``tier``, ``collected`` (None or a list
    of `CollectedVector`), and the metrics (float32 with NaN, int32 with -1, where there is no value)."""
    tiers: Mapping[str, int]
    """Rows by the way they were obtained."""
    num_failed: int
    num_forwards: int
    """Forwards of the model, captures included."""
    model_s: float
    """Seconds in intervened forwards and their scores."""
    capture_s: float
    """Seconds in clean runs."""


@dataclass(slots=True)
class Sheet:
    """Rows of a call while they are filled."""

    columns: dict[str, Column]
    metrics: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, batch: Batch) -> "Sheet":
        """An empty row for each job of the batch."""
        num_rows = len(batch.cells) * len(batch.pairs)
        metrics = empty_columns(batch.families, num_rows)
        frame: dict[str, Column] = {
            "cell": np.repeat(np.array([n for n, _ in batch.cells], np.uint32), len(batch.pairs)),
            "pair": np.tile(np.array([pair.pair for pair in batch.pairs], np.uint32), len(batch.cells)),
            "error": np.full(num_rows, None, object),
            "tier": np.full(num_rows, HOOKED, object),
            "collected": np.full(num_rows, None, object),
        }
        return cls(frame | metrics, tuple(metrics))

    def put(self, rows: NDArray[np.int64], values: Mapping[str, Column], tier: str) -> None:
        """Fill in the metrics of some rows."""
        for name, column in values.items():
            self.columns[name][rows] = column
        self.columns["tier"][rows] = tier

    def collect(self, jobs: Sequence[Job], edits: Edits) -> None:
        """Fill in what the collecting units of `jobs`, the rows of a forward, found in it."""
        for row, job in enumerate(jobs):
            found = [
                one
                for number, change in enumerate(job.changes)
                if change.step.operation == COLLECT
                for one in _found(number, change, edits.collected(number, row))
            ]
            if found:
                self.columns["collected"][job.row] = found

    def fail(self, row: int, type_name: str, message: str) -> None:
        """Make a row a failure: it says why, and has no metrics."""
        for name in self.metrics:
            column = self.columns[name]
            column[row] = np.nan if column.dtype == np.float32 else -1
        self.columns["collected"][row] = None
        self.columns["error"][row] = error_json(type_name, message)

    def first(self, num_rows: int) -> dict[str, Column]:
        """The columns of the first rows."""
        return {name: column[:num_rows] for name, column in self.columns.items()}


def _found(number: int, change: Change, values: Tensor | None) -> Iterator[CollectedVector]:
    """Vectors that a unit collected, of `values` [n, …]."""
    if values is None:
        return
    # A place that holds one vector for the whole run has it once, whichever tokens were named.
    tokens = change.tokens if len(change.tokens) == len(values) else [None] * len(values)
    for token, vector in zip(tokens, values.flatten(1).float().cpu().numpy(), strict=True):
        yield CollectedVector(unit=number, token=token, vector=vector)
