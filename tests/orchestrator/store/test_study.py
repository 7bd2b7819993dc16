"""Promise: a study folder is all the state there is: one driver, any workers and readers, in any process."""

import json
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import Driver, Manifest, RemovedFiles, StudyStore, encode_part
from workers.errors import HeldError, StoreError

from .conftest import make_manifest
from .memory import MemoryStorage

Spawn = Callable[..., "subprocess.Popen[str]"]
MakeManifest = Callable[..., Manifest]

DRIVE = """
import sys, time
from pathlib import Path
from orchestrator.store import StudyStore
with StudyStore(Path(sys.argv[1])).open_driver() as driver:
    print(driver.epoch, flush=True)
    sys.stdin.readline()
"""

WORK = """
import json, sys
from pathlib import Path
from orchestrator.store import StudyStore, encode_part
rows = {"cell": [0, 1], "pair": [0, 0], "error": [None, None], "attempt": [0, 0], "tier": ["hooked"] * 2,
        "kl_base": [0.5, 1.5], "kl_source": [2.0, None], "tv_base": [0.1, None]}
store = StudyStore(Path(sys.argv[1]))
print(json.dumps(store.write_part(int(sys.argv[2]), "lane", encode_part(rows, ["kl"]))._asdict()))
"""

IMPORT = """
import sys, orchestrator.store
heavy = ("torch", "transformers", "ray", "pyarrow", "numpy", "duckdb")
print([name for name in heavy if name in sys.modules])
"""


def work(spawn: Spawn, driver: Driver, store: StudyStore) -> Manifest:
    """What a worker in another process writes, and then reports."""
    out, err = spawn(WORK, store.root, driver.epoch).communicate(timeout=60)
    assert out, err
    return make_manifest(**json.loads(out), families=("kl",), k_lo=0, k_hi=2, rows=2, tiers={"hooked": 2})


def test_a_part_written_elsewhere_counts_once_it_is_committed(store: StudyStore, spawn: Spawn) -> None:
    with store.open_driver() as driver:
        part = work(spawn, driver, store)
        reader = store.open_reader()
        assert not reader.state.live
        assert driver.commit([part]) == ()
        assert list(reader.refresh().live) == [part.path]
        assert reader.state.done("kl", 0).intervals() == ((0, 2),)
        assert store.read_part(part)["kl_source"].to_pylist() == [2.0, None]


def test_a_part_whose_jobs_are_done_is_refused_and_named(store: StudyStore, spawn: Spawn) -> None:
    with store.open_driver() as driver:
        first, second = work(spawn, driver, store), work(spawn, driver, store)
        assert driver.commit([first, second]) == (second,)
        seq = driver.state.seq
        assert driver.commit([second]) == (second,)
        assert driver.state.seq == seq, "a commit that adds nothing was made"
    assert list(store.state().live) == [first.path]


def test_a_plan_is_real_once_it_is_committed_and_the_latest_counts(store: StudyStore) -> None:
    with store.open_driver() as driver:
        assert store.latest_plan() is None
        driver.write_plan({"cells.parquet": b"old"})
        plan = driver.write_plan({"cells.parquet": b"new", "study.yaml": b"study: x"})
        shutil.copytree(store.locate(f"plan/{plan.id}"), store.locate("plan/uncommitted"))
    assert store.latest_plan() == plan
    assert store.read_plan_file(plan, "cells.parquet") == b"new"
    assert store.locate(plan.path("study.yaml")).read_bytes() == b"study: x"


def test_a_damaged_or_unknown_plan_file_is_refused(store: StudyStore) -> None:
    with store.open_driver() as driver:
        plan = driver.write_plan({"cells.parquet": b"new"})
    with pytest.raises(StoreError, match=r"has no file 'tiles'; it has \['cells.parquet'\]"):
        store.read_plan_file(plan, "tiles")
    store.locate(plan.path("cells.parquet")).write_bytes(b"New")
    with pytest.raises(StoreError, match="is missing or damaged"):
        store.read_plan_file(plan, "cells.parquet")


def test_a_plan_of_a_folder_that_was_moved_is_not_called_damaged(store: StudyStore) -> None:
    with store.open_driver() as driver:
        plan = driver.write_plan({"cells.parquet": b"new"})
    store.root.rename(store.root.with_name("elsewhere"))
    with pytest.raises(StoreError, match="is gone, moved or removed while it was used"):
        store.read_plan_file(plan, "cells.parquet")


def test_a_second_driver_stops_with_code_5_and_changes_nothing(store: StudyStore, spawn: Spawn) -> None:
    first = spawn(DRIVE, store.root)
    assert first.stdout is not None and first.stdout.readline() == "1\n"
    with pytest.raises(HeldError, match=f"driven by process {first.pid} on") as error:
        store.open_driver()
    assert error.value.exit_code == 5
    assert store.state().seq == 1
    assert first.communicate("\n", timeout=60)[1] == ""
    with store.open_driver() as driver:
        assert driver.epoch == 2


