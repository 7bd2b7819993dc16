"""Promise: what nobody needs is cleared, what anybody may need is not, and clearing harms no one."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import Driver, Manifest, Merge, RemovedFiles, StudyStore, leftovers
from workers.errors import HeldError, StoreError

from .conftest import make_manifest
from .test_merge import write

Spawn = Callable[..., "subprocess.Popen[str]"]

SWEEP = """
import sys
from pathlib import Path
from orchestrator.store import StudyStore
with StudyStore(Path(sys.argv[1])).open_driver() as driver:
    print(driver.collect_garbage(grace_s=0))
"""

PLAN = {"cells.parquet": b"cells", "study.yaml": b"study: x"}


def add(store: StudyStore, driver: Driver, tile: int) -> Manifest:
    return write(store, driver, 10, tile=tile)


def orphan(store: StudyStore, epoch: int) -> Path:
    """A part that was written and never committed."""
    return store.locate(store.write_part(epoch, "lane", b"rows").path)


def merge(store: StudyStore, driver: Driver) -> None:
    made = store.merge(driver.epoch, Merge(tuple(driver.state.files.values()))).file
    assert made is not None
    driver.commit_merged(made)


def files(store: StudyStore) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


def folders(store: StudyStore) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_dir()}


def make_old(*paths: Path) -> None:
    """Make files older than the driver's opening, as a killed driver's are."""
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - 60,) * 2)


def test_a_new_study_has_nothing_to_clear(store: StudyStore) -> None:
    with store.open_driver() as driver:
        driver.write_plan(PLAN)
        add(store, driver, 0)
        before = files(store), folders(store)
        assert driver.collect_garbage(grace_s=0) == RemovedFiles()
        assert (files(store), folders(store)) == before


def test_parts_that_an_earlier_driver_left_uncommitted_are_cleared(store: StudyStore) -> None:
    with store.open_driver() as driver:
        kept = add(store, driver, 0)
        lost = [orphan(store, driver.epoch) for _ in range(3)]
        assert driver.collect_garbage() == RemovedFiles(), "a part of the current epoch may yet be committed"
    with store.open_driver() as driver:
        assert driver.collect_garbage() == RemovedFiles(num_orphans=3)
        assert driver.collect_garbage() == RemovedFiles()
    assert store.read_part(kept).num_rows == 10
    assert not any(path.exists() for path in lost)


def test_folders_of_earlier_epochs_go_when_they_are_empty(store: StudyStore) -> None:
    for _ in range(2):
        with store.open_driver() as driver:
            orphan(store, driver.epoch)
    with store.open_driver() as driver:
        add(store, driver, 0)
    with store.open_driver() as driver:
        store.locate(f"data/{driver.epoch}/lane").mkdir(parents=True)
        driver.collect_garbage()
        assert folders(store) == {"commits", "data", "data/3", "data/3/lane", "data/5", "data/5/lane"}


def test_files_that_were_replaced_go_after_the_grace(store: StudyStore) -> None:
    with store.open_driver() as driver:
        parts = [add(store, driver, tile) for tile in range(3)]
        merge(store, driver)
        assert driver.collect_garbage(grace_s=60) == RemovedFiles()
        assert all(store.read_part(part).num_rows == 10 for part in parts), "a reader may still be at them"
        assert driver.collect_garbage(grace_s=0) == RemovedFiles(num_replaced=3)
        assert [store.read_part(file).num_rows for file in driver.state.files.values()] == [30]
        assert not {part.path for part in parts} & files(store)


def test_files_that_an_earlier_driver_replaced_have_the_same_grace(store: StudyStore) -> None:
    with store.open_driver() as driver:
        for tile in range(3):
            add(store, driver, tile)
        merge(store, driver)
    with store.open_driver() as driver:
        assert driver.collect_garbage(grace_s=60) == RemovedFiles()
        assert driver.collect_garbage(grace_s=0) == RemovedFiles(num_replaced=3)


def test_plans_that_no_commit_named_are_cleared(store: StudyStore) -> None:
    with store.open_driver() as driver:
        for content in (PLAN, {"cells.parquet": b"newer"}):
            driver.write_plan(content)
    lost = [store.locate(f"plan/{uuid.uuid4().hex}") for _ in range(2)]
    for folder in lost:
        folder.mkdir()
    (lost[0] / "cells.parquet").write_bytes(b"half of a pl")
    with store.open_driver() as driver:
        assert driver.collect_garbage() == RemovedFiles(num_plans=1)
    assert not any(folder.exists() for folder in lost)
    assert len(list(store.locate("plan").iterdir())) == 2
    plan = store.latest_plan()
    assert plan is not None and store.read_plan_file(plan, "cells.parquet") == b"newer"


def test_a_plan_that_this_driver_could_not_commit_stays_for_the_next(store: StudyStore) -> None:
    with store.open_driver() as driver:
        commits = store.locate("commits")
        commits.rename(store.root / "elsewhere")
        commits.write_text("in the way")
        with pytest.raises(StoreError):
            driver.write_plan(PLAN)
        commits.unlink()
        (store.root / "elsewhere").rename(commits)
        assert driver.collect_garbage() == RemovedFiles()
    with store.open_driver() as driver:
        assert driver.collect_garbage() == RemovedFiles(num_plans=len(PLAN) + 1)


def test_temporary_files_of_earlier_drivers_are_cleared_and_newer_ones_stay(store: StudyStore) -> None:
    with store.open_driver():
        pass
    places = [f"{name}-{number:032x}" for number, name in enumerate(("commits/.tmp", ".tmp", ".hello"))]
    old = [store.root / name for name in (*places, f"{places[2]}-0")]
    theirs = [store.root / name for name in ("notes/.tmp-draft", "notes/deep/.tmp-1", ".tmp-mine")]
    make_old(*old, *theirs)
    with store.open_driver() as driver:
        new = [path.with_name(path.name.replace("0000", "abcd", 1)) for path in old]
        for path in new:
            path.touch()
            # The clock of a file system is coarse.
            os.utime(path, (time.time() + 1,) * 2)
        assert driver.collect_garbage() == RemovedFiles(num_hidden=4)
        assert all(path.exists() for path in new)
        assert not any(path.exists() for path in old)
        assert (store.root / ".lock").exists()
        assert all(path.exists() for path in theirs), "files of the user's own"


def test_without_the_lock_no_temporary_file_is_touched(store: StudyStore) -> None:
    with store.open_driver(), store.open_driver(take_over=True) as driver:
        make_old(store.root / "commits" / ".tmp-1")
        assert driver.collect_garbage() == RemovedFiles()


def test_notes_of_workers_are_cleared_and_logs_stay(store: StudyStore) -> None:
    with store.open_driver() as driver:
        logs = store.locate(f"logs/{driver.epoch}")
    logs.mkdir(parents=True)
    for name in ("3.trial", "driver.log", "host-7.log"):
        (logs / name).touch()
    with store.open_driver() as driver:
        assert driver.collect_garbage() == RemovedFiles(num_orphans=1)
    assert sorted(path.name for path in logs.iterdir()) == ["driver.log", "host-7.log"]


def test_what_is_not_ours_stays(store: StudyStore) -> None:
    with store.open_driver() as driver:
        driver.write_plan(PLAN)
        add(store, driver, 0)
    strange = [
        "data/notes.txt",
        "data/1/lane/mine.parquet",
        "data/x/lane/a.parquet",
        "plan/mine/cells.parquet",
    ]
    for name in strange:
        store.locate(name).parent.mkdir(parents=True, exist_ok=True)
        store.locate(name).touch()
    outside = store.root.parent / "outside"
    outside.mkdir()
    (outside / f"{uuid.uuid4().hex}.parquet").touch()
    store.locate("data/1/link").symlink_to(outside)
    store.locate("plan/empty").mkdir()
    with store.open_driver() as driver:
        assert driver.collect_garbage(grace_s=0) == RemovedFiles()
    assert set(strange) <= files(store)
    assert store.locate("data/1/link").is_symlink() and len(list(outside.iterdir())) == 1
    assert store.locate("plan/empty").is_dir()


def test_a_fenced_driver_clears_nothing(store: StudyStore) -> None:
    with store.open_driver() as first:
        orphan(store, first.epoch)
    with store.open_driver() as old, store.open_driver(take_over=True) as new:
        plan = store.locate(f"plan/{uuid.uuid4().hex}")
        plan.mkdir(parents=True)
        (plan / "cells.parquet").touch()
        before = files(store)
        assert old.collect_garbage(grace_s=0) == RemovedFiles()
        assert files(store) == before
        assert new.collect_garbage() == RemovedFiles(num_orphans=1, num_plans=1)


def test_a_fenced_driver_whose_files_vanish_fails_as_fenced(store: StudyStore) -> None:
    with store.open_driver() as old:
        old.write_plan(PLAN)
        add(store, old, 0)
        lost = orphan(store, old.epoch)
        with store.open_driver(take_over=True) as new:
            new.write_plan(PLAN)
            new.collect_garbage(grace_s=0)
            assert not lost.exists()
            acts = (
                lambda: old.write_plan(PLAN),
                lambda: old.commit([make_manifest(epoch=old.epoch, tile=7)]),
                old.check,
            )
            for act in acts:
                with pytest.raises(HeldError, match="was fenced"):
                    act()
            new.check()


def test_a_folder_that_vanishes_under_a_fenced_driver_is_said_as_fenced(store: StudyStore) -> None:
    with store.open_driver() as old:
        old.write_plan(PLAN)
        with store.open_driver(take_over=True):
            plans = store.locate("plan")
            plans.rename(store.root / "gone")
            with pytest.raises(HeldError, match="was fenced"):
                old.write_plan(PLAN)


def test_what_cannot_be_removed_is_said_and_ends_nothing(
    store: StudyStore, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.open_driver() as driver:
        for _ in range(3):
            orphan(store, driver.epoch)
    monkeypatch.setenv("SWAPYARD_FAULTS", "remove.unlink.before=eio@2")
    out, err = spawn(SWEEP, store.root).communicate(timeout=60)
    assert err == ""
    assert "num_orphans=1" in out and "cannot be read or written (input/output error)" in out
    with store.open_driver() as driver:
        assert driver.collect_garbage() == RemovedFiles(num_orphans=2)


@pytest.mark.parametrize("turn", [1, 2, 5])
def test_a_driver_killed_while_it_clears_has_cleared_nothing_that_is_needed(
    store: StudyStore, spawn: Spawn, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    with store.open_driver() as driver:
        driver.write_plan(PLAN)
        parts = [add(store, driver, tile) for tile in range(3)]
        merge(store, driver)
        for _ in range(3):
            orphan(store, driver.epoch)
    monkeypatch.setenv("SWAPYARD_FAULTS", f"sweep.remove=kill@{turn}")
    child = spawn(SWEEP, store.root)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    with store.open_driver() as driver:
        swept = driver.collect_garbage(grace_s=0)
        assert swept.num_orphans + swept.num_replaced == 6 - (turn - 1)
        assert [store.read_part(file).num_rows for file in driver.state.files.values()] == [30]
        assert list(driver.state.live) == [part.path for part in parts]


def test_what_the_next_driver_would_clear_can_be_asked_without_clearing(store: StudyStore) -> None:
    with store.open_driver() as driver:
        add(store, driver, 0)
        lost = orphan(store, driver.epoch)
    state = store.state()
    names = sorted(files(store))
    found = leftovers(names, state, epoch=state.seq + 1, now_s=time.time())
    assert found.orphans == (lost.relative_to(store.root).as_posix(),)
    assert found.replaced == found.plans == ()
    assert lost.exists()


def test_parts_whose_commits_are_lost_are_left_alone_and_no_driver_opens_the_study(tmp_path: Path) -> None:
    store = StudyStore(tmp_path)
    with store.open_driver() as driver:
        store.write_part(driver.epoch, "0", b"rows")
    lost = store.root / "data" / "7" / "0" / f"{'a' * 32}.parquet"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"rows")
    for commit in (tmp_path / "commits").iterdir():
        commit.unlink()
    before = files(store)
    with pytest.raises(StoreError, match=r"no commit.*restore commits/ from a copy, or .*doctor --repair"):
        store.open_driver()
    assert lost.exists() and files(store) == before
