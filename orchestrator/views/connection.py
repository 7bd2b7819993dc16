"""A DuckDB connection that sees studies and nothing else."""

__all__ = ["VIEWS", "connect"]

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from orchestrator.lost import TellLost, readable
from orchestrator.plan.tables import read_plan
from orchestrator.reading import LeaveOut, read_each
from orchestrator.store import StudyStore
from orchestrator.store.fits import FitFolder
from orchestrator.store.storage import LocalStorage
from orchestrator.store.trainings import TrainingFolder
from orchestrator.views.axes import axes_view, set_axes
from orchestrator.views.fits import fits_table
from orchestrator.views.names import quoted
from orchestrator.views.older import lacking_columns
from orchestrator.views.sql import STUDY_VIEWS as VIEWS
from orchestrator.views.sql import estimates, facts, study_views
from orchestrator.views.tables import study_tables
from orchestrator.views.trainings import curves_table, trainings_view_table
from orchestrator.views.union import union
from workers.errors import QueryError
from workers.libraries.duckdb import lock


def connect(
    studies: Sequence[Path],
    *,
    leave_out: LeaveOut | None = None,
    lost: TellLost | None = None,
    verify: bool = True,
) -> duckdb.DuckDBPyConnection:
    """Open the views over all `studies` (study folders), each row with its ``study``.

    The connection reads the studies' data and can neither write nor reach anything else. A study that
    cannot be read goes, in one line that says why, to `leave_out`; without it, it is an error. Of one that
    lacks rows the views have the rest, and `lost` is told; without it, that is an error. With `verify` each
    file of rows is checked by its hash, once in a process.

    Raises:
        QueryError: none of the studies has a plan that can be read, or one is damaged; or this DuckDB cannot
            be kept from all else.
        StoreError: one cannot be read, or lacks a file of rows.
    """
    connection = duckdb.connect()
    prefixes = {root: f"_{number}_" for number, root in enumerate(studies)}
    found = read_each(
        studies, lambda root: _add_study(connection, prefixes[root], root, verify, lost), leave_out
    )
    added = list(found)
    planned = [root for root, has_plan in added if has_plan]
    if not planned:
        where = ", ".join(str(root) for root in studies) or "here"
        if len(added) < len(studies):
            raise QueryError(f"there is no study that can be read and has a plan in {where}")
        raise QueryError(f"there is no study with a plan in {where}; make one with: swapyard run STUDY")
    for view in VIEWS:
        statement = union(connection, [f"{prefixes[root]}v_{view}" for root in planned])
        connection.execute(f"CREATE VIEW {view} AS {statement}")
    set_axes(connection, union(connection, [f"{prefixes[root]}v__axes" for root in planned]))
    lock(connection, [str((root / "data").resolve()) for root in planned])
    return connection


def _add_study(
    connection: duckdb.DuckDBPyConnection, prefix: str, root: Path, verify: bool, lost: TellLost | None
) -> bool:
    """Make one study's own views; whether it has a plan."""
    store = StudyStore(root)
    state = store.state()
    if state.plan is None:
        return False
    plan = read_plan(store, state.plan)
    # Found now: later it would fail in the middle of a query, in words of DuckDB's, or be a wrong answer.
    state = readable(root, state, plan, lost, verify=verify)
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


def _add_tables(connection: duckdb.DuckDBPyConnection, prefix: str, tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        connection.register("_arriving", table)
        connection.execute(f"CREATE TABLE {quoted(prefix + name)} AS SELECT * FROM _arriving")
        connection.unregister("_arriving")
