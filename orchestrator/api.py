"""Python front door: plan a study, run it, open its results."""

__all__ = ["Results", "open_results", "plan", "run"]

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.query.connection import ask
from orchestrator.query.formats import for_arrow, for_frames
from orchestrator.query.query_limits import QueryLimits, QueryTimer, size
from orchestrator.query.statements import explained
from orchestrator.query.summary import ending, failed_jobs, told_of
from orchestrator.run.driver import Outcome, run_study
from orchestrator.run.options import Limits, RunOptions
from orchestrator.run.overview import Overview, overview
from orchestrator.run.progress import Progress
from orchestrator.store.study_dirs import DEFAULT_ROOT, LeaveOut, home_of, study_folders, without_copies
from orchestrator.trust import allowed_study
from orchestrator.upkeep.lost import Lost, TellLost
from studies import Study, load_study
from workers.errors import QueryError, StudyError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_DEFAULT = RunOptions()
_ANY = QueryLimits()


class Results:
    """The views of one study or several, as they are now.

    Every call looks at what is committed at that moment, also while the study runs.
    """

    def __init__(
        self,
        folders: list[Path],
        outcome: Outcome | None = None,
        leave_out: LeaveOut | None = None,
        lost: TellLost | None = None,
        limits: QueryLimits = _ANY,
        *,
        verify: bool = True,
    ) -> None:
        self._folders = folders
        self._limits = limits
        self._leave_out = leave_out
        self._lost = lost
        self._verify = verify
        self.outcome = outcome
        """Outcome of the run that these results are of; None where none was made."""

    def __repr__(self) -> str:
        return told_of(self._folders, self.outcome)

    def sql(self, query: str) -> "duckdb.DuckDBPyRelation":
        """Answer one SELECT over the views: ``.df()``, ``.to_arrow_table()`` or ``.fetchall()`` of it.

        Values that Python, Arrow or pandas have not, such as an infinite date, are text.
        What fails only once rows are fetched, such as a cast, is DuckDB's own ``duckdb.Error`` then. With a
        timeout the query is answered here, and its rows are kept until they are fetched.

        Raises:
            QueryError: it is not one SELECT, or asks for what is not there.
            OutOfTimeError: it takes longer than the timeout.
            StoreError: a study is damaged, or lacks rows that were done; not with ``partial``.
        """
        with self._asked(query) as relation:
            held = for_frames(relation)
            return held if self._limits.timeout_s is None else held.materialize()

    def arrow(self, view: str = "results") -> "pa.Table":
        """A whole view as an Arrow table.

        Raises:
            QueryError: there is no such view, or its rows cannot be read.
            StoreError: as for `sql`.
        """
        with self._asked(f"FROM {view}") as relation:
            return for_arrow(relation).to_arrow_table()

    def df(self, view: str = "results") -> Any:
        """A whole view as a pandas data frame, where pandas is installed.

        Raises:
            QueryError: there is no such view, or its rows cannot be read.
            StoreError: as for `sql`.
        """
        with self._asked(f"FROM {view}") as relation:
            return for_frames(relation).df()

    def plot(
        self, kind: Literal["heatmap", "bars"] | None = None, *, output: str | Path | None = None, **keys: Any
    ) -> list[Path]:
        """Draw pictures of one study as PNG and SVG, and give their paths.

        Args:
            kind: of picture; without it the plots that the study itself names, or a sensible one.
            output: the picture's path without its ending; by default ``plots/KIND`` in the study's folder.
            keys: of the plot, as in a study file: x, y, fill, facet, where, scale, view, title, log.

        Raises:
            QueryError: these are several studies, or there is nothing to draw.
            StudyError: a key cannot have such a value.
            StoreError: as for `sql`.
        """
        from orchestrator.plots import draw_kind, draw_study

        if len(self._folders) != 1:
            names = ", ".join(folder.name for folder in self._folders)
            raise QueryError(f"a picture is of one study, and these are {names}; open one by its name")
        (root,) = self._folders
        if kind is None:
            if keys or output is not None:
                raise QueryError("say which kind of picture: heatmap or bars")
            return draw_study(root, lost=self._lost)
        stem = root / "plots" / kind if output is None else Path(output)
        return draw_kind(root, kind, stem, keys, lost=self._lost)

    @contextmanager
    def _asked(self, sql: str) -> Iterator["duckdb.DuckDBPyRelation"]:
        """The answer to one query, within the time that it has and with errors of ours."""
        watch = QueryTimer(self._limits.timeout_s)
        connection, relation = ask(
            self._folders,
            sql,
            leave_out=self._leave_out,
            lost=self._lost,
            verify=self._verify,
            limits=self._limits,
            watch=watch,
        )
        with watch.over(connection), explained(connection):
            yield relation


