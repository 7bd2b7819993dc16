"""Promise: one driver holds a study, a second one learns at once who does, and a dead one holds nothing."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store import Holder
from orchestrator.store.lock import StudyLock
from workers.errors import HeldError

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.store.lock import Holder, StudyLock
StudyLock(Path(sys.argv[1])).acquire(Holder.this_process())
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_lock_is_refused_at_once_and_names_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = StudyLock(tmp_path)
    first.acquire(Holder.this_process())
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(HeldError, match=rf"process {os.getpid()} on .* \(since 2.*--take-over") as error:
        StudyLock(tmp_path).acquire(Holder.this_process())
    assert error.value.exit_code == 5
    assert sum(waits) <= 0.1


def test_released_it_can_be_taken_again(tmp_path: Path) -> None:
    first = StudyLock(tmp_path)
    for _ in range(2):
        first.acquire(Holder.this_process())
        first.release()
        first.release()


def test_a_holder_that_has_not_written_its_name_yet_is_another_process(tmp_path: Path) -> None:
    first = StudyLock(tmp_path)
    first.acquire(Holder.this_process())
    (tmp_path / ".lock").write_bytes(b"")
    with pytest.raises(HeldError, match="driven by another process"):
        StudyLock(tmp_path).acquire(Holder.this_process())


def test_a_killed_holder_holds_nothing(tmp_path: Path, spawn: Callable[..., "subprocess.Popen[str]"]) -> None:
    child = spawn(HOLD, tmp_path)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    lock = StudyLock(tmp_path)
    with pytest.raises(HeldError, match=re.escape(f"process {child.pid} ")):
        lock.acquire(Holder.this_process())
    child.kill()
    child.communicate()
    lock.acquire(Holder.this_process())
