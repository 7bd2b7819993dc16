"""An independent history of a study: what its commits acknowledged, read from the files as they appear.

Nothing of the store is used here: a mistake in how the store reads its own log must not hide itself.
"""

__all__ = ["History", "read_part", "watching"]

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

POLL_S = 0.02


class History:
    """What is known of the study in `folder`; every commit and every acknowledged row, as first seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seq = 0
        self.epoch = 0
        """The number of the last ``open`` commit."""
        self.plans: list[str] = []
        """The plans that were committed, by id; the last one counts."""
        self.acknowledged: dict[str, pa.Table] = {}
        """Each part that was ever committed → its rows at that moment."""
        self.files: set[str] = set()
        """What holds the rows now, relative to the study."""
        self.removed: set[str] = set()
        """What held rows until it was merged."""
        self.problems: list[str] = []
        self._adding: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def num_rows(self) -> int:
        """Rows that were acknowledged."""
        return sum(table.num_rows for table in list(self.acknowledged.values()))

    def num_adds(self, epoch: int) -> int:
        """Commits of rows by the driver of `epoch`."""
        return self._adding.get(epoch, 0)

    def read_on(self) -> None:
        """Read the commits that came since the last time."""
        with self._lock:
            while (path := self.folder / "commits" / f"{self.seq + 1:010d}.json").exists():
                self.seq += 1
                self._take(json.loads(path.read_bytes()))

    def _take(self, commit: dict[str, Any]) -> None:
        name = f"commit {self.seq} ({commit['kind']})"
        if commit["seq"] != self.seq:
            self.problems.append(f"{name} says that it is commit {commit['seq']}")
        if commit["kind"] == "open":
            self.epoch = self.seq
        if commit["epoch"] != self.epoch:
            self.problems.append(f"{name} is of epoch {commit['epoch']}, which epoch {self.epoch} has fenced")
            return
        match commit["kind"]:
            case "plan":
                self.plans.append(commit["plan"]["id"])
            case "add" | "adopt":
                self._adding[self.epoch] = self.num_adds(self.epoch) + 1
                for part in commit["add"]:
                    self._acknowledge(name, part)
            case "compact":
                for file in commit["merged"]:
                    self.files = self.files - set(file["of"]) | {file["path"]}
                    self.removed |= set(file["of"])

    def _acknowledge(self, name: str, part: dict[str, Any]) -> None:
        path = part["path"]
        try:
            data = (self.folder / path).read_bytes()
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                self.problems.append(f"{path} does not hold the bytes that {name} says")
            self.acknowledged[path] = read_part(self.folder / path)
        except (OSError, pa.ArrowException) as error:
            self.problems.append(f"{path} could not be read right after {name} named it: {error}")
        self.files.add(path)


def read_part(path: Path) -> pa.Table:
    """The rows of a Parquet file, whatever they are."""
    table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
    tier = table.schema.get_field_index("tier")
    return table.set_column(tier, "tier", table["tier"].cast(pa.string())) if tier >= 0 else table


@contextmanager
def watching(folder: Path) -> Iterator[History]:
    """Within it the history of `folder` is kept by a thread, commit by commit."""
    history, stop = History(folder), threading.Event()
    failed: list[BaseException] = []

    def watch() -> None:
        try:
            while not stop.wait(POLL_S):
                history.read_on()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield history
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
