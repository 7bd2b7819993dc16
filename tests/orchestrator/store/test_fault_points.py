"""Promise: killed or refused at any point, a driver leaves a study that the next finishes, each job once."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.faults import POINTS
from orchestrator.store import StudyStore

from .checker import holds
from .forking import Ended, Forks, forking
from .synthetic import drive, finished, new_folders

TURNS = (1, 4)
"""The first time belongs to the making of the study; the fourth is in the middle of things."""
ELSEWHERE = ("worker.", "driver.", "training.", "commit.adopt", "commit.drop", "commit.rebuild")
"""Points that this driver does not come by; the last three are those of ``test_repair.py``."""
OF_THE_STORE = [name for name in POINTS if not name.startswith(ELSEWHERE)]
CALLS = [name for name in OF_THE_STORE if not name.startswith(("commit.", "merge.", "sweep."))]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with forking() as forks:
        yield forks


@pytest.fixture
def folders() -> Iterator[Iterator[Path]]:
    with new_folders() as folders:
        yield folders


def goes_on(folder: Path, ended: Ended) -> None:
    """Check that all that the driver acknowledged is there, and that the next one finishes."""
    root = folder / "study"
    if StudyStore(root).exists():
        holds(root, ended.said)
    else:
        assert not ended.said
    drive(StudyStore(root))
    finished(root)


def test_without_a_fault_a_driver_finishes(forks: Forks, tmp_path: Path) -> None:
    ended = forks.drive(tmp_path, "")
    assert (ended.code, ended.trouble) == (0, "")
    finished(tmp_path / "study")
    goes_on(tmp_path, ended)


@pytest.mark.parametrize("name", OF_THE_STORE)
def test_after_a_kill_the_next_driver_finishes(forks: Forks, folders: Iterator[Path], name: str) -> None:
    codes = []
    for turn in TURNS:
        folder = next(folders)
        ended = forks.drive(folder, f"{name}=kill@{turn}")
        codes.append(ended.code)
        goes_on(folder, ended)
    assert codes[0] == -signal.SIGKILL
    assert set(codes) <= {-signal.SIGKILL, 0}


@pytest.mark.parametrize(("action", "code"), [("eio", 1), ("enospc", 4)])
@pytest.mark.parametrize("name", CALLS)
def test_what_the_system_refuses_is_one_clear_error_and_the_next_driver_finishes(
    forks: Forks, folders: Iterator[Path], name: str, action: str, code: int
) -> None:
    for turn in TURNS:
        folder = next(folders)
        ended = forks.drive(folder, f"{name}={action}@{turn}")
        assert ended.code in (0, code), ended.trouble
        if ended.code == 0:
            finished(folder / "study")
        goes_on(folder, ended)
