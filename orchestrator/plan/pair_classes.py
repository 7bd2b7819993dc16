"""Classes of pairs that get the same cells: alike in lengths, spans and the ``where`` that they meet."""

__all__ = ["classify", "meant", "passing_blocks"]

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from orchestrator.plan.conditions import condition_problem, meets_nothing
from orchestrator.plan.pair_columns import Row, given_column
from orchestrator.plan.prepare import Prepared
from studies import Study
from studies.language.expand import PairClass, referenced_columns, used_spans
from studies.problems import shown
from workers.errors import StudyError
from workers.libraries.duckdb import confine


def classify(study: Study, rows: Sequence[Row], prepared: Prepared) -> dict[int, PairClass]:
    """The class of each kept pair, by its place among the given ones.

    Raises:
        StudyError: a ``where`` is no SQL over the pairs' columns.
    """
    blocks = study.blocks()
    passing = passing_blocks(rows, [block.where for block in blocks], [str(block.name) for block in blocks])
    columns, used = sorted(referenced_columns(study)), used_spans(study)
    return {
        one.given: PairClass(
            lengths=tuple((run, len(ids)) for run, ids in one.tokens.items()),
            spans=frozenset(
                (run, name)
                for run, named in one.spans.items()
                for name in named
                if used & {(run, name), (run, "*")}
            ),
            blocks=passing[one.given],
            columns=tuple((name, _hashable(rows[one.given].get(name))) for name in columns),
        )
        for one in prepared.kept
    }


def passing_blocks(
    rows: Sequence[Row], conditions: Sequence[str | None], whose: Sequence[str] = ()
) -> list[frozenset[int]]:
    """For each given pair, the blocks whose condition it meets; a block without one takes every pair.

    Args:
        rows: the pairs.
        conditions: of blocks, or of whatever else has some.
        whose: what errors call each of them, such as a block's name.

    Raises:
        StudyError: conditions are no SQL expressions over the columns of the pairs; a line for each.
    """
    every = frozenset(block for block, condition in enumerate(conditions) if condition is None)
    if len(every) == len(conditions):
        return [every] * len(rows)
    passing = [set(every) for _ in rows]
    problems: dict[str, None] = {}
    with _pairs(rows) as connection:
        for block, condition in enumerate(conditions):
            if condition is None:
                continue
            try:
                for number in _meeting(connection, condition):
                    passing[number].add(block)
            except StudyError as error:
                problems[f"{whose[block]}: {error}" if whose else str(error)] = None
    if problems:
        raise StudyError("\n".join(problems))
    return [frozenset(blocks) for blocks in passing]


def meant(rows: Sequence[Row], condition: str) -> str:
    """Hint at the meaning of a condition that no pair meets: the values of the columns that it names."""
    with _pairs(rows) as connection:
        return meets_nothing(connection, condition, "pairs")


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _pairs(rows: Sequence[Row]) -> duckdb.DuckDBPyConnection:
    """The pairs as the table ``pairs``, on a connection that reaches nothing else."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: given_column([row.get(name) for row in rows]) for name in names}
    connection = duckdb.connect()
    connection.register("arriving", pa.table(columns))
    connection.execute("CREATE TABLE pairs AS SELECT * FROM arriving")
    connection.unregister("arriving")
    confine(connection)
    return connection


def _meeting(connection: duckdb.DuckDBPyConnection, condition: str) -> list[int]:
    names = [name for (name, *_) in connection.execute("DESCRIBE pairs").fetchall()]
    if (problem := condition_problem(connection, condition, names, "the pairs'")) is not None:
        raise StudyError(problem)
    try:
        # Rows come in the order in which they were put in; the line break ends a comment at the end.
        found = connection.execute(f"SELECT ({condition}\n) IS TRUE FROM pairs").fetchall()
    except duckdb.Error as error:
        raise StudyError(
            f"where: {shown(condition)} cannot be answered: {str(error).splitlines()[0]};"
            f" the pairs' columns are {', '.join(names)}"
        ) from error
    return [number for number, (meets,) in enumerate(found) if meets]
