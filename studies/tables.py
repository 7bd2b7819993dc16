"""Tables of pairs in memory: data frames and Arrow tables, as the rows that a list of pairs would have."""

__all__ = ["is_table", "rows_in_memory"]

from typing import Any

from studies.column_names import problems_of_names
from studies.plain_values import is_missing, unwrapped
from studies.problems import Problem, ProblemsError


def is_table(value: Any) -> bool:
    """Whether it is a data frame or an Arrow table, of whichever library."""
    is_arrow = hasattr(value, "to_pylist") and hasattr(value, "schema")
    return is_arrow or (hasattr(value, "columns") and hasattr(value, "to_dict"))


def rows_in_memory(table: Any) -> list[dict[str, Any]]:
    """The rows of a data frame or an Arrow table, what is missing in them left out.

    A data frame's index is no column of it. What is missing there is NaN, so NaN is nothing here.

    Raises:
        ProblemsError: names of columns are wrong: no list of rows could have them.
    """
    if hasattr(table, "to_pylist"):
        names = list(table.schema.names)
        _check(names)
        return [dict(row) for row in table.to_pylist()]
    names = list(table.columns)
    _check(names)
    if hasattr(table, "rows"):  # polars
        listed = table.rows()
    else:
        listed = zip(*(table[name].tolist() for name in names), strict=True)
    return [
        {
            name: plain
            for name, value in zip(names, row, strict=True)
            if not is_missing(plain := unwrapped(value))
        }
        for row in listed
    ]


def _check(names: list[Any]) -> None:
    if problems := problems_of_names(names):
        raise ProblemsError([Problem((), text) for _, text in problems])
