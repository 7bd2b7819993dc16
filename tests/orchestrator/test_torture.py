"""Promise: what `make torture` says is true: its checker notices each thing that may go wrong, and a small
run of it, a few kills of one small study, finds that nothing does.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import rows
from small_store import make_study

from orchestrator.store import StudyStore
from orchestrator.store.repair import repair
from tests.torture.blows import draw_blows
from tests.torture.damage import harm
from tests.torture.history import History, read_part, watching
from tests.torture.processes import end_all, members, role_of, wait_gone
from tests.torture.reader import Reader
from tests.torture.verdict import Verdict, judge_study, leftovers

pytestmark = pytest.mark.kills

ROOT = Path(__file__).parents[2]
NUM_JOBS = 119
CALM = Verdict(lost=0, doubled=0, wrong=0, reasons=())


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Of a small study that nobody has harmed yet."""
    history = History(make_study(tmp_path / "small"))
    history.read_on()
    return history


@pytest.fixture
def expected(history: History) -> pa.Table:
    return found_in(history)


def found_in(history: History) -> pa.Table:
    return rows(history.folder.parent, history.folder.name)


def judged(history: History, found: pa.Table, expected: pa.Table) -> tuple[int, int, int]:
    """Lost, doubled, wrong."""
    verdict = judge_study(history, found, expected)
    assert bool(verdict.reasons) == bool(verdict.lost or verdict.wrong)
    return verdict.lost, verdict.doubled, verdict.wrong


