"""The rows of a call that the clean runs of their bases answer: gathered first, filled in together.

Shapes: P pairs.
"""

__all__ = ["RowGroup", "UnchangedRows"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from workers.change.jobs import Job, source_read
from workers.engine.shortcut import Beginnings, surely_unchanged
from workers.facts import ModelFacts
from workers.vocabulary import Cell, Pair

_Reads = tuple[int, int | None]
"""The tokens that are read, of the base and of the first source."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows with one result: what any of their jobs has."""

    job: Job
    """As far as it is scored: its pair, and what it reads."""
    rows: NDArray[np.int64]

    @classmethod
    def only(cls, job: Job) -> Self:
        """The row of a job that is like no other."""
        return cls(job, np.array([job.row]))


class UnchangedRows:
    """Gathers the rows of jobs that change nothing.

    Args:
        pairs: those of the call, of one class.
        facts: what is known of the model, which must be causal.
    """

    def __init__(self, pairs: Sequence[Pair], facts: ModelFacts) -> None:
        self._pairs = pairs
        self._facts = facts
        self._beginnings = Beginnings(pairs)
        self._found: dict[_Reads, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
        """Rows and the pairs that they are of, both [n]."""

    def take(self, cell: Cell, first_row: int, chunk: Sequence[int]) -> Sequence[int]:
        """Take the rows of the cell that surely change nothing; the pairs of `chunk` that are left.

        The model must have the cell, and every clean run that it needs must have come out.
        """
        alike = surely_unchanged(cell, self._beginnings, self._facts)
        pairs = np.asarray(chunk, np.int64)
        mine = alike[pairs]
        if not mine.any():
            return chunk
        assert isinstance(cell.read, int), "spans are asked of the jobs"
        self._add((cell.read, source_read(cell.read, self._pairs[0])), first_row + pairs[mine], pairs[mine])
        left: list[int] = pairs[~mine].tolist()
        return left

    def add(self, job: Job) -> None:
        """Take the row of one job."""
        self._add((job.read, job.source_read), np.array([job.row]), np.array([job.pair]))

    def alike(self) -> list[RowGroup]:
        """All rows that were taken, together where their pair and what they read are the same."""
        return [
            RowGroup(Job(row=int(rows[0]), pair=pair, read=read, source_read=source, changes=()), rows)
            for (read, source), found in self._found.items()
            for pair, rows in _by_pair(*(np.concatenate(column) for column in zip(*found, strict=True)))
        ]

    def _add(self, reads: _Reads, rows: NDArray[np.int64], pairs: NDArray[np.int64]) -> None:
        self._found.setdefault(reads, []).append((rows, pairs))


def _by_pair(rows: NDArray[np.int64], pairs: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The rows of each pair."""
    order = np.argsort(pairs, kind="stable")
    numbers, starts = np.unique(pairs[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(rows[order], starts[1:]), strict=True))
