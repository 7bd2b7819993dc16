"""Promise: a log is read from its newest checkpoint, to the same state; whatever becomes of checkpoints, they
cost time and nothing else, and hide nothing that is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import CommitLog, Holder, Manifest, State, log
from orchestrator.store.commit import commit_name
from orchestrator.store.log import LogCheckpoint, checkpoint_name
from orchestrator.store.storage import LocalStorage
from workers.errors import StoreError

MakeManifest = Callable[..., Manifest]
HOLDER = Holder(pid=7, host="elsewhere", since=0.0)
NUM = 40


class Counting(LocalStorage):
    """Counts the commits that are read."""

    num_read = 0

    def read(self, name: str) -> bytes | None:
        self.num_read += name.startswith("commits/")
        return super().read(name)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: MakeManifest) -> Path:
    """A log of `NUM` commits and a checkpoint every ten, with failures, a retry, a drop."""
    monkeypatch.setattr(log, "EVERY", 10)
    return grown(tmp_path / "study", manifest)


def grown(root: Path, manifest: MakeManifest) -> Path:
    log = CommitLog(LocalStorage(root))
    epoch = log.open_epoch(HOLDER)
    failed = manifest(failed=2)
    log.append(epoch, "add", add=(failed,))
    log.append(epoch, "add", add=(manifest(attempt=1, replaces=failed.path, rows=2, jobs=((1, 3),), k_hi=4),))
    for tile in range(1, NUM - 3):
        log.append(epoch, "add", add=(manifest(tile=tile),))
    log.append(epoch, "drop", drop=(next(iter(log.state.files)),))
    return root


def facts(state: State) -> dict[str, object]:
    return {name: getattr(state, name) for name in vars(state)} | {"files": dict(state.files)}


def read(root: Path) -> tuple[State, int]:
    storage = Counting(root)
    return CommitLog(storage).refresh(), storage.num_read


def test_a_reader_begins_at_the_newest_checkpoint_and_finds_what_all_commits_say(root: Path) -> None:
    every = CommitLog(LocalStorage(root), checkpoints=False).refresh()
    state, num_read = read(root)
    assert facts(state) == facts(every) and state.seq == NUM
    assert num_read < 15
    assert len(list((root / "checkpoints").iterdir())) <= 3


def test_a_checkpoint_holds_all_of_a_state(root: Path) -> None:
    state = CommitLog(LocalStorage(root), checkpoints=False).refresh()
    again = LogCheckpoint.from_bytes(LogCheckpoint.of(state, "0" * 64).to_bytes())
    assert again is not None and facts(again.state()) == facts(state)


def test_a_damaged_checkpoint_is_no_checkpoint(root: Path) -> None:
    expected = facts(read(root)[0])
    for path in (root / "checkpoints").iterdir():
        data = bytearray(path.read_bytes())
        for place in range(0, len(data), 37):
            data[place] ^= 1 << place % 8
            path.write_bytes(data)
            assert LogCheckpoint.from_bytes(bytes(data)) is None
            data[place] ^= 1 << place % 8
        path.write_bytes(data[:-1])
    state, num_read = read(root)
    assert facts(state) == expected and num_read > NUM


def test_a_checkpoint_of_another_log_is_no_checkpoint(
    root: Path, tmp_path: Path, manifest: MakeManifest
) -> None:
    expected = facts(read(root)[0])
    other = grown(tmp_path / "other", manifest)
    shutil.rmtree(root / "checkpoints")
    shutil.copytree(other / "checkpoints", root / "checkpoints")
    state, num_read = read(root)
    assert facts(state) == expected and num_read > NUM
    # Under another number it is none either.
    shutil.copy(root / checkpoint_name(20), root / checkpoint_name(21)) if (
        root / checkpoint_name(20)
    ).exists() else None
    assert facts(read(root)[0]) == expected


@pytest.mark.parametrize("seq", [1, 7, NUM - 2])
def test_a_checkpoint_hides_no_commit_that_is_lost(root: Path, seq: int) -> None:
    (root / commit_name(seq)).unlink()
    with pytest.raises(StoreError, match="is missing, though later commits are there"):
        read(root)


def test_a_commit_that_is_damaged_below_a_checkpoint_is_found_by_who_reads_all(root: Path) -> None:
    (root / commit_name(3)).write_bytes(b"{}")
    assert read(root)[0].seq == NUM
    with pytest.raises(StoreError, match=r"0000000003.json is damaged"):
        CommitLog(LocalStorage(root), checkpoints=False).refresh()
