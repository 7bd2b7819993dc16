"""Needs of a query: the views, tables and columns that it rests on, so that nothing else is read."""

__all__ = ["EVERYTHING", "STUDY_VIEWS", "QueryNeeds", "needs_of"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import duckdb

from workers.errors import QueryError
from workers.libraries.duckdb_trees import asked, explained_select, statements

STUDY_VIEWS = (
    *("results", "scores", "activations", "cells", "screening", "pairs", "inputs", "runs", "failures"),
    *("batches", "fits", "trainings", "curves"),
)
_OF_JOBS = frozenset({"results", "scores", "activations"})
_OF_ROWS = _OF_JOBS | {"failures", "screening"}
_ALSO = {
    "cells": ("cellsets", "tiles"),
    "screening": ("screening",),
    "fits": ("fits", "fit_pairs"),
    "trainings": ("trainings",),
    "curves": ("trainings",),
}
"""Tables that a view needs besides those that rows are joined with."""
_CATALOGUE = ("duckdb_columns", "duckdb_functions")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryNeeds:
    """Views that a query names, the words in it, and whether it asks which axes vary."""

    views: frozenset[str]
    words: frozenset[str] | None
    """Names of columns are among them; None means all columns."""
    axes: bool

    def has(self, *views: str) -> bool:
        """Whether any of these views is needed."""
        return not self.views.isdisjoint(views)

    @property
    def rows(self) -> bool:
        """Whether any row of a part is looked at."""
        return not self.views.isdisjoint(_OF_ROWS)

    @property
    def files(self) -> bool:
        """Whether it counts which files of rows are there."""
        return self.rows or self.has("cells", "batches")

    @property
    def sides(self) -> bool:
        """Whether rows are joined with their pairs and cells, or these with each other."""
        return self.rows or self.axes

    @property
    def clean_runs(self) -> bool:
        """Whether a job's unintervened runs are looked at."""
        return self.has("screening", "runs") or self._of_jobs("base_run_", "source_run_", "changed")

    @property
    def tokens(self) -> bool:
        """Whether the words of predicted tokens are."""
        return self.has("runs") or self._of_jobs("pred_token")

    @property
    def places(self) -> bool:
        """Whether it is looked at where named spans lie in each pair."""
        return self.axes or self._of_jobs("base_position", "source_positions")

    @property
    def estimates(self) -> bool:
        """Whether what was estimated is."""
        return self.has("screening", "failures") or self._of_jobs("estimate")

    @property
    def plan_tables(self) -> dict[str, Callable[[str], bool]]:
        """The tables of a plan that are read, and whether a column of each is."""
        return {**(_CHECKED if self.files else {}), **self._of_views}

    @property
    def checked_only(self) -> frozenset[str]:
        """Tables of which no view is made: what commits say of files of rows is held against them."""
        return frozenset(self.plan_tables) - frozenset(self._of_views)

    @property
    def _of_views(self) -> dict[str, Callable[[str], bool]]:
        found: dict[str, Callable[[str], bool]] = {}
        if self.sides or self.has("inputs", "cells", "runs"):
            found["inputs"] = self._reads_input
        if self.sides or self.has("inputs", "pairs"):
            found["pairs"] = _every
        if self.sides or self.has("cells"):
            found |= {"cells": self._reads_cell, "points": self._reads_point, "grid": _every}
        for view, names in _ALSO.items():
            if self.has(view):
                found |= dict.fromkeys(names, _every)
        if self.clean_runs:
            found["runs"] = _every
        if self.tokens:
            found["tokens"] = _every
        return found

    def _reads_input(self, column: str) -> bool:
        if self.has("inputs") or self.places:
            return True
        return {
            **dict.fromkeys(("tokens", "spans", "reason"), False),
            "base_tokens": self.names("base_tokens"),
            "pair_id": self.has("runs") or self.names("pair_id", "job_id"),
            "label_ids": self.names("label_id", "iia", "flip"),
            "base_label_ids": self.names("base_label_id", "flip"),
        }.get(column, True)

    def _reads_cell(self, column: str) -> bool:
        return {
            "resolved": self.has("cells"),
            "cell_id": self.names("cell_id", "job_id"),
            "read": self.clean_runs,
            **dict.fromkeys(("symbolic", "base_positions", "source_positions"), self.places),
        }.get(column, True)

    def _reads_point(self, column: str) -> bool:
        return column.startswith("_") or column == "model" or self.axes or self.given(column)

    def names(self, *columns: str) -> bool:
        """Whether one of these columns of jobs may be looked at."""
        if self.words is None or self.has("scores", "activations", "failures", "cells", "screening"):
            return True
        return any(column.casefold() in self.words for column in columns)

    def given(self, column: str) -> bool:
        """Whether a column that users named may be, whatever the view calls it."""
        name = column.casefold()
        return self.names(name) or any(word.endswith(f".{name}") for word in self.words or ())

    @property
    def passing(self) -> frozenset[str]:
        """The tables that no view needs once rows can be joined with what is made of them."""
        if self == EVERYTHING:
            return frozenset()
        kept = {
            **dict.fromkeys(("cells", "grid", "points"), ("cells", "screening")),
            "pairs": ("pairs", "inputs"),
            "inputs": ("inputs", "runs"),
            "runs": ("runs",),
        }
        also = {name for view, names in _ALSO.items() if self.has(view) for name in names}
        return frozenset(name for name, views in kept.items() if not self.has(*views)) - also

    def _of_jobs(self, *beginnings: str) -> bool:
        """Whether the views of jobs are asked for columns that begin so."""
        if not self.has(*_OF_JOBS):
            return False
        return self.words is None or any(word.startswith(beginnings) for word in self.words)


def _every(column: str) -> bool:
    return True


_CHECKED: Mapping[str, Callable[[str], bool]] = {
    "cellsets": lambda column: column == "cellset",
    "tiles": lambda column: column in ("tile", "lane", "cellset", "pairs", "estimates"),
}
"""Columns that sizes of tiles are made of."""


EVERYTHING = QueryNeeds(views=frozenset(STUDY_VIEWS), words=None, axes=True)


def needs_of(sql: str) -> QueryNeeds:
    """Needs of the query `sql`; everything where they cannot be told, or a name in it is none of a view."""
    # Which parses alone, and so starts no threads.
    with duckdb.connect(config={"threads": 1}) as connection:
        try:
            found = statements(connection, sql)
            if len(found) != 1:
                return EVERYTHING
            ((_, query, is_select),) = found
            select = query if is_select else explained_select(connection, query)
        except (duckdb.Error, QueryError):
            return EVERYTHING
        named = None if select is None else asked(connection, select)
    if named is None or not named.tables <= named.own.union(STUDY_VIEWS) or named.calls & {*_CATALOGUE}:
        return EVERYTHING
    return QueryNeeds(
        views=named.tables & frozenset(STUDY_VIEWS), words=named.words, axes="getvariable" in named.calls
    )