def test_take_over_fences_a_living_driver(store: StudyStore, manifest: MakeManifest) -> None:
    with store.open_driver() as old:
        old.commit([manifest(epoch=old.epoch)])
        with store.open_driver(take_over=True) as new:
            for act in (
                lambda: old.commit([manifest(epoch=old.epoch, tile=1)]),
                lambda: old.write_plan({"cells": b""}),
            ):
                with pytest.raises(HeldError, match="was fenced"):
                    act()
            old.close()
            new.commit([manifest(epoch=new.epoch, tile=1)])
            # The lock that it could not take is its own now.
            with pytest.raises(HeldError, match="is driven by"):
                store.open_driver()
    assert [part.tile for part in store.state().live.values()] == [0, 1]
    assert store.latest_plan() is None


def test_readers_need_no_driver_and_leave_nothing_behind(store: StudyStore) -> None:
    with store.open_driver():
        pass
    before = sorted(store.root.rglob("*"))
    assert store.state().epoch == 1
    assert sorted(store.root.rglob("*")) == before


def test_a_folder_without_a_study_is_refused(store: StudyStore) -> None:
    assert not store.exists()
    for read in (store.open_reader, store.state, store.latest_plan):
        with pytest.raises(StoreError, match="holds no study; run one first"):
            read()
    assert not store.root.exists()


def test_a_folder_with_other_things_is_not_made_a_study(store: StudyStore) -> None:
    store.root.mkdir()
    (store.root / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"holds no study but other things \('thesis.tex'\)"):
        store.open_driver()
    assert not store.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "swapyard study", "version": 2}, "has format 2, and this version reads up to 1; upgrade"),
        ({"format": "something else", "version": 1}, "is damaged: format.json is damaged; .* --repair study"),
        ([], "is damaged: format.json is damaged; restore it from a copy, or make it again with"),
    ],
)
def test_a_study_of_another_format_is_refused(store: StudyStore, content: object, message: str) -> None:
    with store.open_driver():
        pass
    store.locate("format.json").write_text(json.dumps(content))
    for act in (store.open_reader, store.open_driver):
        with pytest.raises(StoreError, match=message):
            act()


def test_a_lost_or_changed_part_is_noticed(store: StudyStore, spawn: Spawn) -> None:
    with store.open_driver() as driver:
        part = work(spawn, driver, store)
        driver.commit([part])
    path = store.locate(part.path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        store.read_part(part)
    path.unlink()
    with pytest.raises(StoreError, match="was committed and is missing"):
        store.read_part(part)


def test_a_part_cannot_be_written_outside_the_study(store: StudyStore) -> None:
    for lane in ("..", "a/../../..", "/tmp", ""):
        with pytest.raises(StoreError, match="is not allowed"):
            store.write_part(1, lane, b"")


def test_a_store_can_be_sent_to_another_process(store: StudyStore) -> None:
    with store.open_driver() as driver:
        plan = driver.write_plan({"cells": b"x"})
    sent: StudyStore = pickle.loads(pickle.dumps(store))
    assert sent.read_plan_file(plan, "cells") == b"x"


def test_another_storage_may_keep_the_bytes(tmp_path: Path) -> None:
    storage = MemoryStorage()
    store = StudyStore(tmp_path / "study", storage)
    rows = {"cell": [0, 1], "pair": [0, 0], "error": [None] * 2, "attempt": [0, 0], "tier": ["hooked"] * 2}
    metrics = {"kl_base": [0.5, 1.5], "kl_source": [2.0, None], "tv_base": [0.1, None]}
    data = encode_part({**rows, **metrics}, ["kl"])
    with store.open_driver() as driver:
        plan = driver.write_plan({"cells": b"x"})
        for tile in range(2):
            written = store.write_part(driver.epoch, "lane", data)
            part = make_manifest(**written._asdict(), families=("kl",), tile=tile, k_hi=2, rows=2)
            assert driver.commit([part]) == ()
        orphan = store.write_part(driver.epoch, "lane", data)
    with store.open_driver() as driver:
        merge = driver.next_merge(1)
        assert merge is not None
        merged = store.merge(driver.epoch, merge).file
        assert merged is not None
        driver.commit_merged(merged)
        # What can be read stays, though no commit names it.
        assert driver.collect_garbage(grace_s=0) == RemovedFiles(num_kept=1, num_replaced=2)
    assert storage.list("data") == sorted([merged.path, orphan.path])
    assert list(store.state().files) == [merged.path]
    assert store.read_part(merged.file)["kl_base"].to_pylist() == [0.5, 0.5, 1.5, 1.5]
    assert store.read_plan_file(plan, "cells") == b"x"
    # Only the lock is a folder's.
    assert [path.name for path in store.root.iterdir()] == [".lock"]


def test_importing_it_loads_nothing_heavy(spawn: Spawn) -> None:
    out, err = spawn(IMPORT).communicate(timeout=60)
    assert out == "[]\n", err
