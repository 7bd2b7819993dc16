"""How many of the largest effects a screened study found: a line for each of its models."""

__all__ = ["recall_lines"]

from pathlib import Path
from typing import Any

from orchestrator.query import explained, named_queries
from orchestrator.views.connection import connect


def recall_lines(root: Path) -> list[str]:
    """The recall of the screening in the study's folder `root`, measured on what ran.

    Raises:
        QueryError: rows cannot be read.
    """
    connection = connect([root])
    with explained(connection):
        relation = connection.sql(named_queries()["recall"].sql)
        rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    return [_line(row) for row in rows]


def _line(row: dict[str, Any]) -> str:
    told = f"screening of {row['model']}: {row['kept']:,} cells were kept"
    if row["recall"] is None:
        return f"{told}, and none of the others ran, so that the recall is not known"
    if not row["sampled"]:
        return f"{told}: all that there are"
    range_ = (
        "" if row["sampled"] == row["others"] else f" (95 %: {row['at_least']:.2f} to {row['at_most']:.2f})"
    )
    return (
        f"{told}; recall {row['recall']:.2f}{range_}: of {row['sampled']:,} that ran of the {row['others']:,}"
        f" others {row['sampled_in_top']:,} belong to the {row['kept']:,} largest"
    )
