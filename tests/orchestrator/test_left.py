"""Promise: the time that is left is said in one line, the same everywhere, and nothing is said while it is
not known."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_store import make_study

from orchestrator.cli import cli
from orchestrator.plan.remaining import Counts
from orchestrator.run import left as left_module
from orchestrator.run import progress as progress_module
from orchestrator.run.left import LeftNote, left_text, read_left
from orchestrator.run.progress import Progress
from orchestrator.store import StudyStore
from orchestrator.upkeep.status import read_status

COUNTS = Counts(num_jobs=1000, num_done=400, num_failed=0)


def test_time_is_said_in_seconds_or_not_at_all() -> None:
    assert left_text(None) == "time left: not known yet"
    assert left_text(154.4) == "about 154 s left" and left_text(12_345.0) == "about 12,345 s left"
    assert left_text(0.0) == "about 1 s left"


def test_a_line_of_progress_ends_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_S", 0.0)
    lines: list[str] = []
    progress = Progress(quiet=True)
    progress.also(lines.append)
    progress.update(COUNTS)
    progress.update(COUNTS, 154.2)
    progress.trained(0, 6, None)
    progress.trained(2, 6, 80.0)
    assert [line.rpartition(" · ")[2] for line in lines] == [
        "time left: not known yet",
        "about 154 s left",
        "time left: not known yet",
        "about 80 s left",
    ]
    assert lines[1].startswith("400 of 1,000 jobs · ") and lines[3].startswith("2 of 6 trainings are over · ")


def test_a_note_is_counted_down_until_it_is_too_old(tmp_path: Path) -> None:
    assert read_left(tmp_path) is None
    note = LeftNote(tmp_path)
    note.write(100.0)
    note.write(50.0)
    assert read_left(tmp_path) == pytest.approx(100.0, abs=2.0), "not more often than every now and then"
    file = tmp_path / "left.json"
    for age_s, wanted in ((30.0, 70.0), (500.0, 0.0), (700.0, None)):
        file.write_text(json.dumps({"time_s": time.time() - age_s, "left_s": 100.0}), "utf-8")
        found = read_left(tmp_path)
        assert found == (None if wanted is None else pytest.approx(wanted, abs=2.0))
    for text in ("", "[]", '{"time_s": 1}', '{"time_s": 1, "left_s": null}'):
        file.write_text(text, "utf-8")
        assert read_left(tmp_path) is None
    note.clear()
    note.clear()
    assert not file.exists()


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    LeftNote(tmp_path / "nowhere").write(1.0)


def test_status_tells_what_the_driver_at_work_says(tmp_path: Path) -> None:
    make_study(tmp_path / "done")
    head = CliRunner().invoke(cli, ["status", "--store", str(tmp_path)]).stdout.splitlines()[0]
    assert "left" not in head and "time" not in head
    store = StudyStore(make_study(tmp_path / "more"))
    with store.open_driver() as driver:
        lines = CliRunner().invoke(cli, ["status", "--store", str(tmp_path)]).stdout.splitlines()
        assert "left" not in lines[2] and lines[3].endswith("time left: not known yet")
        folder = store.logs(driver.epoch)
        folder.mkdir(parents=True, exist_ok=True)
        LeftNote(folder).write(154.0)
        lines = CliRunner().invoke(cli, ["status", "--store", str(tmp_path)]).stdout.splitlines()
        assert "about 15" in lines[3] and lines[3].endswith(" s left")
        (one,) = read_status(tmp_path, ["more"])
        assert one.to_json()["left_s"] == pytest.approx(154.0, abs=3.0)
    (one,) = read_status(tmp_path, ["more"])
    assert one.left_s is None, "nobody is at work"


def test_notes_are_cleared_by_the_next_driver(tmp_path: Path) -> None:
    store = StudyStore(make_study(tmp_path / "s"))
    folder = store.logs(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("left.json", f"{'a' * 32}.making", "driver.log"):
        (folder / name).write_text("{}")
    with store.open_driver() as driver:
        driver.collect_garbage()
    assert [path.name for path in folder.iterdir()] == ["driver.log"]
    assert left_module.WRITE_EVERY_S < 5