def plan(
    study: Study | str,
    *,
    store: str | Path = DEFAULT_ROOT,
    prepare: bool = False,
    trust: bool = False,
    trust_remote_code: bool = False,
) -> Overview:
    """Plan a study without running it: see ``swapyard plan``.

    `trust` lets the Python code beside a study file run, `trust_remote_code` that in its models' folders. A
    study that is built here needs neither for its functions: they are its caller's.

    Raises:
        StudyError, ModelError: it cannot be planned.
    """
    loaded = _study(study, trust=trust, remote_code=trust_remote_code)
    return overview(loaded, Path(store), prepare=prepare, say=Progress(quiet=True).say)


def run(
    study: Study | str,
    *,
    store: str | Path = DEFAULT_ROOT,
    executor: Literal["auto", "inline", "ray"] = _DEFAULT.executor,
    num_workers: int | None = _DEFAULT.num_workers,
    threads: int | None = _DEFAULT.threads,
    address: str | None = _DEFAULT.address,
    take_over: bool = _DEFAULT.take_over,
    replace: bool = _DEFAULT.replace,
    retry_failed: bool = _DEFAULT.retry_failed,
    error_types: Sequence[str] = _DEFAULT.error_types,
    limits: Limits = _DEFAULT.limits,
    slice_timeout_s: float | None = _DEFAULT.slice_timeout_s,
    require: Sequence[str] = _DEFAULT.require,
    trust: bool = False,
    trust_remote_code: bool = False,
    on_failure: Literal["raise", "keep"] = "raise",
    quiet: bool = False,
) -> Results:
    """Run a study, from wherever it stands, and open its results: see ``swapyard run``.

    `study` is a `Study`, a file, or the name of a bundled study; its folder is made below `store`.
    `trust` and `trust_remote_code` are as for `plan`.
    `on_failure` says what becomes of jobs that failed: an error, or rows of the view ``failures`` alone.

    Raises:
        JobsFailedError: jobs of the study failed; all others are done, and `open_results` has them.
        SwapyardError: see `run_study`; what was committed stays, the same call goes on.
    """
    if on_failure not in ("raise", "keep"):
        raise StudyError(f"on_failure={on_failure!r}; it is 'raise' or 'keep'")
    loaded = _study(study, trust=trust, remote_code=trust_remote_code)
    options = RunOptions(
        executor=executor,
        num_workers=num_workers,
        threads=threads,
        address=address,
        take_over=take_over,
        replace=replace,
        retry_failed=retry_failed,
        error_types=tuple(error_types),
        limits=limits,
        slice_timeout_s=slice_timeout_s,
        require=tuple(require),
    )
    with Progress(quiet=quiet) as progress:
        root = home_of(Path(store), loaded.study, progress.say)
        outcome = run_study(loaded, root, options, progress)
    progress.end(ending(outcome))
    results = Results([root], outcome)
    if outcome.counts.num_failed and on_failure == "raise":
        raise failed_jobs(root, outcome.counts)
    return results


def open_results(
    *studies: str,
    store: str | Path = DEFAULT_ROOT,
    partial: bool = False,
    verify: bool = True,
    memory: str | int | None = None,
    timeout: float | None = None,
) -> Results:
    """The results of the named studies below `store`, or of all.

    Args:
        studies: names of studies; without any, all below `store`.
        store: the folder that studies lie in.
        partial: whether to answer with the rest where studies cannot be read or rows are lost, and to warn of
            what is missing; else each question raises `StoreError` then.
        verify: whether each file of rows is checked by its hash, once in a process.
        memory: the most that a query may take, such as ``2GB``; by default half of the machine's. What does
            not fit goes to temporary files.
        timeout: seconds that a query may take.

    Raises:
        QueryError: `memory` is no size, or too little.
        StoreError: there is no such study.
    """
    limits = QueryLimits(memory_bytes=None if memory is None else size(memory), timeout_s=timeout)
    return Results(
        without_copies(study_folders(Path(store), studies), warnings.warn),
        leave_out=warnings.warn if partial else None,
        lost=_warn if partial else None,
        limits=limits,
        verify=verify,
    )


def _warn(lost: Lost) -> None:
    warnings.warn(str(lost), stacklevel=2)


def _study(given: Study | str, *, trust: bool, remote_code: bool) -> Study:
    loaded = given if isinstance(given, Study) else load_study(given)
    return allowed_study(loaded, trust=trust, remote_code=remote_code)
