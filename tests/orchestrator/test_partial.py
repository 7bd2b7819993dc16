"""Promise: where files of rows are lost or damaged, whoever asks gets the rest, is told how many rows of
which cells are missing and what to do, and ends with 1; no study is left out, or called done, in silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from histories import History
from small_store import make_study

from orchestrator.api import open_results
from orchestrator.cli import cli
from orchestrator.query.connection import connect
from orchestrator.store import verify
from orchestrator.upkeep.lost import find_lost
from workers.errors import StoreError

NUM_ROWS = 120
"""Of each of the two models."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a file of rows for each of two models, and one beside it."""
    folder = tmp_path_factory.mktemp("made")
    make_study(folder / "torn", dtypes=("float32", "bfloat16"))
    make_study(folder / "whole")
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own, as far as verifying goes."""
    monkeypatch.setattr(verify, "_seen", set())


def ask(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(cli, [command, *map(str, arguments)])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lose(store: Path, how: Callable[[Path], object] = Path.unlink) -> str:
    """Damage the file of one model; its name."""
    first, _ = sorted((store / "torn" / "data").rglob("*.parquet"))
    how(first)
    return first.relative_to(store / "torn").as_posix()


COUNT = "SELECT study, dtype, count(*) AS n FROM results GROUP BY ALL ORDER BY ALL"


@pytest.mark.parametrize("how", [Path.unlink, flip, cut])
def test_a_query_answers_with_the_rest_says_what_is_missing_and_ends_with_1(
    store: Path, tmp_path: Path, how: Callable[[Path], object]
) -> None:
    whole = json.loads(ask("query", COUNT, "--format", "json", "--store", store).stdout)
    verify._seen.clear()
    path = lose(store, how)
    file = tmp_path / "answer.json"
    shown = ask("query", COUNT, "-o", file, "--store", store)
    assert shown.exit_code == 1
    left = json.loads(file.read_text())
    assert len(left) == 2 and all(row in whole for row in left)
    for said in (
        f"study torn: {NUM_ROWS} rows are lost: {path} ",
        "they are of 30 cells: model small in ",
        "layer 0",
        "position 0",
        "; and 26 more",
        f"swapyard doctor --repair torn --store {store}, and then the command that ran the study",
    ):
        assert said in shown.stderr
    assert len(shown.stderr.splitlines()) == 4
    allowed = ask("query", COUNT, "--format", "json", "--partial", "--store", store)
    assert (allowed.exit_code, json.loads(allowed.stdout)) == (0, left)
    assert "120 rows are lost" in allowed.stderr
    # A study that lacks nothing is not concerned.
    assert ask("query", COUNT, "--study", "whole", "--store", store).exit_code == 0


def test_of_several_studies_the_one_that_cannot_be_read_is_named_and_the_exit_code_is_1(store: Path) -> None:
    (store / "torn" / "format.json").unlink()
    for names in ((), ("--study", "torn", "--study", "whole")):
        shown = ask("query", COUNT, "--format", "json", *names, "--store", store)
        assert [row["study"] for row in json.loads(shown.stdout)] == ["whole"]
        assert shown.exit_code == 1 and "the study torn is left out: " in shown.stderr
    assert ask("query", COUNT, "--partial", "--store", store).exit_code == 0
    # Nothing is no part of an answer.
    assert ask("query", COUNT, "--partial", "--study", "torn", "--store", store).exit_code == 1


def test_from_python_a_damaged_study_raises_unless_a_part_is_enough(store: Path) -> None:
    lose(store)
    for names in ((), ("torn",)):
        results = open_results(*names, store=store)
        with pytest.raises(StoreError, match="study torn: 120 rows are lost"):
            results.sql("FROM results")
    partial = open_results(store=store, partial=True)
    with pytest.warns(UserWarning, match=r"study torn: 120 rows are lost: .* doctor --repair torn"):
        assert partial.sql("SELECT count(DISTINCT study) FROM results").fetchall() == [(2,)]
    (store / "torn" / "commits" / "0000000001.json").unlink()
    with pytest.raises(StoreError, match=r"torn.*is lost|0000000001.json is missing"):
        open_results(store=store).arrow()
    with pytest.warns(UserWarning, match="the study torn is left out"):
        assert partial.sql("SELECT DISTINCT study FROM results").fetchall() == [("whole",)]


def test_a_picture_is_of_the_rest_and_the_exit_code_is_1(store: Path, tmp_path: Path) -> None:
    lose(store)
    for more, code in (((), 1), (("--partial",), 0)):
        shown = ask("plot", "bars", "torn", "-o", tmp_path / "bars", *more, "--store", store)
        assert shown.exit_code == code and "120 rows are lost" in shown.stderr
        assert Path(shown.stdout.splitlines()[0]).stat().st_size > 1000


def test_a_job_whose_row_is_lost_is_told_as_such(store: Path) -> None:
    sql = "SELECT job_id::VARCHAR, dtype FROM results ORDER BY 2, 1"
    jobs = {dtype: job for job, dtype in open_results("torn", store=store).sql(sql).fetchall()}
    verify._seen.clear()
    path = lose(store)
    codes = {dtype: ask("logs", "torn", "--job", job, "--store", store) for dtype, job in jobs.items()}
    lost, there = sorted(codes.values(), key=lambda shown: -shown.exit_code)
    assert (lost.exit_code, there.exit_code) == (1, 0)
    assert "done, and lost: its row cannot be read" in lost.stdout and f"{path} was committed" in lost.stderr


DAMAGES: dict[str, Callable[[Path], object]] = {
    "format.json": lambda root: (root / "format.json").unlink(),
    "another format.json": lambda root: (root / "format.json").write_text("{"),
    "all commits": lambda root: shutil.rmtree(root / "commits"),
    "a commit": lambda root: (root / "commits" / "0000000002.json").unlink(),
    "a flipped commit": lambda root: flip(root / "commits" / "0000000002.json"),
    "a plan file": lambda root: next(root.glob("plan/*/cells.parquet")).unlink(),
    "a flipped plan file": lambda root: flip(next(root.glob("plan/*/tiles.parquet"))),
    "all plans": lambda root: shutil.rmtree(root / "plan"),
    "rows": lambda root: shutil.rmtree(root / "data"),
    "all but a plan": lambda root: [shutil.rmtree(root / "commits"), shutil.rmtree(root / "data")],
    "all but the rows": lambda root: [
        (root / "format.json").unlink(),
        *map(shutil.rmtree, (root / "commits", root / "plan")),
    ],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_lost_everybody_says_so_and_nobody_is_surprised(store: Path, damage: str) -> None:
    DAMAGES[damage](store / "torn")
    shown = ask("status", "--json", "--store", store)
    found = {one["study"]: one["damaged"] for one in json.loads(shown.stdout)}
    assert shown.exit_code == 1 and found["torn"] and found["whole"] is None
    table = ask("status", "--store", store)
    assert f"torn is damaged: {found['torn']}" in table.stderr and table.exit_code == 1
    for command in (("query", COUNT), ("doctor",)):
        outcome = ask(*command, "--store", store)
        assert outcome.exit_code == 1 and isinstance(outcome.exception, SystemExit), outcome.output
    with pytest.raises(StoreError):
        open_results(store=store).arrow()
    # A repair is one command, and what it leaves is sound or says what is to be done.
    outcome = ask("doctor", "--repair", "torn", "--store", store)
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.output
    problems = [line for line in outcome.stdout.splitlines() if line.startswith("problem")]
    assert bool(problems) == ("plan" in damage and damage != "all but a plan"), problems
    assert all("plan" in line and "makes the plan again" in line for line in problems)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History.begin(tmp_path)


def test_as_many_rows_are_said_to_be_lost_as_the_views_lack(history: History) -> None:
    lost = [history.add(0, 0, 3, failing={1: "ValueError"}), history.add(1, 5, 9, ("kl",))]
    history.add(0, 3, 7)
    history.driver.close()
    root = history.store.root
    before = history.seen()
    for part in lost:
        history.store.locate(part.path).unlink()
    found = find_lost(root, history.store.state(), history.plan)
    assert found is not None and (found.num_rows, found.num_cells) == (12 + 16, 7)
    told: list[object] = []
    with connect([root], lost=told.append) as connection:
        rows = connection.sql("SELECT job_id FROM results UNION ALL SELECT job_id FROM failures").fetchall()
        assert len(rows) == len(before) - 28
        assert connection.sql("SELECT sum(num_done) FROM cells").fetchall() == [(16,)]
        assert connection.sql("SELECT count(*) FROM batches").fetchall() == [(1,)]
    assert told == [found]


def test_a_lost_part_takes_nothing_from_the_retries_of_others(history: History) -> None:
    first = history.add(0, 0, 2, failing={1: "ValueError"})
    second = history.add(0, 2, 4, failing={9: "OSError", 10: "OSError"})
    for part, job in ((first, 1), (second, 9), (second, 10)):
        history.retry(part, [job])
    merged = history.merge()
    assert merged is not None and merged.is_retry and len(merged.of) == 3
    history.driver.close()
    history.store.locate(first.path).unlink()
    expected = history.expected()
    with connect([history.store.root], lost=lambda lost: None) as connection:
        sql = "SELECT c.cell, count(*) FROM results JOIN _0_cells c USING (cell_id) GROUP BY 1"
        found = dict(connection.sql(sql).fetchall())
        assert connection.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    names = history.plan.cellsets[history.plan.tiles[0].cellset][2:4].tolist()
    assert {name: found[name] for name in names} == dict.fromkeys(names, 4)
    assert found.keys() <= {cell for cell, _ in expected}
