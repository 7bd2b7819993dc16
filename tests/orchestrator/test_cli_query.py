"""Promise: `swapyard query` writes whole answers in four formats, data to stdout and the rest to stderr."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from small_store import jobs, make_study

from orchestrator.cli.query import query
from orchestrator.query.view_sql import STUDY_VIEWS
from workers.errors import OutOfTimeError, QueryError, StoreError

NUM_RESULTS = len(list(jobs()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_study(folder / "one")
    make_study(folder / "two")
    return folder


def run(store: Path, *arguments: object) -> Result:
    return CliRunner().invoke(query, [*map(str, arguments), "--store", str(store)])


def test_every_study_below_the_store_is_asked_unless_some_are_named(store: Path) -> None:
    sql = "SELECT study, count(*) AS n FROM results GROUP BY ALL ORDER BY ALL"
    assert json.loads(run(store, sql, "--format", "json").stdout) == [
        {"study": "one", "n": NUM_RESULTS},
        {"study": "two", "n": NUM_RESULTS},
    ]
    assert json.loads(run(store, sql, "--format", "json", "--study", "two").stdout) == [
        {"study": "two", "n": NUM_RESULTS}
    ]
    assert isinstance(run(store, sql, "--study", "tow").exception, StoreError)


def test_a_table_shows_some_rows_and_says_on_stderr_how_many_there_are(store: Path) -> None:
    shown = run(store, "FROM results", "--rows", 7)
    assert len(shown.stdout.splitlines()) == 2 + 7
    assert f"7 of {2 * NUM_RESULTS} rows shown" in shown.stderr
    assert run(store, "FROM batches").stderr == ""


def test_a_table_cannot_steer_the_terminal(store: Path) -> None:
    shown = run(store, "SELECT chr(27) || '[31mred' || chr(10) AS \"a\x1b[2J\"").stdout
    assert "\x1b" not in shown and len(shown.splitlines()) == 3


def test_an_explain_is_shown_as_it_is_drawn(store: Path) -> None:
    shown = run(store, "EXPLAIN SELECT 'a\x1b[31m' FROM pairs").stdout
    assert len(shown.splitlines()) > 3 and "explain_value" not in shown and "\x1b" not in shown
    (row,) = json.loads(run(store, "EXPLAIN SELECT 1", "--format", "json").stdout)
    assert list(row) == ["explain_key", "explain_value"]


def test_a_query_that_takes_too_long_is_one_line(store: Path) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) r(i) WHERE hash(i) = 0"
    for arguments in ((endless, "--timeout", "0.2s"), ("FROM pairs", "--timeout", "0.000001s")):
        error = run(store, *arguments).exception
        assert isinstance(error, OutOfTimeError) and "\n" not in str(error)
        assert "the query was stopped after" in str(error) and "--timeout" in str(error)
    assert run(store, "SELECT 1", "--timeout", "9m").exit_code == 0


def test_memory_and_time_are_written_with_units(store: Path) -> None:
    assert run(store, "SELECT 1", "--memory", "1.5GiB").exit_code == 0
    for given, why in (("much", "is no size of memory"), ("2MB", "cannot do with 2MB")):
        error = run(store, "SELECT 1", "--memory", given).exception
        assert isinstance(error, QueryError) and why in str(error)
    assert "'soon' is no time" in run(store, "SELECT 1", "--timeout", "soon").stderr


def test_csv_is_whole_and_exact_and_lists_are_json(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    sql = "SELECT base_tokens, 1 / 3 AS third, NULL AS nothing, 'a,\"b\"' AS text FROM results"
    assert run(store, sql, "-o", file).stdout == ""
    rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8"))))
    assert len(rows) == 2 * NUM_RESULTS
    assert json.loads(rows[0]["base_tokens"])[0] == "The"
    assert float(rows[0]["third"]) == 1 / 3
    assert (rows[0]["nothing"], rows[0]["text"]) == ("", 'a,"b"')


def test_json_is_one_array_and_what_is_no_number_is_null(store: Path) -> None:
    sql = (
        "SELECT 'nan'::DOUBLE AS a, '-inf'::FLOAT AS b, [1.5::DOUBLE, 'nan'::DOUBLE] AS c,"
        " sum(2::BIGINT) AS d, '00000000-0000-0000-0000-000000000001'::UUID AS e, 1 / 3 AS f,"
        " DATE '2020-01-02' AS g, {'h': 1} AS h"
    )
    (row,) = json.loads(run(store, sql, "--format", "json").stdout)
    assert (row["a"], row["b"], row["c"], row["d"]) == (None, None, [1.5, None], 2)
    assert (row["e"], row["f"]) == ("00000000-0000-0000-0000-000000000001", 1 / 3)
    assert (row["g"], row["h"]) == ("2020-01-02", {"h": 1})
    assert json.loads(run(store, "FROM results WHERE layer > 99", "--format", "json").stdout) == []


def test_parquet_goes_to_a_file_or_a_pipe_with_its_types(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer.parquet"
    run(store, "FROM results", "-o", file)
    table = pq.read_table(file)
    assert table.num_rows == 2 * NUM_RESULTS
    assert table.schema.field("label_logit").type == pa.float32()
    assert table.schema.field("base_positions").type.value_type == pa.int32()
    piped = run(store, "SELECT 1 AS one", "--format", "parquet").stdout_bytes
    assert pq.read_table(io.BytesIO(piped)).to_pylist() == [{"one": 1}]


def test_two_columns_of_one_name_are_refused_in_files(store: Path) -> None:
    for kind in ("csv", "json", "parquet"):
        error = run(store, "SELECT 1 AS a, 2 AS a", "--format", kind).exception
        assert isinstance(error, QueryError) and "two columns are named 'a'" in str(error)


def test_a_file_appears_only_when_the_answer_is_whole(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    file.write_text("before")
    sql = "SELECT CASE WHEN i > 90000 THEN error('boom') ELSE i END AS x FROM range(200000) r(i)"
    error = run(store, sql, "-o", file).exception
    assert isinstance(error, QueryError) and "boom" in str(error)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_named(store: Path, tmp_path: Path) -> None:
    outcome = run(store, "SELECT 1", "-o", tmp_path / "none" / "a.csv")
    assert outcome.exit_code == 1
    assert "a.csv cannot be written: No such file or directory" in outcome.stderr


def test_sql_comes_from_an_argument_a_file_or_a_name_but_only_one(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.sql"
    file.write_text("-- mine\nSELECT 42 AS answer\n")
    assert "42" in run(store, "-f", file).stdout
    assert run(store, "best").stdout.split()[:3] == ["iia", "recovered", "n"]
    for arguments in ((), ("SELECT 1", "-f", file)):
        outcome = run(store, *arguments)
        assert outcome.exit_code == 2 and "give one of SQL" in outcome.stderr
    error = run(store, "accuracies").exception
    assert isinstance(error, QueryError) and "did you mean 'accuracy'?" in str(error)


def test_list_names_every_query_and_needs_no_study(tmp_path: Path) -> None:
    lines = run(tmp_path, "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "accuracy",
        "best",
        "failures",
        "recall",
        "recovered",
        "timings",
        "trained",
    ]


def test_an_unknown_suffix_asks_for_a_format(store: Path, tmp_path: Path) -> None:
    outcome = run(store, "SELECT 1", "-o", tmp_path / "a.xlsx")
    assert outcome.exit_code == 2 and "'a.xlsx' says no format" in outcome.stderr


def test_queries_and_plots_load_nothing_heavy(store: Path) -> None:
    heavy = "('torch', 'transformers', 'ray')"
    code = (
        "import sys; from pathlib import Path; from orchestrator.query.connection import connect;"
        "import orchestrator.plots, orchestrator.query.formats;"
        "from orchestrator.query.statements import run_query;"
        "run_query(connect([Path(sys.argv[1])]), 'FROM results').fetchall();"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(store / "one")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == "[]"


def test_the_help_names_every_view() -> None:
    shown = " ".join(CliRunner().invoke(query, ["--help"]).output.split())
    assert sorted(shown.partition("Views: ")[2].partition(".")[0].split(", ")) == sorted(STUDY_VIEWS)
