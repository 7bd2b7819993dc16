"""The pairs of a study as given: a list, a file, or a task's candidates in their seeded order."""

__all__ = ["Given", "read_given"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from studies import Study
from studies.identity import content_id
from studies.pairs import read_pairs
from studies.tasks import find_task
from workers.errors import NotYetError


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
        return str(content_id("rows", list(self.rows)))


def read_given(study: Study) -> Given:
    """The pairs that `study` lists, reads from a file, or has a task make.

    Raises:
        StudyError: there are none, or they cannot be read.
    """
    if study.pairs is not None:
        rows: Sequence[Mapping[str, Any]] = read_pairs(study.pairs)
        return Given(rows, _filter(study.filter, "none"), None, aligned=False)
    asked = study.all_tasks()
    if len(asked) != 1:
        raise NotYetError(
            f"study {study.study}: it needs pairs: or one task:; several tasks are not there yet"
        )
    task = find_task(asked[0].name)
    rows = list(task.candidates(seed=asked[0].seed or 0, options=asked[0].options))
    chosen = _filter(asked[0].filter or study.filter, task.filter)
    return Given(rows, chosen, asked[0].num_pairs, aligned=task.aligned)


def _filter(said: str | None, default: str) -> str | None:
    chosen = said or default
    return None if chosen == "none" else chosen
