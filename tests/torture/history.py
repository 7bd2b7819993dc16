"""An independent history of a study: what its commits acknowledged, read from the files as they appear.

Nothing of the store is used here: a mistake in how the store reads its own log must not hide itself.
"""

__all__ = ["History", "read_part", "watching"]

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        self.harmed: set[str] = set()
        """Names of files of rows that were harmed: what no commit names of them stays as it is."""
        self.problems: list[str] = []
        self.kinds: Counter[str] = Counter()
        """How many commits of each kind."""
        self._holds: dict[str, set[str]] = {}
        """For each file that holds rows now, the parts whose rows they are."""
        self._lost: set[str] = set()
        """Parts that were dropped."""
        self._known: set[str] = set()
        """The nonces of all commits that an earlier repair left."""
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
            self._read_on()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it nothing is read: the folder is harmed, and repaired."""
        with self._lock:
            self._read_on()
            yield
            self._begin_again()

    def _read_on(self) -> None:
        while (path := self.folder / "commits" / f"{self.seq + 1:010d}.json").exists():
            self.seq += 1
            self._take(json.loads(path.read_bytes()))

    def _begin_again(self) -> None:
        """After a repair: read the log anew. What was acknowledged and still lies somewhere must be in it.

        Where the end of a log was lost without a sign its parts are added by the next run.
        """
        before = dict(self._holds)
        read: dict[int, dict[str, Any]] = {}
        for path in (self.folder / "commits").glob("*.json"):
            with suppress(ValueError):
                read[int(path.stem)] = json.loads(path.read_bytes())
        rebuilds = [seq for seq, commit in read.items() if commit["kind"] == "rebuild"]
        self.seq = max(rebuilds, default=1) - 1
        self.files, self._holds, self.removed = set(), {}, self.removed | self.files
        self._read_on()
        self.removed -= self.files
        there = set().union(*self._holds.values()) if self._holds else set()
        for path, held in before.items():
            if (gone := held - there) and not _is_whole(self.folder / path):
                for part in gone:
                    self.acknowledged.pop(part, None)
            elif gone and rebuilds and read[max(rebuilds)]["nonce"] not in self._known:
                self.problems.append(f"the repair left out {len(gone)} parts whose rows lie in {path}")
        self._known.update(commit["nonce"] for commit in read.values())

    def _take(self, commit: dict[str, Any]) -> None:
        name = f"commit {self.seq} ({commit['kind']})"
        if commit["seq"] != self.seq:
            self.problems.append(f"{name} says that it is commit {commit['seq']}")
        self.kinds[commit["kind"]] += 1
        if commit["kind"] in ("open", "rebuild"):
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
                    self._merged(file)
            case "drop":
                for path in commit["drop"]:
                    self._forget(path)
            case "rebuild":
                self._rebuilt(name, commit["rebuilt"])

    def _merged(self, file: dict[str, Any]) -> None:
        self._holds[file["path"]] = set().union(*(self._holds.pop(path, set()) for path in file["of"]))
        self.files = self.files - set(file["of"]) | {file["path"]}
        self.removed |= set(file["of"])

    def _forget(self, path: str) -> None:
        """A file is lost, and with it what was acknowledged of it: its jobs run again."""
        self.files.discard(path)
        self.removed.add(path)
        for part in self._holds.pop(path, set()):
            self.acknowledged.pop(part, None)
            self._lost.add(part)

    def _rebuilt(self, name: str, snapshot: dict[str, Any]) -> None:
        """A log that was made again, from here on."""
        if "plan" in snapshot:
            self.plans.append(snapshot["plan"]["id"])
        merged = snapshot.get("merged", ())
        inside = {path for file in merged for path in file["of"]}
        for part in snapshot.get("parts", ()):
            if part["path"] not in inside:
                self._acknowledge(name, part)
        for file in merged:
            self._holds[file["path"]] = set(file["of"])
            self.files.add(file["path"])

    def _acknowledge(self, name: str, part: dict[str, Any]) -> None:
        path = part["path"]
        self.files.add(path)
        self._holds[path] = {path}
        if path in self.acknowledged or path in self._lost:
            return
        try:
            data = (self.folder / path).read_bytes()
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                self.problems.append(f"{path} does not hold the bytes that {name} says")
            self.acknowledged[path] = read_part(self.folder / path)
        except (OSError, pa.ArrowException) as error:
            self.problems.append(f"{path} could not be read right after {name} named it: {error}")


def _is_whole(path: Path) -> bool:
    """Whether a file can still be read as it was written."""
    try:
        return read_part(path).num_rows >= 0
    except (OSError, pa.ArrowException):
        return False


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
