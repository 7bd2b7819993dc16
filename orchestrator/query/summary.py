"""Summaries of studies: a run's last line, the table of its largest effects, and why jobs failed."""

__all__ = ["answer", "ending", "failed_jobs", "recall_lines", "told_of"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.plan.remaining import Counts
from orchestrator.query.axes import model_columns, varying
from orchestrator.query.connection import connect
from orchestrator.query.statements import explained, named_queries
from orchestrator.text_tables import table
from orchestrator.upkeep.status import StudyStatus, read_status
from workers.errors import JobsFailedError, SwapyardError, counted
from workers.libraries.duckdb import quoted

if TYPE_CHECKING:
    from orchestrator.run.driver import Outcome

FAILURES = "SELECT error_type, error_message, count(*) AS jobs FROM failures GROUP BY ALL ORDER BY jobs DESC"
"""Why jobs failed, and how many of each."""
MOST_STUDIES = 6
"""Of several, those that are told of one by one."""
_MOST_TEXT = 200
_STOPPED = {
    "interrupted": "interrupted",
    "limit": "stopped by --limit",
    "time": "stopped by --max-time",
    "failures": "stopped by --max-failures",
}


def told_of(folders: Sequence[Path], outcome: "Outcome | None") -> str:
    """Results in one line: the progress of each study, and how the run of `outcome` ended, if any."""
    studies = [_study(folder) for folder in folders[:MOST_STUDIES]]
    if len(folders) > MOST_STUDIES:
        studies.append(f"{len(folders) - MOST_STUDIES:,} more studies")
    how = "" if outcome is None or outcome.stopped is None else f"; stopped: {outcome.stopped}"
    return f"<Results of {', '.join(studies) or 'no study'}{how}>"


def _study(folder: Path) -> str:
    try:
        (found,) = read_status(folder.parent, [folder.name])
    except (SwapyardError, OSError) as error:
        return f"{folder.name} (cannot be read: {error})"
    return f"{folder.name} ({_far(found)}) in {folder}"


def _far(found: StudyStatus) -> str:
    if found.damaged is not None:
        return f"damaged: {found.damaged}"
    if not found.is_selected:
        return f"{found.num_estimated:,} of {found.num_estimates:,} estimates done"
    return f"{found.num_done:,} of {found.num_jobs:,} jobs done, {found.num_failed:,} failed"


def failed_jobs(root: Path, counts: Counts) -> JobsFailedError:
    """The error that says how many jobs of the study in `root` failed, of what most of them, and which query
    shows them."""
    open_it = f'swapyard.open_results({root.name!r}, store={str(root.parent)!r}).sql("FROM failures")'
    text = (
        f"{counts.num_failed:,} of {counts.num_jobs:,} jobs of the study {root.name!r} failed"
        f"{_most_common(root)}; to see them: {open_it}; with on_failure='keep' that is no error"
    )
    return JobsFailedError(text, num_failed=counts.num_failed, query="FROM failures")


def _most_common(root: Path) -> str:
    """The error of most of them; empty where that cannot be read."""
    try:
        connection = connect([root])
        with explained(connection):
            found = connection.execute(f"{FAILURES} LIMIT 1").fetchall()
    except SwapyardError:
        return ""
    if not found:
        return ""
    kind, message, num = found[0]
    return f", {num:,} of them of {kind}: {' '.join(str(message).split())[:_MOST_TEXT]}"


def ending(outcome: "Outcome") -> str:
    """End of a run, in one line."""
    counts = outcome.counts
    if outcome.stopped is not None:
        how = _STOPPED[outcome.stopped]
        if counts.is_complete:
            return f"{how}: {outcome.num_retried:,} failed jobs have run again"
        num_done, total, what = counts.now
        return f"{how} at {num_done:,} of {total:,} {what}, all of them kept"
    again = f"{outcome.num_retried:,} failed ones again " if outcome.num_retried else ""
    if outcome.num_ran:
        news = (
            f"{outcome.num_ran:,} of them {'and ' if again else ''}{again}in these {outcome.seconds:,.0f} s"
        )
    elif again:
        news = f"{again}in these {outcome.seconds:,.0f} s"
    else:
        news = "all of them before, so there was nothing to do"
    return f"{outcome.root.name}: {counted(counts.num_done, 'job')} done, {news}; results in {outcome.root}"


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
        kinds = [name for name in axes if name in (*model_columns(connection), *_KINDS)]
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


def _fitting(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
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


def _recall_line(row: Mapping[str, Any]) -> str:
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
