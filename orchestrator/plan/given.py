"""The pairs of a study as given: a list, a file, or a task's candidates in their seeded order."""

__all__ = ["Given", "read_given"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from studies import Study
from studies.identity import content_id
from studies.pairs import read_pairs
from studies.tasks import find_task
from studies.variables import per_variable
from workers.errors import NotYetError
from workers.vocabulary import Vectors

CANDIDATES_PER_PAIR = 8
"""Of a task that could go on for ever, so many are made for each pair that a filter is to keep."""


@dataclass(frozen=True)
class Given:
    """Rows before any model has seen them, and how they are to be narrowed down."""

    rows: Sequence[Mapping[str, Any]]
    filter: str | None
    """``both_correct``, or None for every pair."""
    num_pairs: int | None
    """How many pairs are kept at most."""
    aligned: bool
    """Whether only pairs are kept whose base and sources have equally many tokens."""

    @cached_property
    def digest(self) -> str:
        """Names the rows by what they say."""
        return str(content_id("rows", [_content(row) for row in self.rows]))


def read_given(study: Study) -> Given:
    """The pairs that `study` lists, reads from a file, or has a task make.

    Raises:
        StudyError: there are none, or they cannot be read.
    """
    if study.pairs is not None:
        return Given(
            per_variable(study, read_pairs(study.pairs)), _filter(study.filter, "none"), None, aligned=False
        )
    asked = study.all_tasks()
    if len(asked) != 1:
        raise NotYetError(
            f"study {study.study}: it needs pairs: or one task:; several tasks are not there yet"
        )
    task, num_pairs = find_task(asked[0].name), asked[0].num_pairs
    chosen = _filter(asked[0].filter or study.filter, task.filter)
    candidates = task.candidates(seed=asked[0].seed or 0, options=asked[0].options)
    if task.is_endless and num_pairs is not None:
        candidates = islice(candidates, num_pairs * (1 if chosen is None else CANDIDATES_PER_PAIR))
    rows = list(candidates)
    given = per_variable(study, rows)
    kept = num_pairs and num_pairs * max(1, len(given) // max(1, len(rows)))
    return Given(given, chosen, kept, aligned=task.aligned)


def _content(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as plain data: of vectors, which are many numbers, what tells them apart."""
    return {
        name: [value.shape, value.digest] if isinstance(value, Vectors) else value
        for name, value in row.items()
    }


def _filter(said: str | None, default: str) -> str | None:
    chosen = said or default
    return None if chosen == "none" else chosen
