"""Promise: `swapyard status` says how far studies are, from their folders alone, and watches to the end."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_store import make_study

from orchestrator.cli import cli
from orchestrator.status import read_status
from orchestrator.store import StudyStore
from workers.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A study that is done but for one job that failed, and one that was only opened."""
    make_study(tmp_path / "done")
    with StudyStore(tmp_path / "opened").open_driver():
        pass
    return tmp_path


def planned(root: Path) -> Path:
    """A study that has a plan and not one part, as a run leaves it that was killed early."""
    made = make_study(root)
    num_before = StudyStore(made).state().seq - 1
    for commit in sorted((made / "commits").iterdir())[num_before:]:
        commit.unlink()
    return made


def status(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["status", *map(str, arguments)])


def test_the_table_has_a_line_for_each_study(store: Path) -> None:
    planned(store / "early")
    shown = status("--store", store)
    assert shown.exit_code == 0
    head, _, *lines = (line.split() for line in shown.stdout.splitlines())
    assert head == ["study", "jobs", "done", "failed", "parts", "last", "commit"]
    assert lines[0][:8] == ["done", "120", "of", "120", "100.0", "%", "1", "1"]
    assert lines[1][:8] == ["early", "0", "of", "120", "0.0", "%", "0", "0"]
    assert lines[2][:6] == ["opened", "not", "planned", "yet", "0", "0"]


def test_json_is_for_programs(store: Path) -> None:
    shown = status("done", "--store", store, "--json")
    (one,) = json.loads(shown.stdout)
    assert {key: one[key] for key in ("study", "num_jobs", "num_done", "num_failed", "num_parts")} == {
        "study": "done",
        "num_jobs": 120,
        "num_done": 120,
        "num_failed": 1,
        "num_parts": 1,
    }
    assert one["driver"].startswith("process ") and 0 <= one["age_s"] < 60


def test_only_a_study_with_a_plan_can_be_complete(store: Path) -> None:
    planned(store / "early")
    assert {one.study: one.is_complete for one in read_status(store, [])} == {
        "done": True,
        "early": False,
        "opened": False,
    }


def test_watch_ends_when_all_is_done(store: Path) -> None:
    started = time.monotonic()
    shown = status("done", "--store", store, "--watch")
    assert shown.exit_code == 0 and time.monotonic() - started < 2


def test_watch_waits_for_what_is_not_planned_yet(store: Path, tmp_path: Path) -> None:
    finished = make_study(tmp_path / "elsewhere" / "opened")

    def finish() -> None:
        time.sleep(1)
        shutil.rmtree(store / "opened")
        finished.rename(store / "opened")

    thread = threading.Thread(target=finish)
    thread.start()
    shown = status("opened", "--store", store, "--watch")
    thread.join()
    assert shown.exit_code == 0
    assert "not planned yet" in shown.stdout.splitlines()[2]
    assert "120 of 120" in shown.stdout.splitlines()[-1]


def test_unknown_studies_are_named_with_what_there_is(store: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"has no study 'don'; there are done, opened; did you mean 'done'\?"
    ):
        read_status(store, ["don"])
    with pytest.raises(
        StoreError, match=r"there is no study in .*nowhere\. Make one with: swapyard run STUDY"
    ):
        read_status(tmp_path / "nowhere", [])


def test_a_study_that_cannot_be_read_is_left_out_unless_it_is_named(store: Path) -> None:
    (store / "opened" / "format.json").write_text("{")
    shown = status("--store", store)
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[2:]] == ["done"]
    assert shown.stderr.startswith("the study opened is left out: ")
    named = status("opened", "--store", store)
    assert isinstance(named.exception, StoreError) and named.stdout == ""
