"""Studies in a few words: how a run ended, what results hold, and why jobs failed."""

__all__ = ["ending", "failed_jobs", "told_of"]

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.query import explained
from orchestrator.remaining import Counts
from orchestrator.status import StudyStatus, read_status
from orchestrator.views import connect
from workers.errors import JobsFailedError, SwapyardError, counted

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
    """What results hold: how far each study is, and how the run of `outcome` ended, if there was one."""
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
    """How a run ended, in one line."""
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
