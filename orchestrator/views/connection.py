"""A DuckDB connection that sees studies and nothing else."""

__all__ = ["VIEWS", "connect"]

from collections.abc import Sequence
from pathlib import Path

import duckdb

from orchestrator.plan.tables import read_plan
from orchestrator.store import StudyStore
from orchestrator.views.sql import STUDY_VIEWS as VIEWS
from orchestrator.views.sql import facts, quoted, study_views
from orchestrator.views.tables import StudyTables, study_tables
from workers.errors import QueryError


def connect(studies: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """Open the views over all `studies` (study folders), each row with its ``study``.

    The connection reads the studies' data and can neither write nor reach anything else.

    Raises:
        QueryError: none of the studies has a plan yet.
    """
    connection = duckdb.connect()
    names: list[str] = []
    for root in studies:
        prefix = f"_{len(names)}_"
        if _add_study(connection, prefix, root):
            names.append(prefix)
    if not names:
        where = ", ".join(str(root) for root in studies) or "here"
        raise QueryError(f"there is no study with a plan in {where}; make one with: swapyard run STUDY")
    for view in VIEWS:
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM {prefix}v_{view}" for prefix in names)
        connection.execute(f"CREATE VIEW {view} AS {union}")
    _lock(connection, studies)
    return connection


def _add_study(connection: duckdb.DuckDBPyConnection, prefix: str, root: Path) -> bool:
    store = StudyStore(root)
    state = store.state()
    if state.plan is None:
        return False
    made = study_tables(read_plan(store, state.plan), state)
    _add_tables(connection, prefix, made)
    connection.execute(facts(prefix, str(root.resolve()), made.parts))
    for statement in study_views(prefix, root.name, made):
        connection.execute(statement)
    return True


def _add_tables(connection: duckdb.DuckDBPyConnection, prefix: str, made: StudyTables) -> None:
    for name, table in made.tables.items():
        connection.register("_arriving", table)
        connection.execute(f"CREATE TABLE {quoted(prefix + name)} AS SELECT * FROM _arriving")
        connection.unregister("_arriving")


def _lock(connection: duckdb.DuckDBPyConnection, studies: Sequence[Path]) -> None:
    allowed = [str((root / "data").resolve()) for root in studies]
    connection.execute("SET allowed_directories = ?", [allowed])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
