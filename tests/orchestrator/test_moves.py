"""Promise: a study is itself, not its folder's name: renamed it goes on, copied beside it counts once, and it
is moved, copied, removed, exported and imported whole or not at all."""

import os
import shutil
import signal
import subprocess
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import (
    assert_same_rows,
    capital_pairs,
    forget_speed,
    long_pairs,
    num_parts,
    rows,
    start,
    swapyard,
    wait_until,
    write_study,
)

from orchestrator.api import open_results
from orchestrator.query.archive import export_study, import_study
from orchestrator.run.trained import trained_of
from orchestrator.stages.train.store import TrainingFolder
from orchestrator.store import StudyStore
from orchestrator.store.lock import Holder, StudyLock
from orchestrator.store.moves import copy, move, placed, remove
from orchestrator.store.storage import LocalStorage
from orchestrator.store.study_dirs import find_studies, home_of
from workers.errors import HeldError, StoreError

NUM_JOBS = 12 * 5 * 3 * 3
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "done" / "store" / "done"

Command = Callable[..., str]
Begin = Callable[[], "subprocess.Popen[str]"]
RUN = ("run", "long.yaml", "--executor", "inline", "--no-plots")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a study file, its store and a cache."""
    folder = tmp_path_factory.mktemp("moves")
    study = write_study(folder, "spain", tiny_folder, capital_pairs())
    ran = swapyard("run", study, "--executor", "inline", "--no-plots", cwd=folder, cache=folder / "cache")
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture
def place(done: Path, tmp_path: Path) -> Path:
    """A copy of all that, of the test's own."""
    return Path(shutil.copytree(done, tmp_path / "place"))


@pytest.fixture
def do(place: Path) -> Command:
    """Run a command to its end: what it said, on both streams."""

    def command(*arguments: object, code: int = 0) -> str:
        ended = swapyard(*arguments, cwd=place, cache=place / "cache")
        assert ended.returncode == code and "Traceback" not in ended.stderr, ended.stderr
        return ended.stdout + ended.stderr

    return command


def counted(do: Command) -> dict[str, int]:
    """Rows by study, as a query counts them."""
    lines = do("query", "FROM results SELECT study, count(*) n GROUP BY 1", "--format", "csv").splitlines()
    pairs = [line.replace('"', "").split(",") for line in lines[1:] if line.count(",") == 1]
    return {study: int(num) for study, num in pairs if num.isdigit()}


