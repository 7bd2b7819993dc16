"""Groups of studies whose tables have the same columns: stacked, with one view over all of them.

A view for each of hundreds of studies would be bound, planned and opened hundreds of times.
"""

__all__ = ["grouped", "merged"]

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from orchestrator.query.tables import FilesOf, StudyTables, numbers, texts, values_of

_T = TypeVar("_T")

_NUMBERED = ("given", "pair", "class", "lane", "point", "cell")
"""Columns that count within a study. Numbers of several are told apart by their upper half."""
_HALF = 32
_OWN_NAMES = ("trained", "curves")
"""Tables whose columns are named by users; no number of ours is among them."""
_NAMING = ("lanes", "pairs", "batches", *_OWN_NAMES)
"""Tables of several studies that say of which a row is."""


def grouped(studies: Sequence[tuple[_T, StudyTables]]) -> list[list[tuple[_T, StudyTables]]]:
    """The studies that can stand in one view, together; each with what it comes with, in order."""
    groups: dict[Hashable, list[tuple[_T, StudyTables]]] = {}
    for key, made in studies:
        groups.setdefault(_form(made), []).append((key, made))
    return list(groups.values())


def merged(studies: Sequence[StudyTables]) -> StudyTables:
    """Several studies of one form as one, whose rows say of which study they are."""
    if len(studies) == 1:
        return studies[0]
    first = studies[0]
    files: dict[tuple[str, ...], FilesOf] = {}
    shifts: dict[str, int] = {}
    for number, made in enumerate(studies):
        for families, found in made.files.items():
            into = files.setdefault(families, FilesOf())
            into.first.extend(found.first)
            into.retries.extend(found.retries)
            shifts.update(dict.fromkeys((*found.first, *found.retries), number << _HALF))
    tables = {
        name: pa.concat_tables([_told(name, made, number) for number, made in enumerate(studies)])
        for name in first.tables
    }
    return replace(first, tables=tables, files=files, shifts=shifts, study=None)


def _form(made: StudyTables) -> Hashable:
    """Form of a study's tables, which two studies must share to stand in one view."""
    own = any("study" in made.tables[name].column_names for name in _OWN_NAMES if name in made.tables)
    located = "located" in made.tables and made.tables["located"].num_rows > 0
    return (
        made.study if own else None,
        tuple((name, tuple(map(str, table.schema))) for name, table in sorted(made.tables.items())),
        tuple(sorted((families, bool(found.retries)) for families, found in made.files.items())),
        (located, made.several_labels),
        (tuple(made.axes.items()), tuple(made.given.items())),
    )


def _told(name: str, made: StudyTables, number: int) -> pa.Table:
    """One table of a study with numbers that no other has, and with its name where rows are told by it."""
    table = made.tables[name]
    if name not in _OWN_NAMES:
        for at, column in enumerate(table.column_names):
            if column in _NUMBERED:
                table = table.set_column(at, column, _shifted(table[column], number))
    if name in _NAMING:
        table = table.add_column(0, "study", texts([made.study] * table.num_rows))
    return table


def _shifted(column: pa.ChunkedArray, number: int) -> pa.Array:
    if pa.types.is_string(column.type):
        # A part says the lane as text.
        lanes = column.to_pylist()
        return texts([str(int(one) + (number << _HALF)) if one.isdigit() else one for one in lanes])
    return numbers(values_of(column, np.dtype(np.uint64)) + np.uint64(number << _HALF))
