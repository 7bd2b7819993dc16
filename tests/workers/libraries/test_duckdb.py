"""Promise: a DuckDB whose trees, kinds or settings are not known answers no query; its texts cost hints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from orchestrator.plan.conditions import condition_problem
from orchestrator.plots.data import _is_aggregate
from orchestrator.query.connection import connect
from orchestrator.query.statements import check_sql, explained, run_query
from tests.orchestrator.small_store import make_study
from tests.workers.libraries.covering import outcome, without
from workers.errors import QueryError
from workers.libraries import duckdb as library
from workers.libraries import duckdb_trees as trees

pytestmark = pytest.mark.versions

READS = "SELECT a FROM t WHERE a > 1 ORDER BY a LIMIT 3"
WRITES = "WITH x AS (COPY (SELECT 1) TO '{}') SELECT 1"


class Other:
    """A real connection whose trees, or whose statements, are changed on the way."""

    def __init__(self, tree: Callable[[str], str] = str, statement: Callable[[str], str] = str) -> None:
        self.real = duckdb.connect()
        self.real.execute("CREATE TABLE t (a INT)")
        self._tree, self._statement = tree, statement

    def execute(self, sql: str, values: Any = None) -> Any:
        answer = self.real.execute(self._statement(sql), values)
        return Rows(self._tree(answer.fetchall()[0][0])) if "json_serialize_sql" in sql else answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Rows:
    def __init__(self, text: str) -> None:
        self._text = text

    def fetchall(self) -> list[tuple[str]]:
        return [(self._text,)]


def renaming(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(f'"{old}"', f'"{new}"')


def without_kinds(text: str) -> str:
    """A tree whose parts say nothing of their kind."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key != "type"}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return json.dumps(plain(json.loads(text)))


@without("duckdb", "json_serialize_sql")
@pytest.mark.parametrize(
    "tree",
    [
        renaming("SELECT_NODE", "SELECT_STEP"),
        renaming("COPY_QUERY_NODE", "COPY_STEP"),
        renaming("COPY_QUERY_NODE", "SELECT_NODE"),
        renaming("TABLE_FUNCTION", "TABLE_CALL"),
        renaming("TABLE_FUNCTION", "BASE_TABLE"),
        renaming("function_name", "called"),
        renaming("type", "kind"),
        renaming("statements", "parts"),
        renaming("node", "query"),
        renaming("class", "sort"),
        without_kinds,
        lambda text: '{"error": false, "statements": []}',
        lambda text: "[]",
        lambda text: "no json",
        lambda text: "null",
    ],
)
def test_a_tree_of_another_form_lets_no_query_through(tree: Callable[[str], str], tmp_path: Path) -> None:
    connection: Any = Other(tree=tree)
    target = tmp_path / "written"
    for sql in (READS, WRITES.format(target), "SELECT * FROM read_csv('a')"):
        with pytest.raises(QueryError, match=r"^no query is answered: whether DuckDB .* would only read"):
            run_query(connection, sql)
    assert not target.exists()


@pytest.mark.parametrize(
    "tree",
    [
        renaming("STAR", "ASTERISK"),
        renaming("BASE_TABLE", "TABLE"),
        renaming("NATURAL", "COMMON"),
        renaming("column_names", "names"),
        renaming("function_name", "called"),
        renaming("alias", "nick"),
        lambda text: "null",
    ],
)
def test_of_a_tree_of_another_form_everything_may_be_asked_for(tree: Callable[[str], str]) -> None:
    connection: Any = Other(tree=tree)
    assert trees.asked(connection, READS) is None
    known = trees.asked(Other().real, READS)
    assert known is not None and known.words is not None and "a" in known.words


def test_a_duckdb_without_trees_lets_no_query_through() -> None:
    connection: Any = Other(statement=lambda sql: sql.replace("json_serialize_sql", "json_of_sql"))
    for sql in (READS, WRITES.format("a")):
        with pytest.raises(QueryError, match=r"^no query is answered: .*json_of_sql does not exist"):
            check_sql(connection, sql)


@pytest.mark.parametrize("kind", ["NEW_QUERY_NODE", "SOMETHING_ELSE"])
def test_a_part_that_is_not_known_is_refused_in_an_otherwise_known_tree(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    connection: Any = Other(tree=renaming("PIVOT", kind))
    check_sql(connection, READS)
    with pytest.raises(QueryError, match=r"NEW is not allowed|a query has a part 'SOMETHING_ELSE'"):
        check_sql(connection, "UNPIVOT t ON a INTO NAME n VALUE v")
    monkeypatch.setattr(trees, "_TRIES", {"SELECT 1": (("COPY",), ())})
    assert outcome("duckdb", "json_serialize_sql").state == "error"


@without("duckdb", "extract_statements")
def test_kinds_of_statements_that_are_not_told_let_no_query_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duckdb, "StatementType", object())
    with pytest.raises(QueryError, match=r"^no query is answered: .*does not say the kinds of statements"):
        check_sql(Other().real, READS)
    assert outcome("duckdb", "extract_statements").state == "error"


