"""Pairs of a study as given: a list, a file, or a task's candidates in their seeded order."""

__all__ = ["GivenPairs", "read_given", "task_rows"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from orchestrator.plan.pair_classes import passing_blocks
from orchestrator.plan.pair_columns import Row, holding, told
from studies import Study
from studies.bounds import check_candidates
from studies.language.blocks import Block, UnitKeys
from studies.language.blocks import is_source as is_source_name
from studies.language.identity import content_id
from studies.language.models import Task
from studies.language.trained import READ
from studies.language.variables import interchanged, per_variable
from studies.pairs.pair_rows import read_pairs
from studies.tasks import PairTask as Maker
from studies.tasks import find_task
from workers.errors import NotYetError, StudyError
from workers.vocabulary import Vectors

CANDIDATES_PER_PAIR = 8
"""Of a task that could go on for ever, so many are made for each pair that a filter is to keep."""


@dataclass(frozen=True)
class GivenPairs:
    """Pairs before any model has seen them, and the filters that narrow them down."""

    rows: Sequence[Row]
    filter: str | None
    """``both_correct``, or None for every pair."""
    num_pairs: int | None
    """Number of pairs that are kept at most."""
    aligned: bool
    """Whether only pairs are kept whose base and sources have equally many tokens."""
    labels_differ: bool = False
    """Whether a pair is of no use whose label is its base label: a listed one of a study that only swaps. Of
    a variable, in what is fitted, or where noise or an ablation hits the base, the answer may well stay."""

    @cached_property
    def digest(self) -> str:
        """Names the rows by what they say."""
        return str(content_id("rows", [_content(row) for row in self.rows]))


def read_given(
    study: Study, reads: Mapping[str | None, str], say: Callable[[str], None] | None = None
) -> GivenPairs:
    """The pairs that `study` lists, reads from a file, or has a task make.

    Args:
        study: whose pairs they are.
        reads: the outputs of trained models that are read, and the variable that each predicts; then each
            pair is given once for every output, with its label.
        say: gets a line for each column of a file of which something cannot be kept as it is.

    Raises:
        StudyError: there are none, or they cannot be read.
    """
    if study.pairs is not None:
        rows: Sequence[Row] = holding(read_pairs(study.pairs, say=say), say)
        given = per_variable(study, rows)
        return GivenPairs(
            given,
            _filter(study.filter, "none"),
            None,
            aligned=False,
            labels_differ=given is rows and not study.fits and all(map(_swaps, study.blocks())),
        )
    asked = study.all_tasks()
    if len(asked) != 1:
        raise NotYetError(
            f"study {study.study}: it needs pairs: or one task:; several tasks are not there yet"
        )
    task, num_pairs = find_task(asked[0].name, study.code), asked[0].num_pairs
    chosen = _filter(asked[0].filter or study.filter, task.filter)
    often = 1 if chosen is None else CANDIDATES_PER_PAIR
    rows = task_rows(task, asked[0], often=often)
    if reads:
        swaps = interchanged(study) if "variables" not in asked[0].options else None
        made = [
            _read_rows(task_rows(task, _about(asked[0], variable, swaps), often=often), read)
            for read, variable in reads.items()
        ]
        kept_rows = _asked_for(study, rows)
        given = per_variable(study, [rows[number] for number in kept_rows for rows in made])
    else:
        given = per_variable(study, rows)
    kept = num_pairs and num_pairs * max(1, len(given) // max(1, len(rows)))
    return GivenPairs(given, chosen, kept, aligned=task.aligned)


def _asked_for(study: Study, rows: Sequence[Row]) -> Sequence[int]:
    """The pairs that some block is about: those that are only trained on are many, and need no plan."""
    every = range(len(rows))
    if study.fits:
        return every
    try:
        passing = passing_blocks(rows, [block.where for block in study.blocks()])
    except StudyError:
        # It is about what a pair has only once it is given for each variable.
        return every
    return [number for number in every if passing[number]]


def task_rows(task: Maker, asked: Task, *, often: int = 1) -> list[Row]:
    """The pairs of a task; of one that could go on for ever `often` times as many as are asked for.

    Raises:
        StudyError: an option has an impossible value.
    """
    check_candidates(task.name, asked.num_pairs, asked.options)
    candidates = task.candidates(seed=asked.seed or 0, options=asked.options)
    if task.is_endless and asked.num_pairs is not None:
        candidates = islice(candidates, asked.num_pairs * often)
    return list(candidates)


def _about(asked: Task, output: str, variables: Sequence[object] | None) -> Task:
    """The same task, with labels about another variable."""
    options = {**asked.options, "output": output, **({"variables": variables} if variables else {})}
    return asked.model_copy(update={"options": options})


def _read_rows(rows: Sequence[Row], read: str | None) -> Sequence[Row]:
    return rows if read is None else [{**row, READ: read} for row in rows]


def _swaps(block: Block) -> bool:
    """Whether a block does nothing but put a source's values into the base."""
    if block.runs or block.for_ or block.interventions:
        return False
    units: Sequence[UnitKeys] = block.units or (block,)
    return all(_is_swap(unit) for unit in (block, *units))


def _is_swap(unit: UnitKeys) -> bool:
    said = unit.from_
    run = "source" if said is None or said.run is None else said.run
    is_source = is_source_name(run) and (said is None or (said.noise is None and said.fit is None))
    return is_source and unit.intervention in (None, "vanilla")


def _content(row: Row) -> dict[str, Any]:
    """The row as plain data: of vectors, which are many numbers, what tells them apart."""
    return {
        name: [value.shape, value.digest] if isinstance(value, Vectors) else told(value)
        for name, value in row.items()
    }


def _filter(said: str | None, default: str) -> str | None:
    chosen = said or default
    return None if chosen == "none" else chosen
