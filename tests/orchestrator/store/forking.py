"""Drivers that really die: each in a process of its own, forked from one that has loaded everything."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orchestrator
from orchestrator import faults
from orchestrator.store import StudyStore
from workers.errors import SwapyardError

from .checker import Said
from .synthetic import drive, new_folders

BUG = 99
"""The exit code of a driver that failed with anything but one clear error."""
SAID, TROUBLE = "said.jsonl", "trouble.txt"


class Ended(NamedTuple):
    """How a driver ended, what it had acknowledged, and its error."""

    code: int
    said: list[Said]
    trouble: str


class Forks:
    """Starts drivers through the process that `forking` holds."""

    def __init__(self, parent: "subprocess.Popen[str]") -> None:
        self._parent = parent

    def drive(self, folder: Path, wish: str) -> Ended:
        """Drive the study in `folder` / ``study`` with the faults of this wish, to its end or theirs."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SAID).touch()
        (folder / TROUBLE).touch()
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(json.dumps([str(folder), wish]) + "\n")
        self._parent.stdin.flush()
        code = int(self._parent.stdout.readline())
        said = [Said(*json.loads(line)) for line in (folder / SAID).read_text().splitlines()]
        return Ended(code, said, (folder / TROUBLE).read_text())


@contextmanager
def forking() -> Iterator[Forks]:
    """A process to fork from; a test's own process may have threads, which forks do not survive."""
    paths = (Path(orchestrator.__file__).parents[1], Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        yield Forks(parent)
        assert parent.stdin is not None
        parent.stdin.close()


def _serve() -> None:
    # What is imported late and cached is so once, and not in each child.
    with new_folders() as folders:
        drive(StudyStore(next(folders)))
    for line in sys.stdin:
        folder, wish = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ[faults.VARIABLE] = wish
            faults._points.cache_clear()
            os._exit(_driven(Path(folder)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _driven(folder: Path) -> int:
    root = folder / "study"
    with (folder / SAID).open("a") as said:

        def told(what: str, name: str) -> None:
            said.write(json.dumps(Said.of(root, what, name)) + "\n")
            said.flush()

        try:
            drive(StudyStore(root), told)
        except SwapyardError as error:
            (folder / TROUBLE).write_text(str(error))
            return error.exit_code
        except BaseException:
            (folder / TROUBLE).write_text(traceback.format_exc())
            return BUG
    return 0


if __name__ == "__main__":
    _serve()
