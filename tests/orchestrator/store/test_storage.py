"""Promise: what a storage says it wrote is there whole, once, and inside its root."""

import functools
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.store import StudyStore
from orchestrator.store.storage import LocalStorage, Storage
from workers.errors import StoreError

from .memory import MemoryStorage
from .synthetic import drive, finished

Spawn = Callable[..., "subprocess.Popen[str]"]

RACE = """
import sys, time
from pathlib import Path
from orchestrator.store.storage import LocalStorage
storage, me = LocalStorage(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
start = float(sys.stdin.readline())
for turn in range(150):
    while time.time() < start + turn * 0.003:
        pass
    if storage.create(f"race/{turn}", me.encode() * 1000):
        print(turn, me)
"""

WRITER = """
import itertools, sys
from pathlib import Path
from orchestrator.store.storage import LocalStorage
storage, me = LocalStorage(Path(sys.argv[1])), sys.argv[2]
for number in itertools.count():
    storage.create(f"log/{me}-{number}", b"x" * 100_000)
    print(f"log/{me}-{number}", flush=True)
"""


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "root")


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, local: LocalStorage) -> Storage:
    """Each kind there is: one promise for all."""
    return local if request.param == "local" else MemoryStorage()


def test_create_writes_once_and_never_replaces(storage: Storage) -> None:
    assert storage.create("commits/1", b"first")
    assert not storage.create("commits/1", b"second")
    assert storage.read("commits/1") == b"first"


def test_put_fresh_refuses_a_name_that_is_taken(storage: Storage) -> None:
    storage.put_fresh("data/part", b"first")
    with pytest.raises(StoreError, match="file exists"):
        storage.put_fresh("data/part", b"second")
    assert storage.read("data/part") == b"first"


def test_what_is_not_there_reads_as_none_and_lists_as_nothing(storage: Storage) -> None:
    assert storage.read("data/part") is None
    assert not storage.exists("data/part")
    assert storage.list("data") == []
    storage.remove("data/part")


def test_list_names_everything_below_in_order(storage: Storage) -> None:
    for name in ("data/b/2", "data/a/1", "other/3", "data-2/4"):
        storage.put_fresh(name, b"")
    assert storage.list("data") == ["data/a/1", "data/b/2"]
    storage.remove("data/a/1")
    assert storage.list("data") == ["data/b/2"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/", ".lock", "a/\0"])
def test_names_stay_under_the_root(storage: Storage, name: str) -> None:
    for operation in (storage.read, storage.exists, storage.remove, storage.list):
        with pytest.raises(StoreError, match="is not allowed in a study"):
            operation(name)
    for write in (storage.create, storage.put_fresh):
        with pytest.raises(StoreError, match="is not allowed in a study"):
            write(name, b"")


def test_of_threads_that_create_one_name_exactly_one_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            letters = [bytes([65 + number]) for number in range(8)]
            made = list(pool.map(functools.partial(storage.create, f"race/{turn}"), letters))
            assert made.count(True) == 1
            assert storage.read(f"race/{turn}") == letters[made.index(True)]


def test_a_whole_study_lives_in_any_storage(storage: Storage, tmp_path: Path) -> None:
    drive(StudyStore(tmp_path / "root", storage))
    for folder in ("commits", "data", "plan"):
        for name in storage.list(folder):
            data = storage.read(name)
            assert data is not None
            (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / name).write_bytes(data)
    finished(tmp_path / "copy")


def test_no_temporary_file_is_listed_nor_any_name_outside_located(local: LocalStorage) -> None:
    local.put_fresh("data/1", b"")
    (local.root / "data" / ".tmp-left-by-a-kill").touch()
    assert local.list("data") == ["data/1"]
    with pytest.raises(StoreError, match="is not allowed in a study"):
        local.locate("../x")


def test_a_missing_folder_above_the_root_is_made(tmp_path: Path) -> None:
    LocalStorage(tmp_path / "a" / "b" / "root").put_fresh("data/1", b"there")
    assert (tmp_path / "a" / "b" / "root" / "data" / "1").read_bytes() == b"there"


def test_a_file_where_a_folder_is_needed_is_one_clear_error(local: LocalStorage) -> None:
    local.put_fresh("data", b"")
    with pytest.raises(StoreError, match="cannot be read or written: file exists"):
        local.create("data/x", b"")


def test_probe_accepts_a_local_disk_and_leaves_nothing(local: LocalStorage) -> None:
    local.probe()
    assert list(local.root.iterdir()) == []


def test_of_four_processes_that_create_one_name_exactly_one_wins(tmp_path: Path, spawn: Spawn) -> None:
    children = [spawn(RACE, tmp_path, letter) for letter in "abcd"]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    start = time.time() + 0.05
    wins: Counter[int] = Counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write(f"{start}\n")
        child.stdin.flush()
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        for line in out.splitlines():
            turn, winner = line.split()
            wins[int(turn)] += 1
            assert (tmp_path / "race" / turn).read_text() == winner * 1000
    assert wins == Counter(range(150))
    assert len(list((tmp_path / "race").iterdir())) == 150


def test_a_writer_killed_at_any_moment_leaves_whole_files_and_all_it_reported(
    tmp_path: Path, spawn: Spawn
) -> None:
    for turn in range(6):
        with spawn(WRITER, tmp_path, turn) as child:
            assert child.stdout is not None
            reported = [child.stdout.readline().strip()]
            time.sleep(0.01 + turn * 0.0013)
            child.send_signal(signal.SIGKILL)
            # The kill may have cut the last line.
            reported += child.stdout.read().split("\n")[:-1]
        storage = LocalStorage(tmp_path)
        names = storage.list("log")
        assert set(reported) <= set(names)
        assert all(storage.read(name) == b"x" * 100_000 for name in names)
