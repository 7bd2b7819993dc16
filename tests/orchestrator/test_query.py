"""Promise: a query only ever reads; a wrong one says what is near; the named ones give right numbers."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from small_store import BASE_RUN, LAYERS, POSITIONS, SITES, SOURCE_RUN, is_hit, jobs, label_logit, make_study

from orchestrator.query.connection import connect
from orchestrator.query.statements import explained, named_queries, run_query
from workers.errors import QueryError

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def connection(root: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect([root]) as opened:
        yield opened


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM results",
        "FROM results",
        "DESCRIBE results",
        "SUMMARIZE pairs",
        "SHOW TABLES",
        "VALUES (1)",
        "WITH a AS (FROM results) SELECT max(layer) FROM a",
        "SELECT 1 UNION SELECT 2",
        "PIVOT results ON layer IN (0, 1) USING avg(iia) GROUP BY site",
        "FROM range(3), unnest([1])",
        "SELECT list_transform([1], lambda x: x + 1);",
        "EXPLAIN SELECT count(*) FROM results",
        "-- why\nexplain analyze FROM results;",
        "EXPLAIN (ANALYZE, FORMAT json) WITH a AS (FROM results) SELECT max(layer) FROM a",
        "/* why */ EXPLAIN DESCRIBE results",
    ],
)
def test_statements_that_only_read_are_answered(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert run_query(connection, sql).fetchall()


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SET threads = 1", "SET is not allowed"),
        ("CREATE TABLE t AS SELECT 1", "CREATE is not allowed"),
        ("ATTACH 'x.db'", "ATTACH is not allowed"),
        ("EXPLAIN CREATE TABLE t AS SELECT 1", "EXPLAIN is not allowed"),
        ("EXPLAIN ANALYZE DELETE FROM _0_pairs", "EXPLAIN is not allowed"),
        ("EXPLAIN (ANALYZE) SELECT 1; SELECT 2", "the SQL has 2 statements"),
        ("EXPLAIN FROM read_text('/etc/hostname')", "the table function read_text is not allowed"),
        ("EXPLAIN ANALYZE (WITH gone AS (DELETE FROM _0_pairs RETURNING *) FROM gone)", "DELETE is not"),
        ("PIVOT results ON layer USING avg(iia)", "PIVOT without IN (…) is not allowed"),
        ("SELECT 1; SELECT 2", "the SQL has 2 statements"),
        ("-- nothing", "the SQL has 0 statements"),
        ("FROM read_text('/etc/hostname')", "the table function read_text is not allowed"),
    ],
)
def test_other_statements_are_refused(connection: duckdb.DuckDBPyConnection, sql: str, named: str) -> None:
    with pytest.raises(QueryError) as error:
        run_query(connection, sql)
    assert named in str(error.value)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{file}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
        "EXPLAIN ANALYZE WITH w AS (COPY (SELECT 1) TO '{file}') FROM w",
        "EXPLAIN (FORMAT json, ANALYZE) /* a */ COPY (SELECT 1) TO '{file}'",
        "WITH w AS (COPY (SELECT 1) TO '{file}') FROM w",
        "SELECT * FROM (WITH w AS (COPY (SELECT 1) TO '{file}') FROM w)",
        "FROM json_execute_serialized_sql(json_serialize_sql("
        "'WITH w AS (COPY (SELECT 1) TO ''{file}'') FROM w'))",
        "FROM query('WITH w AS (COPY (SELECT 1) TO ''{file}'') FROM w')",
    ],
)
def test_nothing_can_be_written_where_the_study_lies(
    root: Path, connection: duckdb.DuckDBPyConnection, sql: str
) -> None:
    file = root.resolve() / "data" / "written.csv"
    with pytest.raises(QueryError, match="not allowed"):
        run_query(connection, sql.format(file=file)).fetchall()
    assert not file.exists()


def test_the_views_cannot_be_changed_from_within_a_select(connection: duckdb.DuckDBPyConnection) -> None:
    before = run_query(connection, "SELECT count(*) FROM pairs").fetchall()
    with pytest.raises(QueryError, match="DELETE is not allowed, not even in WITH"):
        run_query(connection, "WITH gone AS (DELETE FROM _0_pairs RETURNING *) FROM gone")
    assert run_query(connection, "SELECT count(*) FROM pairs").fetchall() == before


def test_unknown_names_come_with_the_nearest_and_how_to_list_them(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(
        QueryError, match=r'"layr" not found.*"DESCRIBE results" lists.*did you mean \'layer\''
    ):
        run_query(connection, "SELECT layr FROM results")
    with pytest.raises(QueryError, match=r'"tier" not found.*there is one in .*results') as error:
        run_query(connection, "SELECT tier FROM batches")
    assert "did you mean" not in str(error.value)
    with pytest.raises(QueryError, match=r"there are .*results.*did you mean 'results'\?") as error:
        run_query(connection, "FROM resluts")
    assert "_0_" not in str(error.value)


def test_an_error_while_rows_are_fetched_is_one_clear_line(connection: duckdb.DuckDBPyConnection) -> None:
    relation = run_query(connection, "SELECT CASE WHEN i > 5000 THEN error('boom') END FROM range(9000) r(i)")
    with pytest.raises(QueryError, match="boom") as error, explained(connection):
        for _ in relation.to_arrow_reader(1000):
            pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["accuracy", "best", "failures", "recovered", "timings"])
def test_every_named_query_says_what_it_answers_and_runs(
    connection: duckdb.DuckDBPyConnection, name: str
) -> None:
    query = named_queries()[name]
    assert query.about.endswith(".") and query.sql.startswith(f"-- {query.about}\n")
    assert run_query(connection, query.sql).fetchall()


def test_accuracy_gives_the_mean_and_its_count(connection: duckdb.DuckDBPyConnection) -> None:
    rows = run_query(connection, named_queries()["accuracy"].sql).fetchall()
    assert len(rows) == len(SITES) * LAYERS * POSITIONS
    for site, layer, position, iia, change, n, near_ties in rows:
        found = [job for job in jobs() if job[:3] == (site, layer, position)]
        assert (n, near_ties) == (len(found), 0)
        assert iia == pytest.approx(sum(is_hit(*job) for job in found) / n)
        changes = [label_logit(*job) - 3.0 - (BASE_RUN[0] - BASE_RUN[1]) for job in found]
        assert change == pytest.approx(sum(changes) / n)


def test_recovered_is_a_ratio_of_sums(connection: duckdb.DuckDBPyConnection) -> None:
    base, source = BASE_RUN[0] - BASE_RUN[1], SOURCE_RUN[0] - SOURCE_RUN[1]
    for site, layer, position, recovered, n in run_query(
        connection, named_queries()["recovered"].sql
    ).fetchall():
        found = [label_logit(*job) - 3.0 for job in jobs() if job[:3] == (site, layer, position)]
        assert recovered == pytest.approx(sum(d - base for d in found) / (n * (source - base)))


def test_best_gives_five_places_of_each_site_best_first(connection: duckdb.DuckDBPyConnection) -> None:
    rows = run_query(connection, named_queries()["best"].sql).fetchall()
    assert [row[4] for row in rows] == [site for site in sorted(SITES) for _ in range(5)]
    best = [row for row in rows if row[4] == "block_output"]
    assert (best[0][0], best[0][2:]) == (1.0, (4, 0, "block_output", 0, 3))
    assert [row[0] for row in best] == sorted((row[0] for row in best), reverse=True)


def test_failures_are_counted_by_error(connection: duckdb.DuckDBPyConnection) -> None:
    ((study, *_, kind, message, n, _, base, _),) = run_query(
        connection, named_queries()["failures"].sql
    ).fetchall()
    assert (study, kind, message, n) == ("small", "ValueError", "no such token", 1)
    assert base == "The capital of Peru is"


def test_timings_give_jobs_per_second(connection: duckdb.DuckDBPyConnection) -> None:
    ((*_, jobs_done, failed, total_s, rate, _, capture),) = run_query(
        connection, named_queries()["timings"].sql
    ).fetchall()
    assert (jobs_done, failed, total_s, rate, capture) == (120, 1, 2.0, 60.0, 0.25)
