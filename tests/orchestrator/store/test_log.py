"""Promise: every process reads the same commits in the same order, and only the newest driver adds more."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import CommitLog, Holder, Manifest
from orchestrator.store.commit import commit_name
from orchestrator.store.storage import LocalStorage
from workers.errors import HeldError, StoreError

from .memory import LosesAnswers, MemoryStorage

MakeManifest = Callable[..., Manifest]
Spawn = Callable[..., "subprocess.Popen[str]"]
HOLDER = Holder(pid=7, host="elsewhere", since=0.0)

OPEN_AND_ADD = """
import sys, uuid
from pathlib import Path
from orchestrator.store import CommitLog, Holder, Manifest
from orchestrator.store.storage import LocalStorage
from workers.errors import HeldError
log = CommitLog(LocalStorage(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
epoch, tile = log.open_epoch(Holder.this_process()), 0
print("epoch", epoch, flush=True)
try:
    while tile < int(sys.argv[2]):
        part = Manifest(
            path=f"data/{epoch}/lane/{uuid.uuid4().hex}.parquet", size_bytes=1, sha256="0" * 64,
            families=("kl",), lane="lane", tile=epoch * 10_000 + tile, k_lo=0, k_hi=1, rows=1, failed=0,
            tiers={}, timings={}, worker="w", host="h",
        )
        print("added", log.append(epoch, "add", add=(part,)), part.path, flush=True)
        tile += 1
except HeldError:
    print("fenced", flush=True)
"""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "study")


def test_an_open_commit_is_its_drivers_epoch(storage: LocalStorage) -> None:
    log = CommitLog(storage)
    assert log.open_epoch(HOLDER) == 1
    assert CommitLog(storage).open_epoch(HOLDER) == 2
    assert log.refresh().epoch == 2


def test_a_reader_goes_on_from_where_it_was(storage: LocalStorage, manifest: MakeManifest) -> None:
    log, reader = CommitLog(storage), CommitLog(storage)
    assert reader.refresh().seq == 0
    epoch = log.open_epoch(HOLDER)
    log.append(epoch, "add", add=(manifest(),))
    assert reader.refresh().seq == 2
    # What was read is not read again: a reader does not notice that it is gone.
    storage.remove(commit_name(1))
    log.append(epoch, "add", add=(manifest(tile=1),))
    assert len(reader.refresh().live) == 2


def test_a_driver_that_was_overtaken_cannot_commit_and_is_told_by_whom(
    storage: LocalStorage, manifest: MakeManifest
) -> None:
    old = CommitLog(storage)
    epoch = old.open_epoch(HOLDER)
    CommitLog(storage).open_epoch(Holder(pid=99, host="elsewhere", since=0.0))
    for _ in range(2):
        with pytest.raises(HeldError, match=r"\(epoch 1\) was fenced: process 99 on elsewhere .*\(epoch 2\)"):
            old.append(epoch, "add", add=(manifest(),))
    assert not CommitLog(storage).refresh().live


@pytest.mark.parametrize("how", ["raises after", "no"])
def test_a_lost_answer_is_recognised_by_the_nonce(how: str, manifest: MakeManifest) -> None:
    storage = MemoryStorage()
    log = CommitLog(LosesAnswers(storage, how))
    assert log.open_epoch(HOLDER) == 1
    log = CommitLog(LosesAnswers(storage, how))
    log.refresh()
    part = manifest()
    assert log.append(1, "add", add=(part,)) == 2
    assert log.state.live == CommitLog(storage).refresh().live == {part.path: part}
    assert CommitLog(storage).refresh().seq == 2


def test_a_commit_that_was_not_written_is_an_error_and_appending_again_is_safe(
    manifest: MakeManifest,
) -> None:
    storage = MemoryStorage()
    CommitLog(storage).open_epoch(HOLDER)
    log = CommitLog(LosesAnswers(storage, "raises before"))
    log.refresh()
    with pytest.raises(StoreError, match="timed out"):
        log.append(1, "add", add=(manifest(),))
    assert log.append(1, "add", add=(manifest(),)) == 2


def test_where_nobody_can_tell_appending_again_counts_the_part_once(manifest: MakeManifest) -> None:
    storage = MemoryStorage()
    CommitLog(storage).open_epoch(HOLDER)
    log = CommitLog(LosesAnswers(storage, "raises after", num_answers=2))
    log.refresh()
    part = manifest()
    with pytest.raises(StoreError, match="timed out"):
        log.append(1, "add", add=(part,))
    log.append(1, "add", add=(part,))
    state = CommitLog(storage).refresh()
    assert (list(state.live), state.num_rows["logits"]) == ([part.path], part.rows)


def test_a_number_that_another_took_is_not_mistaken_for_our_own(manifest: MakeManifest) -> None:
    storage = MemoryStorage()
    first, second = CommitLog(storage), CommitLog(storage)
    assert first.open_epoch(HOLDER) == 1
    second.refresh()
    theirs, ours = manifest(), manifest(tile=1)
    first.append(1, "add", add=(theirs,))
    # As it goes on from what it knew, it finds the number taken by the same kind of commit.
    assert second.append(1, "add", add=(ours,)) == 3
    assert list(CommitLog(storage).refresh().live) == list(second.state.live) == [theirs.path, ours.path]


def test_a_missing_commit_is_an_error_not_the_end(storage: LocalStorage, manifest: MakeManifest) -> None:
    log = CommitLog(storage)
    epoch = log.open_epoch(HOLDER)
    for tile in range(3):
        log.append(epoch, "add", add=(manifest(tile=tile),))
    storage.remove(commit_name(2))
    with pytest.raises(
        StoreError, match=r"commits/0000000002.json is missing, though later commits are there"
    ):
        CommitLog(storage).refresh()


def test_of_processes_that_race_to_drive_the_last_to_open_wins_and_nothing_is_lost(
    storage: LocalStorage, spawn: Spawn
) -> None:
    for _ in range(4):
        children = [spawn(OPEN_AND_ADD, storage.root, 40) for _ in range(4)]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            go(child)
        check(storage, [child.communicate(timeout=60)[0] for child in children])


def go(child: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    return child


def check(storage: LocalStorage, outputs: list[str]) -> None:
    """Each driver added only before the next one opened, and all that it was told is added is there."""
    state = CommitLog(storage).refresh()
    runs = sorted((epoch_and_added(output) for output in outputs), key=lambda run: run[0])
    ends = [epoch for epoch, _ in runs[1:]] + [state.seq + 1]
    for (epoch, added), end in zip(runs, ends, strict=True):
        assert all(epoch < seq < end for seq in added)
        assert set(added.values()) <= set(state.live)
    assert runs[-1][0] == state.epoch
    assert len(runs[-1][1]) == 40


def epoch_and_added(output: str) -> tuple[int, dict[int, str]]:
    lines = [line.split() for line in output.splitlines()]
    epoch = next(int(line[1]) for line in lines if line[0] == "epoch")
    return epoch, {int(line[1]): line[2] for line in lines if line[0] == "added"}


def test_a_driver_killed_at_any_moment_loses_nothing_that_it_was_told_is_committed(
    storage: LocalStorage, spawn: Spawn
) -> None:
    reader = CommitLog(storage)
    for turn in range(6):
        with go(spawn(OPEN_AND_ADD, storage.root, 100_000)) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(3)]
            time.sleep(turn * 0.0007)
            child.send_signal(signal.SIGKILL)
            # The kill may have cut the last line.
            lines += child.stdout.read().split("\n")[:-1]
        acknowledged = {line.split()[2] for line in lines if line.startswith("added")}
        state = reader.refresh()
        assert acknowledged <= set(state.live)
        # At most the one commit whose answer the kill cut off is there without its acknowledgement.
        own = [path for path in state.live if path.startswith(f"data/{state.epoch}/")]
        assert len(own) <= len(acknowledged) + 1
        assert CommitLog(storage).refresh().live == state.live


def test_commits_are_a_chain_and_one_of_another_log_breaks_it(
    storage: LocalStorage, tmp_path: Path, manifest: MakeManifest
) -> None:
    other = LocalStorage(tmp_path / "other")
    for each in (storage, other):
        log = CommitLog(each)
        epoch = log.open_epoch(HOLDER)
        for tile in range(3):
            log.append(epoch, "add", add=(manifest(tile=tile),))
    for seq in (1, 2, 3):
        path = storage.locate(commit_name(seq))
        own = path.read_bytes()
        path.write_bytes(other.locate(commit_name(seq)).read_bytes())
        with pytest.raises(StoreError, match=r"does not follow .* --repair"):
            CommitLog(storage).refresh()
        path.write_bytes(own)
    assert len(CommitLog(storage).refresh().live) == 3


def without_checks(storage: LocalStorage, last: int) -> None:
    """Make the commits up to `last` those of an earlier version."""
    for seq in range(1, last + 1):
        path = storage.locate(commit_name(seq))
        data = json.loads(path.read_bytes())
        path.write_text(json.dumps({key: it for key, it in data.items() if key not in ("prev", "check")}))


def test_a_log_of_an_earlier_version_is_gone_on_with_and_held_from_there(
    storage: LocalStorage, manifest: MakeManifest
) -> None:
    log = CommitLog(storage)
    epoch = log.open_epoch(HOLDER)
    log.append(epoch, "add", add=(manifest(),))
    without_checks(storage, 2)
    log = CommitLog(storage)
    assert len(log.refresh().live) == 1
    log.append(log.open_epoch(HOLDER), "add", add=(manifest(epoch=3, tile=1),))
    assert len(CommitLog(storage).refresh().live) == 2
    # What the first commit of this version names is the last of the earlier one's, to the bit.
    path = storage.locate(commit_name(2))
    path.write_bytes(path.read_bytes().replace(b'"rows": 8', b'"rows": 9'))
    with pytest.raises(StoreError, match=r"commits/0000000003.json does not follow"):
        CommitLog(storage).refresh()


def test_after_a_commit_with_a_checksum_none_without_is_read(
    storage: LocalStorage, manifest: MakeManifest
) -> None:
    log = CommitLog(storage)
    epoch = log.open_epoch(HOLDER)
    log.append(epoch, "add", add=(manifest(),))
    last = storage.locate(commit_name(2))
    data = json.loads(last.read_bytes())
    last.write_text(json.dumps({key: it for key, it in data.items() if key not in ("prev", "check")}))
    with pytest.raises(StoreError, match="does not follow"):
        CommitLog(storage).refresh()
