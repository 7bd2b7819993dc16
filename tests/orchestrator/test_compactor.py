"""Promise: files are merged behind the driver's back, nobody waits for it, and its troubles stay its own."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from histories import History

from orchestrator.run.compactor import Compactor, most_files
from orchestrator.store import Merge, Merged, StudyStore
from workers.errors import HeldError, RunError, StorageFullError

MOST = 6


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History.begin(tmp_path)


@pytest.fixture
def said() -> list[str]:
    return []


class Slow(StudyStore):
    """A store whose merges begin when the test says so, and fail if it says so."""

    def __init__(self, store: StudyStore, error: Exception | None = None) -> None:
        super().__init__(store.root)
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.error = error

    def merge(self, epoch: int, merge: Merge, go_on: Callable[[], bool] = lambda: True) -> Merged:
        self.begun.set()
        assert self.may_go_on.wait(30)
        if self.error is not None:
            raise self.error
        return super().merge(epoch, merge, go_on)


def add_parts(history: History, num: int) -> None:
    for k in range(len(history.parts), len(history.parts) + num):
        history.add(0, k, k + 1)


def poll_until(compactor: Compactor, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        compactor.poll()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_files_are_merged_once_there_are_too_many(history: History, said: list[str]) -> None:
    compactor = Compactor(history.store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST)
    compactor.poll()
    assert all(thread.name != "compactor" for thread in threading.enumerate())
    add_parts(history, 1)
    poll_until(compactor, lambda: len(history.driver.state.files) == 1)
    assert history.seen() == history.expected()
    assert len(history.store.state().live) == MOST + 1
    compactor.close()
    assert said == []


def test_polling_never_waits_for_a_merge(history: History, said: list[str]) -> None:
    store = Slow(history.store)
    compactor = Compactor(store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 1)
    compactor.poll()
    assert store.begun.wait(30)
    # Meanwhile the driver goes on.
    add_parts(history, 2)
    compactor.poll()
    assert len(history.driver.state.files) == MOST + 3
    store.may_go_on.set()
    poll_until(compactor, lambda: len(history.driver.state.files) == 3)
    assert history.seen() == history.expected()
    compactor.close()


def test_closing_gives_up_a_merge_that_is_not_written(history: History, said: list[str]) -> None:
    store = Slow(history.store)
    compactor = Compactor(store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 1)
    compactor.poll()
    assert store.begun.wait(30)
    threading.Timer(0.05, store.may_go_on.set).start()
    for _ in range(2):
        compactor.close()
    compactor.poll()
    assert not history.driver.state.replaced
    assert len(list(history.store.locate("data").rglob("*.parquet"))) == MOST + 1
    assert said == []


def test_closing_commits_a_merge_that_is_written(history: History, said: list[str]) -> None:
    compactor = Compactor(history.store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 1)
    compactor.poll()
    for thread in threading.enumerate():
        if thread.name == "compactor":
            thread.join(30)
    compactor.close()
    assert len(history.driver.state.files) == 1


def test_a_damaged_file_is_said_once_and_left_where_it_is(history: History, said: list[str]) -> None:
    compactor = Compactor(history.store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 2)
    bad = history.parts[3].path
    path = history.store.locate(bad)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    poll_until(compactor, lambda: len(history.driver.state.files) == 2)
    assert history.driver.state.file_of(bad).path == bad
    add_parts(history, MOST)
    poll_until(compactor, lambda: len(history.driver.state.files) == 2)
    compactor.close()
    assert len(said) == 1 and bad in said[0] and "is damaged" in said[0]


def test_a_merge_that_fails_is_said_once_and_nothing_more_is_merged(
    history: History, said: list[str]
) -> None:
    store = Slow(history.store, ValueError("no luck"))
    store.may_go_on.set()
    compactor = Compactor(store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 1)
    poll_until(compactor, lambda: bool(said))
    store.begun.clear()
    add_parts(history, 1)
    compactor.poll()
    assert not store.begun.wait(0.05)
    compactor.close()
    assert said == ["small files are not merged any more in this run: no luck"]


def test_a_full_disk_ends_the_run(history: History, said: list[str]) -> None:
    store = Slow(history.store, StorageFullError("no room"))
    store.may_go_on.set()
    compactor = Compactor(store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 1)
    with pytest.raises(StorageFullError):
        poll_until(compactor, lambda: False)
    compactor.close()


def test_a_driver_that_lost_the_study_is_told_and_its_merge_counts_for_nothing(
    history: History, said: list[str]
) -> None:
    store = Slow(history.store)
    compactor = Compactor(store, history.driver, said.append, most_files=MOST)
    add_parts(history, MOST + 1)
    compactor.poll()
    assert store.begun.wait(30)
    with history.store.open_driver(take_over=True) as new:
        store.may_go_on.set()
        with pytest.raises(HeldError):
            poll_until(compactor, lambda: False)
        compactor.close()
        assert len(history.store.state().files) == MOST + 1
        assert new.collect_garbage().num_orphans == 1
        assert history.seen() == history.expected()


def test_the_environment_says_how_many_files_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWAPYARD_MOST_FILES", raising=False)
    assert most_files() == 500
    monkeypatch.setenv("SWAPYARD_MOST_FILES", "12")
    assert most_files() == 12
    for text in ("1", "many", "-3", "2.5"):
        monkeypatch.setenv("SWAPYARD_MOST_FILES", text)
        with pytest.raises(RunError, match=r"SWAPYARD_MOST_FILES says .*; give a number from 2"):
            most_files()