@without("duckdb", "allowed_directories")
@pytest.mark.parametrize("name", ["allowed_directories", "enable_external_access", "lock_configuration"])
def test_a_connection_that_cannot_be_locked_answers_nothing(name: str) -> None:
    gone: Any = Other(statement=lambda sql: sql.replace(name, f"{name}_gone"))
    with pytest.raises(QueryError, match=rf"^no query is answered: DuckDB .* other files .*{name}_gone"):
        library.lock(gone, [])
    idle: Any = Other(statement=lambda sql: "SELECT 1" if f"SET {name}" in sql else sql)
    if name != "allowed_directories":  # without it less is reached
        with pytest.raises(QueryError, match=r"it reads other files|it can be opened again"):
            library.lock(idle, [])


@without("duckdb", "memory_limit")
@pytest.mark.parametrize("name", ["memory_limit", "temp_directory"])
def test_a_connection_that_cannot_be_limited_answers_nothing(name: str) -> None:
    gone: Any = Other(statement=lambda sql: sql.replace(name, f"{name}_gone"))
    with pytest.raises(QueryError, match=rf"^no query is answered: the memory of DuckDB .*{name}_gone"):
        library.limit(gone, 10**8, None)


@without("duckdb", "InterruptException")
def test_an_interruption_in_other_words_is_an_error_of_duckdbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duckdb, "InterruptException", ZeroDivisionError)
    assert not library.is_interruption(duckdb.Error("INTERRUPT Error: Interrupted!"))
    assert library.is_interruption(OSError("INTERRUPT Error: Interrupted!"))
    assert "looks like one that failed" in outcome("duckdb", "InterruptException").told


@without("duckdb", "how an EXPLAIN begins")
def test_an_explain_that_begins_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Other().real
    check_sql(connection, "EXPLAIN SELECT 1")
    monkeypatch.setattr(trees, "_EXPLAIN", trees.re.compile("SHOW PLAN OF"))
    with pytest.raises(QueryError, match="EXPLAIN is not allowed"):
        check_sql(connection, "EXPLAIN SELECT 1")
    assert outcome("duckdb", "how an EXPLAIN begins").state == "error"


@without("duckdb", "file_index")
def test_rows_whose_file_is_not_told_are_read_study_by_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [make_study(tmp_path / name) for name in ("a", "b")]
    monkeypatch.setattr("orchestrator.query.view_sql.file_value", lambda values: "no_such_column")
    with connect(roots) as connection:
        found = run_query(connection, "SELECT study, count(*) FROM results GROUP BY ALL ORDER BY ALL")
        assert found.fetchall() == [("a", 119), ("b", 119)]
    monkeypatch.setattr(library, "file_value", lambda values: values[0])
    assert outcome("duckdb", "file_index").told.startswith("rows are told to be of other files")


@without("duckdb", "texts of errors")
def test_an_error_in_other_words_is_shown_without_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Other().real
    with (
        pytest.raises(QueryError, match=r"not found in FROM clause; \"DESCRIBE results\" lists"),
        explained(connection),
    ):
        connection.execute("SELECT b FROM t")
    for text in ("_UNKNOWN_COLUMN", "_UNKNOWN_TABLE"):
        monkeypatch.setattr(library, text, library.re.compile("in other words"))
    monkeypatch.setattr(library, "_POINTER", "AT ")
    for sql in ("SELECT b FROM t", "SELECT * FROM u"):
        with pytest.raises(QueryError) as raised, explained(connection):
            connection.execute(sql)
        assert "\n" not in str(raised.value) and "there are" not in str(raised.value)
    assert outcome("duckdb", "texts of errors").told.startswith("messages do not say the nearest column")


@without("duckdb", "an OSError without a number")
def test_an_error_of_arrows_with_a_number_is_one_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Other().real
    with pytest.raises(OSError, match="no room"), explained(connection):
        raise OSError(28, "no room")
    with pytest.raises(QueryError, match="Conversion Error"), explained(connection):
        raise OSError("Conversion Error: Could not convert")
    assert not library.is_passed_on(OSError(5, "Conversion Error"))


@pytest.mark.parametrize(
    ("value", "is_aggregate"), [("a", False), ("sum(a) / count(*)", True), ("a + 1", False), ("avg(a)", True)]
)
def test_an_aggregate_is_known_without_the_words_of_an_error(value: str, is_aggregate: bool) -> None:
    assert _is_aggregate(Other().real, "t", value, f"avg(({value})::DOUBLE)") is is_aggregate
    with pytest.raises(QueryError, match="nothing"):
        _is_aggregate(Other().real, "t", "nothing", "avg((nothing)::DOUBLE)")


@without("duckdb", "duckdb_functions() with function_type")
def test_without_the_stability_of_functions_no_condition_is_answered() -> None:
    gone: Any = Other(statement=lambda sql: sql.replace("stability", "steadiness"))
    told = condition_problem(gone, "lower(a) = 'x'", ["a"], "the pairs'")
    assert told is not None and "cannot be answered: Binder Error" in told and "steadiness" in told
    for tree in (renaming("column_names", "names"), lambda text: "null"):
        other: Any = Other(tree=tree)
        told = condition_problem(other, "lower(a) = 'x'", ["a"], "the pairs'")
        assert told is not None and "no condition is answered: what it calls cannot be told" in told
    assert condition_problem(Other().real, "lower(a) = 'x'", ["a"], "the pairs'") is None
    assert outcome("duckdb", "duckdb_functions() with function_type").state == "ok"
