"""Conditions in SQL that studies write as ``where``: deterministic expressions of one row, and nothing else.

One home for all of them: of blocks, fits, and plots. A condition says which pairs a study is of, so that it
has to mean the same whenever it is asked.
"""

__all__ = ["condition_problem", "listed", "meets_nothing"]

from collections.abc import Sequence

import duckdb

from studies.problems import shown
from workers.errors import QueryError, nearest
from workers.libraries.duckdb import quoted
from workers.libraries.duckdb_expressions import WITHOUT_BRACKETS, Expression, expression

_ALLOWED = "a condition is an expression of one row that always gives the same answer"
MOST_VALUES = 12
"""Values of a column that a message names."""
MOST_LISTED = 24
"""Columns that a message names."""
MOST_CHARACTERS = 20_000
"""Of one condition."""


def condition_problem(
    connection: duckdb.DuckDBPyConnection,
    condition: str,
    columns: Sequence[str],
    whose: str,
    table: str = "pairs",
) -> str | None:
    """Fault of a condition over `columns`, for a message; None where none is seen.

    Types are not checked: whoever asks the condition finds what is wrong with them.

    Args:
        connection: any.
        condition: as it is written.
        columns: there are, in any spelling of their capitals.
        whose: columns, for the message: ``the pairs'``.
        table: that they are of, whose name may stand before theirs.
    """
    given = f"where: {shown(condition)}"
    if len(condition) > MOST_CHARACTERS:
        return f"{given} has {len(condition):,} characters; at most {MOST_CHARACTERS:,} are allowed"
    there = f"{whose} columns are {listed(columns)}"
    try:
        found = expression(connection, condition)
    except (duckdb.Error, QueryError) as error:
        return f"{given} cannot be answered: {str(error).splitlines()[0]}; {there}"
    if found.problem:
        return f"{given} cannot be answered: Parser Error: {found.problem}; {there}"
    if found.refused:
        return f"{given}: {', '.join(found.refused)}: not allowed; {_ALLOWED}"
    return _unknown_columns(given, found, columns, (table, "main"), there)


def listed(columns: Sequence[str]) -> str:
    """Names of columns for a message; of very many the first."""
    if len(columns) <= MOST_LISTED:
        return ", ".join(columns)
    return f"{', '.join(columns[:MOST_LISTED])} and {len(columns) - MOST_LISTED} more"


def _unknown_columns(
    given: str, found: Expression, columns: Sequence[str], others: Sequence[str], there: str
) -> str | None:
    known = {name.casefold() for name in (*columns, *others)}
    for name in found.columns:
        if name.casefold() in known:
            continue
        if name.casefold() in WITHOUT_BRACKETS:
            return f"{given}: {name}, a function of the clock or the session: not allowed; {_ALLOWED}"
        return f"{given}: no column {name!r}; {there}{nearest(name, columns)}; text stands in single quotes"
    return None


def meets_nothing(connection: duckdb.DuckDBPyConnection, condition: str, table: str) -> str:
    """Hint at the meaning of a condition that no row meets: the values of the columns that it names.

    Empty where there are many, or they are no text.
    """
    found = expression(connection, condition)
    told: list[str] = []
    for column in found.columns:
        name = quoted(column)
        sql = (
            f"SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL ORDER BY 1 LIMIT {MOST_VALUES + 1}"
        )
        try:
            values = [value for (value,) in connection.execute(sql).fetchall()]
        except duckdb.Error:
            continue
        if 0 < len(values) <= MOST_VALUES and all(isinstance(value, str) for value in values):
            hints = (nearest(text, values) for text in found.texts if text not in values)
            told.append(f"{column} is {', '.join(map(shown, values))}{next(filter(None, hints), '')}")
    return "; ".join(told)