def names(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


def test_the_command_goes_on_with_a_study_that_somebody_renamed(place: Path, do: Command) -> None:
    (place / "runs" / "spain").rename(place / "runs" / "of-tuesday")
    said = do("run", "spain.yaml", "--executor", "inline", "--no-plots")
    assert "the study spain lies in runs/of-tuesday" in said
    assert f"{NUM_JOBS:,} jobs done, 0 of them" in said or "nothing" in said, said
    assert names(place / "runs") == ["of-tuesday"]
    assert "of-tuesday" in do("status", "spain"), "its own name finds it, too"
    shutil.copytree(place / "runs" / "of-tuesday", place / "runs" / "madrid")
    (place / "madrid.yaml").write_text((place / "spain.yaml").read_text().replace('"spain"', '"madrid"'))
    refused = do("run", "madrid.yaml", "--executor", "inline", code=1)
    assert "holds another study, 'spain'" in refused and "swapyard mv madrid spain" in refused


def test_a_damaged_study_under_another_name_is_found_and_not_begun_anew(place: Path, do: Command) -> None:
    (place / "runs" / "spain").rename(place / "runs" / "other")
    shutil.rmtree(place / "runs" / "other" / "commits")
    assert "doctor --repair other" in do("run", "spain.yaml", "--executor", "inline", "--no-plots", code=1)
    assert names(place / "runs") == ["other"]


def test_a_copy_beside_its_original_is_counted_once_and_said(place: Path, do: Command) -> None:
    shutil.copytree(place / "runs" / "spain", place / "runs" / "a-backup")
    query = ("query", "FROM results SELECT count(*) AS n", "--format", "csv")
    said = do(*query)
    assert said.splitlines()[1] == str(NUM_JOBS)
    assert "a-backup is a copy of spain and is not counted" in said
    assert "a-backup is a copy of spain" in do("status")
    with pytest.warns(UserWarning, match="a-backup is a copy of spain"):
        assert open_results(store=place / "runs").arrow("results").num_rows == NUM_JOBS
    do("mv", "a-backup", "own", "--renew")
    assert counted(do) == {"own": NUM_JOBS, "spain": NUM_JOBS}
    assert "spain lies" not in do("run", "spain.yaml", "--executor", "inline", "--no-plots")


def test_of_two_copies_that_went_on_the_longer_one_counts(place: Path) -> None:
    runs = place / "runs"
    shutil.copytree(runs / "spain", runs / "longer")
    with StudyStore(runs / "longer").open_driver():
        pass
    said: list[str] = []
    assert home_of(runs, "spain") == runs / "spain"
    shutil.copytree(runs / "longer", runs / "longest")
    (runs / "spain").rename(runs / "x")
    assert home_of(runs, "spain", said.append) == runs / "longer"
    assert said == [f"the study spain lies in {runs / 'longer'}"]


def test_mv_keeps_and_cp_renews(place: Path, do: Command) -> None:
    runs = place / "runs"
    before = StudyStore(runs / "spain").identity()
    assert f"runs/spain is runs/b now, {NUM_JOBS} rows" in do("mv", "spain", "b")
    assert StudyStore(runs / "b").identity() == before
    assert "a study of its own" in do("cp", "b", "c")
    assert StudyStore(runs / "c").identity() != before
    assert counted(do) == {"b": NUM_JOBS, "c": NUM_JOBS}
    # Each is gone on with under its own name, and nothing runs again.
    (place / "c.yaml").write_text((place / "spain.yaml").read_text().replace('"spain"', '"c"'))
    for study in ("spain.yaml", "c.yaml"):
        do("run", study, "--executor", "inline", "--no-plots")
    assert counted(do) == {"b": NUM_JOBS, "c": NUM_JOBS}
    assert_same_rows(rows(runs, "c"), rows(runs, "b"))
    assert "counts once" in do("cp", "b", "d", "--keep", code=2)
    do("cp", "b", "--keep", "--to", "backup")
    assert StudyStore(place / "backup" / "b").identity() == before
    assert "is there already" in do("cp", "b", "c", code=1)
    assert "cannot be the name of a study" in do("mv", "b", "../b", code=1)
    assert "say where to" in do("mv", "b", code=2)
    assert "and called so" in do("mv", "b", "b", code=2)
    assert "there are b, c" in do("mv", "spayn", "x", code=1)


def test_what_is_exported_is_read_by_others_and_comes_back_whole(place: Path, do: Command) -> None:
    do("export", "spain")
    with zipfile.ZipFile(place / "spain.zip") as archive:
        archive.extractall(place / "out")
        inside = {name.split("/", 1)[1] for name in archive.namelist()}
    assert {"README.md", "study.yaml", "versions.json", "tables/results.parquet"} <= inside
    plain = pq.read_table(place / "out" / "spain" / "tables" / "results.parquet")
    assert plain.equals(open_results("spain", store=place / "runs").arrow("results"))
    assert "is there already" in do("export", "spain", code=1)
    assert "has this study already, as spain" in do("import", "spain.zip", "x", code=1)
    before = StudyStore(place / "runs" / "spain").identity()
    assert "models" not in do("rm", "spain", "--yes")
    assert names(place / "runs") == []
    do("import", "spain.zip")
    assert StudyStore(place / "runs" / "spain").identity() == before
    assert open_results("spain", store=place / "runs").arrow("results").equals(plain)
    do("run", "spain.yaml", "--executor", "inline", "--no-plots")
    assert_same_rows(rows(place / "runs", "spain"), rows(place.parent / "place" / "runs", "spain"))


def test_nothing_is_removed_unasked(place: Path, do: Command) -> None:
    assert "add --yes" in do("rm", "spain", code=2)
    assert names(place / "runs") == ["spain"]


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_an_archive_that_is_damaged_or_none_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = tmp_path / "done.zip"
    export_study(GOLDEN, archive)
    store = tmp_path / "store"
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        part = next(one for one in opened.infolist() if "/store/data/" in one.filename)
    bad = tmp_path / "bad.zip"
    at = part.header_offset + 30 + len(part.filename) + part.file_size // 2
    for data, why in (
        (_flipped(whole, at), "is damaged"),
        (whole[: len(whole) // 2], "no zip file"),
        (b"", "no zip file"),
    ):
        bad.write_bytes(data)
        with pytest.raises(StoreError, match=why):
            import_study(bad, store)
    for name in ("done/store/../../../evil", "done/store//etc/evil", "done/store/.lock", "other/x"):
        with zipfile.ZipFile(bad, "w") as made:
            made.writestr(name, b"x")
        with pytest.raises(StoreError, match=r"is refused|no archive that"):
            import_study(bad, store)
    assert not list(store.iterdir()) and not list(tmp_path.rglob("evil"))
    assert import_study(archive, store).num_rows == 144


def test_a_copy_that_fails_or_was_killed_leaves_nothing_and_one_at_work_is_let_be(tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(GOLDEN, store / "done")
    killed, at_work = (store / f".x.{uuid.uuid4().hex}.new" for _ in range(2))
    strange = store / ".x.new"
    for folder in (killed, at_work, strange):
        folder.mkdir()
    lock = StudyLock(at_work)
    lock.acquire(Holder.this_process())
    part = next((store / "done" / "data").rglob("*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(_flipped(whole, len(whole) // 2))
    with pytest.raises(StoreError, match=r"is damaged.*doctor --repair"):
        copy(store / "done", store / "b")
    assert names(store) == sorted([at_work.name, strange.name, "done"])
    part.write_bytes(whole)
    copy(store / "done", store / "b")
    lock.release()
    assert [folder.name for folder in find_studies(store)] == ["b", "done"]


def test_to_another_disk_a_study_is_copied_checked_and_only_then_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm") / f"swapyard-{uuid.uuid4().hex}"
    if not other.parent.is_dir() or other.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    shutil.copytree(GOLDEN, tmp_path / "done")
    try:
        moved = move(tmp_path / "done", other / "done")
        assert moved.num_rows == 144 and names(tmp_path) == []
        assert StudyStore(other / "done").origin() == StudyStore(GOLDEN).origin()
    finally:
        shutil.rmtree(other, ignore_errors=True)


def test_beside_a_driver_nothing_is_moved_or_removed(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "done")
    with StudyStore(tmp_path / "done").open_driver():
        for refused in (lambda: move(tmp_path / "done", tmp_path / "b"), lambda: remove(tmp_path / "done")):
            with pytest.raises(HeldError):
                refused()
        # What is committed may be copied all the same.
        assert copy(tmp_path / "done", tmp_path / "c").num_rows == 144
    with placed(tmp_path / "late") as made:
        (made / "x").write_text("x")
    assert names(tmp_path) == ["c", "done", "late"]


@pytest.fixture
def long_run(
    tmp_path: Path, tiny_folder: Path, done: Path
) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    write_study(tmp_path, "long", tiny_folder, long_pairs(64, 20))
    started: list[subprocess.Popen[str]] = []

    def begin() -> "subprocess.Popen[str]":
        forget_speed(done / "cache")
        process = start(*RUN, cwd=tmp_path, cache=done / "cache")
        started.append(process)
        wait_until(lambda: num_parts(tmp_path / "runs" / "long") > 0, process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.kills
def test_a_folder_that_is_moved_while_it_runs_loses_nothing(
    tmp_path: Path, done: Path, long_run: Begin
) -> None:
    process = long_run()
    os.kill(process.pid, signal.SIGSTOP)
    (tmp_path / "runs" / "long").rename(tmp_path / "runs" / "elsewhere")
    os.kill(process.pid, signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "is gone, moved or removed while it was used" in said
    assert names(tmp_path / "runs") == ["elsewhere"], "nothing is made in its old place"
    ended = swapyard(*RUN, cwd=tmp_path, cache=done / "cache")
    assert ended.returncode == 0, ended.stderr
    assert names(tmp_path / "runs") == ["elsewhere"]
    found = rows(tmp_path / "runs", "elsewhere")
    assert found.num_rows == len(set(found["job_id"].to_pylist())) == 64 * 20 * 3 * 3


def test_what_a_study_trained_is_found_under_any_name(tmp_path: Path) -> None:
    identity = "ab" * 32
    sweeping, training = tmp_path / "sweep", tmp_path / "renamed"
    for folder in (sweeping, training):
        shutil.copytree(GOLDEN, folder)
    TrainingFolder(LocalStorage(training)).finish(identity, b"weights", {}, {"step": 1})
    for root in (sweeping, training):
        assert trained_of(root, [f"spain/{identity}", f"spain/{'cd' * 32}"]) == [f"spain/{identity}"]
