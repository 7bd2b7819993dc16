"""DuckDB connections that see studies and nothing else, and questions that read only what they need."""

__all__ = ["VIEWS", "ask", "connect", "connect_plan"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from types import MappingProxyType

import duckdb
import pyarrow as pa

from orchestrator.plan.tables import Plan, read_plan
from orchestrator.query.axes import add_counted, axes_view, set_axes
from orchestrator.query.columns import union
from orchestrator.query.groups import grouped, merged
from orchestrator.query.needs import EVERYTHING, QueryNeeds, needs_of
from orchestrator.query.needs import STUDY_VIEWS as VIEWS
from orchestrator.query.query_limits import QueryLimits, QueryTimer, fresh_folder
from orchestrator.query.statements import check_sql, run_query
from orchestrator.query.tables import StudyTables, lacking_columns, study_tables
from orchestrator.query.view_sql import estimates, facts, study_views
from orchestrator.stages.tables import stage_tables
from orchestrator.store import State, StudyStore
from orchestrator.store.storage import LocalStorage
from orchestrator.store.study_dirs import LeaveOut, read_each
from orchestrator.upkeep.lost import TellLost, readable
from workers.errors import OutOfTimeError, QueryError, StoreError
from workers.libraries.duckdb import limit, lock, quoted

_OF_STAGES: Mapping[tuple[str, ...], str] = MappingProxyType(
    {("fits",): "orchestrator.stages.fit.tables", ("trainings", "curves"): "orchestrator.stages.train.tables"}
)
"""Views of what stages make, and the module whose `view_tables` gives their tables.

Each is loaded where it is needed: with all that plans fits and trainings it takes a quarter of the
memory of a query that needs neither.
"""
_NO_LIMITS = QueryLimits()
_NO_WATCH = QueryTimer()


def connect(
    studies: Sequence[Path],
    *,
    leave_out: LeaveOut | None = None,
    lost: TellLost | None = None,
    verify: bool = True,
    limits: QueryLimits = _NO_LIMITS,
    watch: QueryTimer = _NO_WATCH,
    needs: QueryNeeds = EVERYTHING,
) -> duckdb.DuckDBPyConnection:
    """Open the views over all `studies` (study folders), each row with its ``study``.

    The connection reads the studies' data and can neither write nor reach anything else. A study that
    cannot be read goes, in one line that says why, to `leave_out`; without it, it is an error. Of one that
    lacks rows the views have the rest, and `lost` is told; without it, that is an error. With `verify` each
    file of rows is checked by its hash, once in a process. What does not fit into the memory that `limits`
    gives it goes to a folder for temporary files, which goes when the process ends.

    Only the views that one query `needs` are there, and only columns that it names hold what they say.

    Raises:
        OutOfTimeError: `watch` says so.
        QueryError: none of the studies has a plan that can be read, or one is damaged; or this DuckDB cannot
            be kept from all else.
        StoreError: one cannot be read, or lacks a file of rows.
    """
    connection = duckdb.connect()
    spilled = fresh_folder()
    limit(connection, limits.for_rows(), None if spilled is None else str(spilled))

    def read(root: Path) -> StudyTables | None:
        return _read_study(root, verify, watch, needs, lost)

    with _reading():
        added = list(read_each(studies, read, leave_out))
        found = [(root, made) for root, made in added if made is not None]
        prefixes = _add_groups(connection, found, needs, leave_out)
        if not prefixes:
            where = ", ".join(str(root) for root in studies) or "here"
            if len(added) < len(studies):
                raise QueryError(f"there is no study that can be read and has a plan in {where}")
            raise QueryError(f"there is no study with a plan in {where}; make one with: swapyard run STUDY")
        for view in VIEWS:
            if needs.has(view):
                statement = union(connection, [f"{prefix}v_{view}" for prefix in prefixes])
                connection.execute(f"CREATE VIEW {view} AS {statement}")
        if len(prefixes) == 1 and needs == EVERYTHING:
            add_counted(connection, prefixes[0])
        if needs.axes:
            set_axes(connection, union(connection, [f"{prefix}v__axes" for prefix in prefixes]))
        if needs == EVERYTHING:
            for name, table in stage_tables([root for root, _ in found]).items():
                connection.register(name, table)
    lock(connection, [str((root / "data").resolve()) for root, _ in found])
    return connection


@contextmanager
def _reading() -> Iterator[None]:
    """Within it a file that goes while it is read is an error of ours.

    Raises:
        StoreError: it is gone, or cannot be read.
    """
    try:
        yield
    except duckdb.IOException as error:
        said = str(error).strip().splitlines()[0]
        raise StoreError(
            f"a study changed while it was read, or was moved or removed ({said}); ask again"
        ) from None


def connect_plan(plan: Plan, root: Path) -> duckdb.DuckDBPyConnection:
    """The views that the study in `root` will have by a plan that may not be committed yet, without a row.

    For what asks which columns there are, and of which types.
    """
    empty = Plan(head=plan.head, tables={name: table.slice(0, 0) for name, table in plan.tables.items()})
    connection = duckdb.connect()
    made = study_tables(empty, State(), root)
    with_rest = replace(made, tables={**made.tables, **_made_before(EVERYTHING, empty, root)})
    prefixes = _add_groups(connection, [(root, with_rest)], EVERYTHING, None)
    for view in VIEWS:
        statement = union(connection, [f"{prefix}v_{view}" for prefix in prefixes])
        connection.execute(f"CREATE VIEW {view} AS {statement}")
    lock(connection, [])
    return connection


def _read_study(
    root: Path, verify: bool, watch: QueryTimer, needs: QueryNeeds, lost: TellLost | None
) -> StudyTables | None:
    """Tables that are needed of one study; None where it has no plan."""
    watch.check()
    store = StudyStore(root)
    state = store.state()
    if state.plan is None:
        return None
    ref = state.plan
    plan = read_plan(store, ref, needs.plan_tables)
    if needs.files:
        # Found now: later it would fail in the middle of a query, in words of DuckDB's, or be a wrong answer.
        whole = partial(read_plan, store, ref)
        state = readable(root, state, plan, lost, whole=whole, verify=verify, advance=watch.check)
        kept = {name: table for name, table in plan.tables.items() if name not in needs.checked_only}
        plan = Plan(head=plan.head, tables=kept)
    made = study_tables(plan, state, root, needs)
    return replace(made, tables={**made.tables, **_made_before(needs, plan, root)})


def _made_before(needs: QueryNeeds, plan: Plan, root: Path) -> dict[str, pa.Table]:
    """The tables of what is made before cells run, as far as they are needed."""
    more: dict[str, pa.Table] = {}
    for views, module in _OF_STAGES.items():
        if needs.has(*views):
            more |= import_module(module).view_tables(plan, LocalStorage(root))
    return more


def _add_groups(
    connection: duckdb.DuckDBPyConnection,
    studies: Sequence[tuple[Path, StudyTables]],
    needs: QueryNeeds,
    leave_out: LeaveOut | None,
) -> list[str]:
    """Make the views of studies, those of one form together; the prefixes of their names.

    Where that fails, each is tried alone, so that one that cannot be read keeps nobody else out.
    """
    numbers = count()
    prefixes: list[str] = []
    waiting = [dict(group) for group in grouped(studies)]
    while waiting:
        group = waiting.pop(0)
        prefix = f"_{next(numbers)}_"
        try:
            _add_studies(connection, prefix, merged(list(group.values())), needs)
        except duckdb.Error as error:
            if len(group) > 1:
                waiting[:0] = [{root: made} for root, made in group.items()]
                continue
            (root,) = group
            problem = QueryError(f"the study in {root} cannot be read: {str(error).splitlines()[0]}")
            list(read_each([root], partial(_refuse, problem), leave_out))
            continue
        prefixes.append(prefix)
    return prefixes


def _refuse(problem: QueryError, root: Path) -> None:
    raise problem


def _add_studies(
    connection: duckdb.DuckDBPyConnection, prefix: str, made: StudyTables, needs: QueryNeeds
) -> None:
    """Make the views of studies that stand in one."""
    passing = [name for name in made.tables if name in needs.passing]
    for name in passing:
        connection.register(prefix + name, made.tables[name])
    kept = {name: table for name, table in made.tables.items() if name not in passing}
    _add_tables(connection, prefix, kept)
    if needs.rows:
        lacking = lacking_columns(connection, made.files)
        connection.execute(estimates(prefix, made))
        connection.execute(facts(prefix, made, lacking))
    for statement in study_views(prefix, made, needs):
        connection.execute(statement)
    if needs.axes:
        connection.execute(axes_view(prefix, made))
    for name in passing:
        connection.unregister(prefix + name)
    pa.default_memory_pool().release_unused()


def _add_tables(connection: duckdb.DuckDBPyConnection, prefix: str, tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        connection.register("_arriving", table)
        connection.execute(f"CREATE TABLE {quoted(prefix + name)} AS SELECT * FROM _arriving")
        connection.unregister("_arriving")


def ask(
    studies: Sequence[Path],
    sql: str,
    *,
    leave_out: LeaveOut | None,
    lost: TellLost | None = None,
    verify: bool = True,
    limits: QueryLimits,
    watch: QueryTimer,
) -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyRelation]:
    """The answer to `sql` over the studies in these folders, and the connection that it runs on.

    The arguments are those of `connect`. Rows are fetched within `watch.over` and `explained`.

    Raises:
        OutOfTimeError: `watch` says so.
        QueryError: see `connect` and `run_query`.
        StoreError: see `connect`.
    """
    with duckdb.connect(config={"threads": 1}) as parser:
        check_sql(parser, sql)
    needs = needs_of(sql)
    for some in dict.fromkeys((needs, EVERYTHING)):
        connection = connect(
            studies, leave_out=leave_out, lost=lost, verify=verify, limits=limits, watch=watch, needs=some
        )
        try:
            with watch.over(connection):
                return connection, run_query(connection, sql)
        except OutOfTimeError:
            raise
        except QueryError:
            # What is near a name that is not there is told by all that there is.
            if some == EVERYTHING:
                raise
    raise AssertionError("everything is the last that is tried")
