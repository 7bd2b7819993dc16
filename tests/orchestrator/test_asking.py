"""Promise: a query reads what it needs and no more, and answers as if it had read everything."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_store import make_study

from orchestrator.query.connection import VIEWS, ask, connect
from orchestrator.query.needs import EVERYTHING, needs_of
from orchestrator.query.query_limits import QueryLimits, QueryTimer
from orchestrator.query.statements import run_query
from orchestrator.store import PlanRef, StudyStore
from workers.errors import QueryError, StoreError

OF_OTHER_TABLES = (
    "job_id",
    "near_tie",
    "base_positions",
    "pred_token",
    "iia",
    "flip",
    "changed",
    "pair.iia",
    "at",
)
"""Columns of which each rests on a table, or a part of one, that other columns do not need."""
COUNT = "SELECT count(*) FROM results"
Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Studies of which the first two are of one form."""
    store = tmp_path_factory.mktemp("runs")
    mine = {"size": [1, 2, 3, 4], "iia": ["a", "b", "c", "d"]}
    return [
        make_study(store / "alike", columns=mine, block={"for": {"at": [1]}}),
        make_study(store / "alike-too", columns=mine, block={"for": {"at": [2, 3]}}, margin=1e-9),
        make_study(
            store / "other",
            columns={"size": [[1]] * 4},
            dtypes=("float32", "bfloat16"),
            label_ids=((8, 9), (10, 11)),
        ),
    ]


def answer(roots: Sequence[Path], sql: str) -> Rows:
    connection, relation = ask(roots, sql, leave_out=None, limits=QueryLimits(), watch=QueryTimer())
    with connection:
        return _sorted(relation.fetchall())


def test_studies_read_together_have_the_rows_of_each_alone(roots: list[Path]) -> None:
    with ExitStack() as stack:
        alone = [stack.enter_context(connect([root])) for root in roots]
        together = stack.enter_context(connect(roots))
        for view in VIEWS:
            names = run_query(together, f"FROM {view}").columns
            wanted = [row for one in alone for row in _rows(one, view, names)]
            assert _sorted(_rows(together, view, names)) == _sorted(wanted), view


def _rows(connection: duckdb.DuckDBPyConnection, view: str, names: Sequence[str]) -> Rows:
    """The rows of a view, columns in that order; what has another form in each study as text."""
    relation = run_query(connection, f"FROM {view}")
    found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    return [tuple(str(row.get(name)) if name == "size" else row.get(name) for name in names) for row in found]


def test_each_column_alone_is_as_it_is_among_all(roots: list[Path]) -> None:
    some = roots[:2]
    with connect(some) as connection:
        columns = run_query(connection, "FROM results").columns
        asked = {name: f'SELECT "{name}" FROM results' for name in columns}
        whole = {name: _sorted(run_query(connection, sql).fetchall()) for name, sql in asked.items()}
    for name in OF_OTHER_TABLES:
        assert needs_of(asked[name]) != EVERYTHING
        assert answer(some, asked[name]) == whole[name], name


@pytest.mark.parametrize(
    "sql",
    [
        COUNT,
        "SELECT study, count(*), avg(iia), bool_or(near_tie) FROM results GROUP BY ALL",
        "SELECT r.study FROM results r JOIN cells c USING (study, cell_id) WHERE c.num_done > 0",
        "SELECT r FROM results r",
        "SELECT a, z FROM results t(a, b, c) JOIN (SELECT 1 AS z) ON true",
        "SELECT COLUMNS('_run_pred') FROM results",
        "SELECT COLUMNS(lambda c: list_contains(getvariable('axes'), c)), count(*) FROM results GROUP BY ALL",
        "WITH results AS (SELECT token AS pred_token FROM scores) SELECT pred_token FROM results",
        'SELECT "pair.iia", "AT" FROM results WHERE study LIKE \'alike%\'',
        "SELECT token, role, rank FROM scores",
        "DESCRIBE results",
        "SELECT 1",
    ],
)
def test_any_answer_is_the_one_that_reading_everything_gives(sql: str, roots: list[Path]) -> None:
    with connect(roots) as connection:
        assert answer(roots, sql) == _sorted(run_query(connection, sql).fetchall())


def test_a_name_that_is_not_there_is_told_by_all_that_there_is(roots: list[Path]) -> None:
    with pytest.raises(QueryError, match=r"there is one in .*batches"):
        answer(roots, "SELECT tile FROM results")
    with pytest.raises(QueryError, match="did you mean 'results'"):
        answer(roots, "FROM resluts")


def test_files_of_rows_are_not_looked_at_where_no_row_is_needed(tmp_path: Path) -> None:
    root = make_study(tmp_path / "lost")
    for part in (root / "data").rglob("*.parquet"):
        part.unlink()
    assert len(answer([root], "FROM pairs")) == 4
    with pytest.raises(StoreError, match="rows are lost"):
        answer([root], COUNT)


def test_one_of_many_that_duckdb_cannot_read_keeps_no_other_out(tmp_path: Path) -> None:
    roots = [make_study(tmp_path / name) for name in ("a", "b", "c")]
    (part,) = (roots[1] / "data").rglob("*.parquet")
    part.write_bytes(b"x" * part.stat().st_size)
    told: list[str] = []
    connection, relation = ask(
        roots,
        "SELECT DISTINCT study FROM results ORDER BY 1",
        leave_out=told.append,
        verify=False,
        limits=QueryLimits(),
        watch=QueryTimer(),
    )
    with connection:
        assert relation.fetchall() == [("a",), ("c",)]
    assert len(told) == 1 and told[0].startswith("the study b is left out: ")


def test_plan_tables_that_a_query_does_not_need_are_not_opened(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = StudyStore.read_plan_file

    def noted(store: StudyStore, plan: PlanRef, name: str) -> bytes:
        opened.append(name)
        return read(store, plan, name)

    monkeypatch.setattr(StudyStore, "read_plan_file", noted)
    assert answer(roots[:1], COUNT) == [(119,)]
    assert not {"runs.parquet", "tokens.parquet"} & {*opened}
    opened.clear()
    answer(roots[:1], "SELECT changed, pred_token FROM results")
    assert {"runs.parquet", "tokens.parquet"} <= {*opened}


def _sorted(rows: Rows) -> Rows:
    return sorted(rows, key=repr)
