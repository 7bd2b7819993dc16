"""Promise: `swapyard status` says how far studies are, from their folders alone, and watches to the end."""

import json
import shlex
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_store import make_study

from orchestrator.cli import cli
from orchestrator.run.logs import WorkerLog
from orchestrator.store import StudyStore
from orchestrator.upkeep.status import StatusReader, is_running, read_status
from workers.errors import RunError, StoreError


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
    assert head == ["study", "jobs", "done", "failed", "parts", "last", "commit", "tier", "driver"]
    assert lines[0][:8] == ["done", "120", "of", "120", "100.0", "%", "1", "1"]
    assert lines[1][:8] == ["early", "0", "of", "120", "0.0", "%", "0", "0"]
    assert lines[2][:6] == ["opened", "not", "planned", "yet", "0", "0"]
    assert [line[-1] for line in lines] == ["done", "stopped", "stopped"]


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
    assert one["is_running"] is False and one["error"] is None
    assert one["logs"] == str(store / "done" / "logs")
    assert shown.stderr == ""


def test_a_driver_at_work_is_seen_and_not_disturbed(store: Path) -> None:
    with StudyStore(store / "opened").open_driver() as driver:
        assert is_running(store / "opened") is True
        (one,) = read_status(store, ["opened"])
        assert one.is_running and one.activity == "running"
        driver.check()
    assert is_running(store / "opened") is False
    with StudyStore(store / "opened").open_driver():
        pass


def test_failed_jobs_come_with_the_commands_that_show_why(store: Path) -> None:
    lines = status("--store", store).stderr.splitlines()
    assert lines[0] == "done: 1 job failed"
    why = next(line for line in lines if "why:" in line).partition(":")[2]
    query, name, *options = shlex.split(why)
    assert (query, name) == ("swapyard", "query")
    assert CliRunner().invoke(cli, ["query", *options]).exit_code == 0
    one = next(line for line in lines if "one of them:" in line).partition(":")[2]
    assert shlex.split(one) == ["swapyard", "logs", "done", "--store", str(store), "--job", "JOB_ID"]
    assert lines[-1].split() == ["all", "logs:", str(store / "done" / "logs")]


def test_the_error_that_the_last_run_ended_with_is_shown(store: Path) -> None:
    with suppress(RunError), WorkerLog(store / "opened", 1, "driver"):
        raise RunError("9 workers died")
    (one,) = read_status(store, ["opened"])
    assert one.error == "RunError: 9 workers died"
    lines = status("opened", "--store", store).stderr.splitlines()
    assert lines[0] == "opened: the last run ended with RunError: 9 workers died"
    assert "swapyard logs opened --driver" in lines[1]
    with StudyStore(store / "opened").open_driver():
        (one,) = read_status(store, ["opened"])
    assert one.error is None, "a later run has not ended yet"


def test_a_reader_reads_what_is_new_and_nothing_twice(store: Path) -> None:
    reader = StatusReader()
    before = reader.read(store / "done")
    (store / "done" / "commits" / "0000000002.json").write_text("{")
    with pytest.raises(StoreError):
        StatusReader().read(store / "done")
    assert reader.read(store / "done").num_done == before.num_done
    shutil.rmtree(store / "done")
    make_study(store / "done", dtypes=("float32", "bfloat16"))
    assert reader.read(store / "done").num_done == 2 * before.num_done, "another study came into its folder"


def test_only_a_study_with_a_plan_can_be_complete(store: Path) -> None:
    planned(store / "early")
    assert {one.study: one.is_complete for one in read_status(store, [])} == {
        "done": True,
        "early": False,
        "opened": False,
    }


def test_watch_ends_when_all_is_done(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for a study that is done")

    monkeypatch.setattr(time, "sleep", never)
    assert status("done", "--store", store, "--watch").exit_code == 0


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
    assert "not planned yet" in shown.stdout.splitlines()[0]
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


@pytest.mark.parametrize("names", [(), ("opened",)])
@pytest.mark.parametrize("how", ["another format", "no format", "no first commit"])
def test_a_study_that_cannot_be_read_is_shown_as_damaged_and_never_left_out(
    store: Path, how: str, names: tuple[str, ...]
) -> None:
    match how:
        case "another format":
            (store / "opened" / "format.json").write_text("{")
        case "no format":
            (store / "opened" / "format.json").unlink()
        case "no first commit":
            with StudyStore(store / "opened").open_driver():
                pass
            (store / "opened" / "commits" / "0000000001.json").unlink()
    shown = status(*names, "--store", store)
    assert shown.exit_code == 1
    lines = {line.split()[0]: line.split() for line in shown.stdout.splitlines()[2:]}
    assert lines["opened"][-1] == "damaged" and ("done" in lines) == (not names)
    assert "opened is damaged: " in shown.stderr
    found = {one["study"]: one for one in json.loads(status(*names, "--store", store, "--json").stdout)}
    assert found["opened"]["damaged"] and found.get("done", {"damaged": None})["damaged"] is None


def test_a_study_that_lacks_a_file_of_rows_is_shown_as_damaged_with_what_to_do(store: Path) -> None:
    (part,) = (store / "done" / "data").rglob("*.parquet")
    part.unlink()
    shown = status("--store", store)
    assert shown.exit_code == 1 and shown.stdout.splitlines()[2].split()[-1] == "damaged"
    assert (
        f"120 rows are lost: {part.relative_to(store / 'done')} was committed and is missing" in shown.stderr
    )
    assert "swapyard doctor --repair done --store" in shown.stderr
