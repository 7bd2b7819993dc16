"""A process that reads a study's status and results without pause, while others run and kill it.

    python -m tests.torture.reader STORE STUDY

It ends when its standard input does, and then says in JSON how often it read, and what went wrong.
"""

__all__ = ["Reader", "harming", "reading"]

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.api import open_results
from orchestrator.store import StudyStore
from orchestrator.upkeep.status import read_status

_ROOT = Path(__file__).parents[2]
_PAUSE_S = 0.5
HARMS = ".harms"
BUSY = b"!"
_MOST = 10
"""Problems that are told; what happens at every reading needs no more."""


class Reader:
    """Reads, and remembers the most that it saw: what was there once may never be missed again."""

    def __init__(self, store: Path, study: str) -> None:
        self._store = store
        self._study = study
        self._most = 0
        self._harm = b""
        self.num_reads = 0
        self.problems: list[str] = []

    def read(self) -> None:
        """Read once, if there is something to read; what is read while the folder is harmed says nothing."""
        if (harm := harms(self._store)) != self._harm:
            self._harm, self._most = harm, 0
        if harm.endswith(BUSY):
            return
        num_problems = len(self.problems)
        self._read()
        if harms(self._store) != harm:
            del self.problems[num_problems:]
            self._most = 0

    def _read(self) -> None:
        try:
            store = StudyStore(self._store / self._study)
            if not store.exists() or store.state().plan is None:
                return
            (status,) = read_status(self._store, [self._study])
            self._note("status", status.num_done - status.num_failed)
            counted = open_results(self._study, store=self._store).sql("SELECT count(*) FROM results")
            self._note("results", counted.fetchall()[0][0])
            every = open_results(store=self._store).sql("FROM results SELECT study, count(*) GROUP BY 1")
            self._note("the results of all studies", dict(every.fetchall()).get(self._study, 0))
            self.num_reads += 1
        except Exception as error:
            self.problems.append(f"a reader failed with {type(error).__name__}: {error}")

    def _note(self, what: str, number: int) -> None:
        if number < self._most:
            self.problems.append(f"a reader saw {self._most:,} jobs done, and then {number:,} in {what}")
        self._most = max(self._most, number)


def harms(store: Path) -> bytes:
    """What was done to a folder in this store, a letter a deed; while one is done the last is `BUSY`."""
    path = store / HARMS
    return path.read_bytes() if path.exists() else b""


@contextmanager
def harming(store: Path) -> Iterator[None]:
    """Within it readers of `store` take nothing for sure."""
    path = store / HARMS
    before = harms(store)
    path.write_bytes(before + BUSY)
    yield
    path.write_bytes(before + b"x")


@contextmanager
def reading(store: Path, study: str, problems: list[str]) -> Iterator[None]:
    """Within it a process of its own reads the study; what went wrong is added to `problems` at the end."""
    command = [sys.executable, "-m", "tests.torture.reader", str(store), study]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield
        said, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            problems.append(f"the reader ended with code {process.returncode}")
        else:
            problems += json.loads(said)["problems"]
    finally:
        process.kill()
        process.wait()


def _main(store: str, study: str) -> None:
    reader = Reader(Path(store), study)
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        reader.read()
    reader.read()
    print(json.dumps({"num_reads": reader.num_reads, "problems": reader.problems[:_MOST]}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
