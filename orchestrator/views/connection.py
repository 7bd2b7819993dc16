"""A DuckDB connection that sees studies and nothing else."""

__all__ = ["VIEWS", "connect"]

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from orchestrator.plan.tables import read_plan
from orchestrator.query_limits import QueryLimits, Watch
from orchestrator.reading import LeaveOut, read_each
from orchestrator.spill import fresh_folder
from orchestrator.store import State, StudyStore
from orchestrator.store.fits import FitFolder
from orchestrator.store.storage import LocalStorage
from orchestrator.store.trainings import TrainingFolder
from orchestrator.store.verify import damaged_files
from orchestrator.views.axes import axes_view, set_axes
from orchestrator.views.fits import fits_table
from orchestrator.views.names import quoted
from orchestrator.views.older import lacking_columns
from orchestrator.views.sql import STUDY_VIEWS as VIEWS
from orchestrator.views.sql import estimates, facts, study_views
from orchestrator.views.tables import study_tables
from orchestrator.views.trainings import curves_table, trainings_view_table
from orchestrator.views.union import union
from workers.errors import QueryError, StoreError
from workers.libraries.duckdb import limit, lock

_NO_LIMITS = QueryLimits()
_NO_WATCH = Watch()


def connect(
    studies: Sequence[Path],
    *,
    leave_out: LeaveOut | None = None,
    verify: bool = True,
    limits: QueryLimits = _NO_LIMITS,
    watch: Watch = _NO_WATCH,
) -> duckdb.DuckDBPyConnection:
    """Open the views over all `studies` (study folders), each row with its ``study``.

    The connection reads the studies' data and can neither write nor reach anything else. A study that
    cannot be read goes, in one line that says why, to `leave_out`; without it, it is an error. With `verify`
    each file of rows is checked by its hash, once in a process. What does not fit into the memory that
    `limits` gives it goes to a folder for temporary files, which goes when the process ends.

    Raises:
        OutOfTimeError: `watch` says so.
        QueryError: none of the studies has a plan that can be read, or one is damaged; or this DuckDB cannot
            be kept from all else.
        StoreError: one cannot be read, or lacks a file of rows.
    """
    connection = duckdb.connect()
    spilled = fresh_folder()
    limit(connection, limits.for_rows(), None if spilled is None else str(spilled))
    prefixes = {root: f"_{number}_" for number, root in enumerate(studies)}
    added = read_each(
        studies, lambda root: _add_study(connection, prefixes[root], root, verify, watch), leave_out
    )
    planned = [root for root, has_plan in added if has_plan]
    if not planned:
        where = ", ".join(str(root) for root in studies) or "here"
        raise QueryError(f"there is no study with a plan in {where}; make one with: swapyard run STUDY")
    for view in VIEWS:
        statement = union(connection, [f"{prefixes[root]}v_{view}" for root in planned])
        connection.execute(f"CREATE VIEW {view} AS {statement}")
    set_axes(connection, union(connection, [f"{prefixes[root]}v__axes" for root in planned]))
    lock(connection, [str((root / "data").resolve()) for root in planned])
    return connection


def _add_study(
    connection: duckdb.DuckDBPyConnection, prefix: str, root: Path, verify: bool, watch: Watch
) -> bool:
    """Make one study's own views; whether it has a plan."""
    watch.check()
    store = StudyStore(root)
    state = store.state()
    if state.plan is None:
        return False
    _check_files(store, state, verify, watch)
    plan = read_plan(store, state.plan)
    made = study_tables(plan, state)
    fits = fits_table(plan, FitFolder(LocalStorage(root)).about)
    trainings = TrainingFolder(LocalStorage(root))
    trained, curves = trainings_view_table(plan, trainings), curves_table(plan, trainings)
    try:
        _add_tables(connection, prefix, {**made.tables, "fits": fits, "trained": trained, "curves": curves})
        folder = str(root.resolve())
        lacking = lacking_columns(connection, folder, made.files)
        connection.execute(estimates(prefix, folder, made.files))
        connection.execute(facts(prefix, folder, made.files, lacking))
        for statement in (*study_views(prefix, root.name, made), axes_view(prefix, root.name, made)):
            connection.execute(statement)
    except duckdb.Error as error:
        raise QueryError(f"the study in {root} cannot be read: {str(error).splitlines()[0]}") from error
    return True


def _check_files(store: StudyStore, state: State, verify: bool, watch: Watch) -> None:
    """Find now what would fail in the middle of a query, in words of DuckDB's, or be a wrong answer."""
    damaged = damaged_files(store.root, state, verify=verify, advance=watch.check)
    if damaged:
        first = damaged[0]
        path = store.locate(first.path)
        why = f"it {first.why}" if path.exists() else "no such file or directory"
        study = shlex.join([store.root.name, "--store", str(store.root.parent)])
        others = f"; so are {len(damaged) - 1:,} more files" if damaged[1:] else ""
        raise StoreError(
            f"{path} was committed and cannot be read ({why}){others}; see: swapyard doctor {study}"
        )


def _add_tables(connection: duckdb.DuckDBPyConnection, prefix: str, tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        connection.register("_arriving", table)
        connection.execute(f"CREATE TABLE {quoted(prefix + name)} AS SELECT * FROM _arriving")
        connection.unregister("_arriving")
