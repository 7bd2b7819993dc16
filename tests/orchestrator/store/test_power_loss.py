"""Promise: whenever the power fails, what was acknowledged is there, nothing torn is seen, and it goes on.

A real session is recorded call by call. For every prefix of the record, the folder is made again as a disk
may hold it when the power fails there, and a new driver goes on from it.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import CommitLog, Holder, StudyStore
from orchestrator.store.commit import commit_name
from orchestrator.store.storage import LocalStorage
from workers.errors import HeldError

from .checker import Said, holds
from .recording import KEPT, LOST, Call, RecordingDisk, images, materialise, remains
from .synthetic import PLAN, commit, drive, finished, new_folders, write_part

STUDY = Path("runs/deep/study")
"""Folders above the study are missing too."""
NUM_DRAWS = 6
"""Fates by chance for each prefix, besides the extremes."""

CHANGES = ("create", "link", "unlink", "make folder", "drop folder")
"""Calls after which another process sees something else."""


class Session:
    """Several processes' doings on one disk, and what they were told, each after so many calls."""

    def __init__(self, base: Path, calls: list[Call], said: list[tuple[int, Said]]) -> None:
        self.root = base / STUDY
        self.disk = RecordingDisk(base, calls)
        self.said = said.copy()

    def store(self) -> StudyStore:
        """The study as a new process sees it, which remembers no folder that was made."""
        return StudyStore(self.root, LocalStorage(self.root, self.disk))

    def told(self, what: str, name: str) -> None:
        self.disk.notice()
        self.said.append((len(self.disk.calls), Said.of(self.root, what, name)))

    def said_by(self, num_calls: int) -> list[Said]:
        """What was acknowledged when so many calls were made."""
        return [said for when, said in self.said if when <= num_calls]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A driver loses the study to a second one, and a worker of the first writes on."""
    session = Session(tmp_path_factory.mktemp("recorded"), [], [])
    with session.store().open_driver() as first:
        session.told("opened", str(first.epoch))
        session.told("planned", first.write_plan(PLAN).id)
        commit(first, session.told, [write_part(session.store(), first, 0, 0, 2)])
        late = write_part(session.store(), first, 1, 0, 1)
        session.told("written", late.path)
        drive(session.store(), session.told, take_over=True)
        with pytest.raises(HeldError):
            first.commit([late])
    finished(session.root)
    return session


@pytest.fixture
def bases() -> Iterator[Iterator[Path]]:
    with new_folders() as folders:
        yield folders


def holds_if_any(root: Path, said: list[Said]) -> None:
    """As `holds`, where a study may not be there yet."""
    if StudyStore(root).exists():
        assert StudyStore(root).open_reader() is not None
        holds(root, said)
    else:
        assert not said, "there is no study, and something was acknowledged"


def test_what_was_acknowledged_outlives_a_power_loss_and_the_study_goes_on(
    session: Session, bases: Iterator[Path]
) -> None:
    gone_on_from = set()
    for num_calls, image in images(session.disk.calls, NUM_DRAWS):
        root = materialise(image, next(bases)) / STUDY
        holds_if_any(root, session.said_by(num_calls))
        # From what looks the same to a new driver, it goes on the same way.
        seen = frozenset((name, data) for name, data in image.items() if "/.tmp-" not in name)
        if seen not in gone_on_from:
            gone_on_from.add(seen)
            drive(StudyStore(root))
            finished(root)
    assert len(gone_on_from) > 50


def test_a_driver_that_goes_on_after_a_kill_builds_on_nothing_that_a_power_loss_takes(
    session: Session, bases: Iterator[Path]
) -> None:
    """What the killed one had not synced is still to be seen, and is not safe."""
    changes = [number for number, call in enumerate(session.disk.calls, 1) if call.kind in CHANGES]
    for num_calls in (0, *changes):
        calls = session.disk.calls[:num_calls]
        base = materialise(remains(calls, KEPT), next(bases))
        after = Session(base, calls, [(0, said) for said in session.said_by(num_calls)])
        drive(after.store(), after.told)
        root = materialise(remains(after.disk.calls, LOST), next(bases)) / STUDY
        holds(root, after.said_by(len(after.disk.calls)))
        finished(root)


class FailsOnce(RecordingDisk):
    """Says once that a folder of commits could not be synced, when there is a commit in it."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.has_failed = False

    def sync_folder(self, path: Path) -> None:
        if not self.has_failed and any(path.glob("0*.json")):
            self.has_failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_folder(path)


def test_a_commit_that_could_not_be_synced_at_first_counts_only_when_it_is_safe(tmp_path: Path) -> None:
    disk = FailsOnce(tmp_path)
    log = CommitLog(LocalStorage(tmp_path / "study", disk))
    log.open_epoch(Holder.this_process())
    assert disk.has_failed
    assert f"study/{commit_name(1)}" in remains(disk.calls, LOST)


def test_what_a_killed_process_created_is_safe_once_another_is_told_that_it_is_there(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    LocalStorage(tmp_path, disk).create("commits/1", b"whole")
    linked = next(number for number, call in enumerate(disk.calls, 1) if call.kind == "link")
    later = RecordingDisk(
        materialise(remains(disk.calls[:linked], KEPT), tmp_path / "later"), disk.calls[:linked]
    )
    assert "commits/1" not in remains(later.calls, LOST)
    assert not LocalStorage(later.base, later).create("commits/1", b"another")
    assert remains(later.calls, LOST)["commits/1"] == b"whole"
