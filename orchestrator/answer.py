"""The small table that a run ends with: the places where swapping does most."""

__all__ = ["answer", "recall_lines"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.lines import table
from orchestrator.query import explained, named_queries
from orchestrator.views import connect
from orchestrator.views.axes import varying
from orchestrator.views.names import quoted
from orchestrator.views.trainings import kinds_of

_TOP = 3
_WIDTH = 80
"""Of a terminal: what is wider loses the measures that say least, one after the other."""
_SPARED = ("kl_base", "changed", "recovered")
_SQL = """
WITH places AS (
    SELECT {axes}, avg(iia) AS iia,
           sum(logit_diff - base_run_logit_diff)
               / nullif(sum(source_run_logit_diff - base_run_logit_diff), 0) AS recovered,
           avg(changed) AS changed, avg(kl_base) AS kl_base, count(*) AS jobs,
           nullif(count(*) FILTER (near_tie), 0) AS near_ties
    FROM (SELECT * REPLACE (left(revision, 12) AS revision) FROM results) GROUP BY ALL
)
SELECT * FROM places
QUALIFY row_number() OVER ({partition} ORDER BY {rank}, {axes}) <= {top}
ORDER BY {order}, {axes}
"""
_RANK = ("iia DESC NULLS LAST", "recovered DESC NULLS LAST", "kl_base DESC NULLS LAST")
_KINDS = ("task", "read", "variable", "block", "site", "intervention")
"""Besides what tells models apart: each has places of its own in the table. Other axes are places."""


def answer(root: Path) -> str | None:
    """The three places of each kind where the study in `root` found the largest effects, as a table.

    It has a column for each axis that varies: what a row is the mean of is pairs, and nothing else.
    None where no job succeeded.

    Raises:
        QueryError: rows cannot be read.
    """
    connection = connect([root])
    with explained(connection):
        axes = varying(connection) or ("block",)
        kinds = [name for name in axes if name in (*kinds_of(connection), *_KINDS)]
        relation = connection.sql(_sql(axes, kinds))
        names, rows = relation.columns, relation.fetchall()
    if not rows:
        return None
    known = [i for i in range(len(names)) if any(row[i] is not None for row in rows)]
    return _fitting([names[i] for i in known], [[row[i] for i in known] for row in rows])


def _sql(axes: Sequence[str], kinds: Sequence[str]) -> str:
    return _SQL.format(
        axes=", ".join(map(quoted, axes)),
        partition=f"PARTITION BY {', '.join(map(quoted, kinds))}" if kinds else "",
        rank=", ".join(_RANK),
        order=", ".join([*map(quoted, kinds), *_RANK]),
        top=_TOP,
    )


def _fitting(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table no wider than a terminal as far as measures can be spared; axes never are."""
    text = table(names, rows)
    for spared in _SPARED:
        if max(map(len, text.splitlines())) <= _WIDTH:
            break
        if spared in names and len({*names} & {*_SPARED, "iia"}) > 1:
            at = names.index(spared)
            names = [*names[:at], *names[at + 1 :]]
            rows = [[*row[:at], *row[at + 1 :]] for row in rows]
            text = table(names, rows)
    return text


def recall_lines(root: Path) -> list[str]:
    """The recall of the screening in the study's folder `root`, measured on what ran.

    Raises:
        QueryError: rows cannot be read.
    """
    connection = connect([root])
    with explained(connection):
        relation = connection.sql(named_queries()["recall"].sql)
        rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    return [_recall_line(row) for row in rows]


def _recall_line(row: dict[str, Any]) -> str:
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