def rewrite(history: History, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of the only part behind the study's back."""
    (name,) = history.files
    pq.write_table(change(read_part(history.folder / name)), history.folder / name)


def with_value(table: pa.Table, column: str, row: int, value: float) -> pa.Table:
    changed = table[column].to_pylist()
    changed[row] = value
    index = table.schema.get_field_index(column)
    return table.set_column(index, column, pa.array(changed, table.schema.field(column).type))


def test_a_study_that_nobody_harmed_is_right(history: History, expected: pa.Table) -> None:
    assert expected.num_rows == history.num_rows - 1 == NUM_JOBS, "the job that failed has no result"
    assert judge_study(history, expected, expected) == CALM
    assert leftovers(history) == history.problems == []


def test_a_dropped_row_is_lost(history: History, expected: pa.Table) -> None:
    assert judged(history, expected.slice(1), expected) == (1, 0, 0)


def test_a_row_that_was_acknowledged_is_lost_even_where_the_calm_run_lacks_it(
    history: History, expected: pa.Table
) -> None:
    assert judged(history, expected.slice(2), expected.slice(2)) == (2, 0, 0)


def test_a_row_twice_is_doubled_in_the_results_and_in_the_files(history: History, expected: pa.Table) -> None:
    twice = pa.concat_tables([expected, expected.slice(0, 2)])
    assert judged(history, twice, expected) == (0, 2, 0)
    rewrite(history, lambda table: pa.concat_tables([table, table.slice(0, 3)]))
    assert judged(history, expected, expected) == (0, 3, 0)


def test_a_changed_value_is_wrong(history: History, expected: pa.Table) -> None:
    for column in ("label_logit", "kl_base", "margin", "pred_id", "iia"):
        assert judged(history, with_value(expected, column, 0, 99), expected) == (0, 0, 1)


def test_another_value_than_the_calm_runs_is_wrong_only_beyond_the_tolerance(
    history: History, expected: pa.Table
) -> None:
    scale = np.abs(expected["label_logit"].to_numpy()).max()
    for share, wrong in ((0.5e-5, 0), (5e-5, 1)):
        value = expected["label_logit"][3].as_py() + share * scale
        assert judged(history, expected, with_value(expected, "label_logit", 3, value)) == (0, 0, wrong)


def test_another_prediction_is_wrong_only_where_the_margin_is_clear(
    history: History, expected: pa.Table
) -> None:
    for margin, wrong in ((1.0, 1), (0.0, 0)):
        calm = with_value(expected, "margin", 3, margin)
        assert judged(history, with_value(calm, "pred_id", 3, 31), calm) == (0, 0, wrong)


def test_a_row_that_changed_since_it_was_acknowledged_is_wrong(history: History, expected: pa.Table) -> None:
    rewrite(history, lambda table: with_value(table, "logsumexp", 0, 12.000001))
    assert judged(history, expected, expected) == (0, 0, 1), "though the results do not show it"


def test_rows_of_a_file_that_no_commit_names_are_wrong(history: History, expected: pa.Table) -> None:
    rewrite(history, lambda table: table.slice(5))
    assert judged(history, expected, expected) == (0, 0, 5)


def test_a_row_that_the_calm_run_lacks_is_wrong(history: History, expected: pa.Table) -> None:
    assert judged(history, expected, expected.slice(1)) == (0, 0, 1)


def test_what_nobody_accounts_for_is_left_behind(history: History) -> None:
    orphans = [f"data/1/0/{'a' * 32}.parquet", ".tmp-x", "commits/.tmp-y", f"plan/{'b' * 32}/cells.parquet"]
    for name in (*orphans, "logs/1/driver.log", "plots/map.png", ".lock"):
        path = history.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert leftovers(history) == sorted([*orphans, "plots/map.png"])


def test_a_part_that_no_commit_names_may_stay_where_it_repeats_what_is_done(history: History) -> None:
    (name,) = history.files
    twin, other = (f"{name[: -len('0.parquet')]}{letter}.parquet" for letter in "xy")
    rows = read_part(history.folder / name)
    pq.write_table(rows, history.folder / twin)
    assert leftovers(history) == []
    cells = pa.array([cell + 1000 for cell in rows["cell"].to_pylist()], pa.uint32())
    pq.write_table(rows.set_column(0, "cell", cells), history.folder / other)
    assert leftovers(history) == [other]


def test_a_commit_of_a_driver_that_was_fenced_is_noticed(history: History) -> None:
    with StudyStore(history.folder).open_driver():
        pass
    late = json.loads((history.folder / "commits" / f"{history.seq:010d}.json").read_bytes())
    (history.folder / "commits" / f"{history.seq + 2:010d}.json").write_text(
        json.dumps({**late, "seq": history.seq + 2})
    )
    history.read_on()
    assert history.problems == ["commit 5 (add) is of epoch 1, which epoch 4 has fenced"]


def test_an_acknowledged_part_that_is_torn_or_missing_is_noticed(history: History) -> None:
    (name,) = history.files
    path = history.folder / name
    again = History(history.folder)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again.read_on()
    assert any("does not hold the bytes that commit 3 (add) says" in problem for problem in again.problems)
    gone = History(history.folder)
    path.unlink()
    gone.read_on()
    assert any("could not be read right after commit 3 (add) named it" in p for p in gone.problems)


def test_the_history_is_kept_as_commits_appear(tmp_path: Path) -> None:
    with watching(tmp_path / "small") as history:
        make_study(tmp_path / "small")
        deadline = time.monotonic() + 10
        while history.num_rows == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert (history.seq, history.num_adds(1), history.num_rows) == (3, 1, NUM_JOBS + 1)


def test_a_reader_that_fails_or_sees_less_than_before_is_noticed(history: History) -> None:
    reader = Reader(history.folder.parent, history.folder.name)
    reader.read()
    assert (reader.num_reads, reader.problems) == (1, [])
    (history.folder / "commits" / "0000000003.json").unlink()
    reader.read()
    assert "a reader saw 119 jobs done, and then 0 in status" in reader.problems
    (history.folder / "commits" / "0000000002.json").write_text("{}")
    reader.read()
    assert "a reader failed with StoreError: commits/0000000002.json is damaged" in reader.problems[-1]


ORPHAN = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('up', flush=True); input()"


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[str]"]:
    """A process in a session of its own that has started another one."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", ORPHAN], text=True, start_new_session=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    yield process
    end_all({process.pid})
    process.communicate()


def test_orphans_are_found_and_ended_and_nothing_else_is(parent: "subprocess.Popen[str]") -> None:
    session = {parent.pid}
    roles = {process.name(): role_of(process, session) for process in members(session)}
    assert roles.pop("sleep") == "other" and list(roles.values()) == ["driver"]
    parent.kill()
    parent.wait()
    assert [process.name() for process in wait_gone(session, timeout_s=0.0)] == ["sleep"]
    end_all(session)
    assert wait_gone(session, timeout_s=0.0) == []
    assert psutil.Process().is_running()


def test_a_seed_always_draws_the_same_blows_and_all_kinds() -> None:
    blows = draw_blows(1, 24, "ray")
    assert blows == draw_blows(1, 24, "ray") != draw_blows(2, 24, "ray")
    assert sum(blow.is_kill for blow in blows) == 24
    others = {"damage", "stop", "move", "copy"}
    assert {blow.kind for blow in blows} == {"driver", "all", "race", "worker", "ray"} | others
    assert {blow.kind for blow in draw_blows(1, 16, "inline")} == {"driver", "all", "race"} | others
    assert draw_blows(1, 0, "ray") == []


@pytest.mark.timeout(900)
def test_a_few_kills_of_a_small_study_cost_nothing() -> None:
    command = [sys.executable, "-m", "tests.torture", "--kills", "1", "--seed", "49", "--jobs", "2000"]
    done = subprocess.run(
        [*command, "--executor", "inline", "--no-wait"], cwd=ROOT, capture_output=True, text=True
    )
    assert re.fullmatch(r"1 kills, [01] landed in work, 0 rows lost, 0 doubled, 0 wrong\n", done.stdout), (
        done.stderr
    )
    assert done.returncode == 0, done.stderr


def test_what_a_repair_makes_again_is_read_anew_and_what_it_leaves_out_is_noticed(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "small")
    history = History(folder)
    history.read_on()
    (name,) = history.files
    with history.held():
        (folder / name).unlink()
        repair(folder)
    assert history.problems == [] and history.files == set() and history.num_rows == 0
    other = make_study(tmp_path / "other")
    again = History(other)
    again.read_on()
    with again.held():
        shutil.rmtree(other / "commits")
        repair(other)
        # As if a repair forgot what it might have had.
        (commit,) = other.glob("commits/*.json")
        said = json.loads(commit.read_bytes())
        del said["rebuilt"]["parts"]
        commit.write_text(json.dumps(said), encoding="utf-8")
    assert len(again.problems) == 1 and "the repair left out 1 parts" in again.problems[0]


@pytest.mark.parametrize("seed", range(8))
def test_each_harm_changes_something_and_is_told(tmp_path: Path, seed: int) -> None:
    folder = make_study(tmp_path / "small")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert harm(folder, random.Random(seed))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} != before
