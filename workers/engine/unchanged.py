"""Jobs that provably change nothing that is read: the base's clean run answers them, without a forward.

This is sound in a model that a check at load showed to be causal. A unit is *harmless* if

- it puts back what is there: a vanilla swap with the base's own run at the same place; or with a
  source's, where base and source agree on every token up to each of the unit's, since what is at a
  token depends on no later one (nor on how many there are, unless the model's ``depends_on_length``); or
- what it changes cannot reach the token read: it lies at later tokens only; or, in the last block, at
  other tokens and at a site whose change stays at its token (past the attention's mixing, or a query).

Several harmless units are harmless together: those of the first kind write clean values, so whatever
differs from the clean run stems from the second kind, and its reach does not include the token read.

Noise, fits and the values of named runs are changes like any other: they never put back what is there. The
runs themselves change nothing in the job's own run.

A collection needs a forward of its own, and of coordinates that are no position nothing is known.

Of what lies at a module path only the base's own value is trusted: such a module may shift tokens.

Most of such jobs need not be made to be known: `surely_unchanged` tells them for all pairs of a cell at once.

Shapes: P pairs.
"""

__all__ = ["Beginnings", "RowGroup", "UnchangedRows", "is_unchanged", "surely_unchanged"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from workers.intervene.jobs import Change, Job, source_read
from workers.intervene.operations import COLLECT
from workers.intervene.values import FromRun
from workers.model.facts import ModelFacts
from workers.model.sites import SITES
from workers.vocabulary import Cell, CellUnit, Pair, Prompt, Vectors


class Beginnings:
    """Numbers of first tokens that the base shares with each other run, for some pairs of one class."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.num_pairs = len(pairs)
        self.lengths = {run: len(prompt) for run, prompt in pairs[0].tokens.items()}
        self._shared: dict[str, NDArray[np.int64]] = {
            run: np.array([_num_shared(pair.tokens["base"], pair.tokens[run]) for pair in pairs])
            for run in self.lengths
        }

    def shares(self, run: str, end: int) -> NDArray[np.bool_]:
        """Mask [P] of the pairs whose base and `run` agree on every token before `end`."""
        return self._shared[run] >= end


def surely_unchanged(cell: Cell, pairs: Beginnings, facts: ModelFacts) -> NDArray[np.bool_]:
    """Mask [P] of the pairs whose jobs of `cell` run without error and are unchanged.

    Of the others their jobs must be asked. The cell must be one that the model has.
    """
    found = np.full(pairs.num_pairs, not cell.runs)
    for unit in cell.units:
        found &= _is_harmless(unit, cell.read, pairs, facts)
    return found


def is_unchanged(job: Job, cell: Cell, pair: Pair, facts: ModelFacts) -> bool:
    """Whether `job`, which is `cell` on `pair`, gives what the clean base run gives in a causal model."""
    return all(
        _does_no_harm(unit, change, job, pair, facts)
        for unit, change in zip(cell.units, job.changes, strict=True)
    )


def _does_no_harm(unit: CellUnit, change: Change, job: Job, pair: Pair, facts: ModelFacts) -> bool:
    if unit.operation == COLLECT or unit.place.coordinates is not None:
        return False
    return _puts_back(unit, change, pair, facts) or _cannot_reach(unit, change, job.read, facts)


def _puts_back(unit: CellUnit, change: Change, pair: Pair, facts: ModelFacts) -> bool:
    place, origin = unit.place, unit.origin
    if unit.run not in pair.tokens:
        return False
    if origin is None or unit.operation != "vanilla" or change.step.is_pooled:
        return False
    is_same_place = (place.site, place.layer, place.heads) == (origin.site, origin.layer, origin.heads)
    if not is_same_place or not isinstance(change.value, FromRun) or change.tokens != change.value.tokens:
        return False
    if unit.run == "base":
        return True
    if facts.depends_on_length and len(pair.tokens["base"]) != len(pair.tokens[unit.run]):
        return False
    end = max(change.tokens, default=-1) + 1
    return place.site in SITES and pair.tokens["base"][:end] == pair.tokens[unit.run][:end]


def _cannot_reach(unit: CellUnit, change: Change, read: int, facts: ModelFacts) -> bool:
    return all(_is_out_of_reach(unit, token, read, facts) for token in change.tokens)


def _is_out_of_reach(unit: CellUnit, token: int, read: int, facts: ModelFacts) -> bool:
    site = SITES.get(unit.place.site)
    if site is None:
        return False
    stays = site.stays and unit.place.layer == facts.num_layers - 1
    return token > read or (stays and token != read)


def _is_harmless(
    unit: CellUnit, read: int | str, pairs: Beginnings, facts: ModelFacts
) -> NDArray[np.bool_] | bool:
    """The pairs on which a unit is harmless, as far as its tokens are indices, the same in both runs."""
    place, origin = unit.place, unit.origin
    if origin is None or origin.position != place.position or place.site not in SITES:
        return False
    if place.coordinates is not None:
        return False
    tokens = [token for token in (*place.position, read) if isinstance(token, int)]
    if len(tokens) <= len(place.position) or unit.run not in pairs.lengths:
        return False
    if not 0 <= min(tokens) <= max(tokens) < min(pairs.lengths["base"], pairs.lengths[unit.run]):
        return False
    changed, reading = tokens[:-1], tokens[-1]
    if all(_is_out_of_reach(unit, token, reading, facts) for token in changed):
        return True
    is_same_place = (place.site, place.layer, place.heads) == (origin.site, origin.layer, origin.heads)
    if unit.operation != "vanilla" or not is_same_place:
        return False
    if facts.depends_on_length and pairs.lengths["base"] != pairs.lengths[unit.run]:
        return False
    return pairs.shares(unit.run, max(changed, default=-1) + 1)


def _num_shared(base: Prompt, other: Prompt) -> int:
    """Number of first tokens that both share; of vectors all or none."""
    if base == other:
        return len(base)
    if isinstance(base, Vectors) or isinstance(other, Vectors):
        return 0
    return next(
        (at for at, (a, b) in enumerate(zip(base, other, strict=False)) if a != b), min(len(base), len(other))
    )


_Reads = tuple[int, int | None]
"""Tokens that are read, of the base and of the first source."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that share one result: that of any of their jobs."""

    job: Job
    """Job as far as it is scored: its pair, and what it reads."""
    rows: NDArray[np.int64]

    @classmethod
    def only(cls, job: Job) -> Self:
        """The row of a job that is like no other."""
        return cls(job, np.array([job.row]))


class UnchangedRows:
    """Rows of jobs that change nothing, gathered to be scored together from the bases' clean runs.

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
