"""Logs of a study, as they lie in ``STUDY/logs/<epoch>/``: listed, and searched for slices and errors."""

__all__ = ["LogFile", "SlicePlace", "error_of", "find_logs", "listing", "log_of", "slices_of", "tail"]

import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.run.logs import BEGUN, ENDED, ERROR
from orchestrator.store import Manifest
from orchestrator.store.storage import explained
from orchestrator.text_tables import cell_text, plain, table
from workers.errors import StoreError, nearest

_HEAD = re.compile(r"^\S+ process (\d+) on (\S+), ")
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\S+ ")
_BEGUN = re.compile(re.escape(BEGUN) + r"tile (\d+), cells \[(\d+), (\d+)\)")
_MOST_LINE = 1000
_END_BYTES = 1 << 16
"""Bytes of a log's end that are looked through for its last line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """Log of a driver or of a worker."""

    study: str
    epoch: int
    name: str
    """``driver``, or the worker's host and process."""
    path: Path
    host: str
    pid: int | None
    size_bytes: int
    changed_s: float
    """Time of the last line, in seconds since 1970."""
    last_line: str
    """The last event, with its time."""


class SlicePlace(NamedTuple):
    """Cell of a tile, to be found in the slices that a log tells of."""

    tile: int
    k: int


def find_logs(folder: Path) -> list[LogFile]:
    """The logs of the study in `folder`, the one that grew last at the end.

    Raises:
        StoreError: they may not be read.
    """
    found = [_log_file(folder.name, path) for path in (folder / "logs").glob("*/*.log")]
    return sorted((log for log in found if log is not None), key=lambda log: (log.changed_s, log.name))


def listing(logs: Sequence[LogFile]) -> str:
    """A table of logs for people."""
    now = time.time()
    rows = [
        [
            log.study,
            str(log.epoch),
            log.name,
            log.host,
            "" if log.pid is None else str(log.pid),
            f"{max(0.0, now - log.changed_s):,.0f} s ago",
            f"{log.size_bytes / 1000:,.1f} kB",
            cell_text(_STAMP.sub("", log.last_line)),
        ]
        for log in logs
    ]
    return table(["study", "epoch", "log", "host", "process", "last line", "size", "says"], rows)


def log_of(logs: Sequence[LogFile], name: str, epoch: int | None) -> LogFile:
    """The newest log called `name`, of `epoch` where it is given.

    Raises:
        StoreError: there is none.
    """
    there = [log for log in logs if epoch is None or log.epoch == epoch]
    named = [log for log in there if log.name == name]
    if named:
        return max(named, key=lambda log: (log.epoch, log.changed_s))
    names = list(dict.fromkeys(log.name for log in there))
    where = "" if epoch is None else f" of epoch {epoch}"
    raise StoreError(
        f"there is no log{where} named {name!r}; there are {', '.join(names) or 'none'}{nearest(name, names)}"
    )


def tail(path: Path, num_lines: int) -> Iterator[str]:
    """The last lines of a log, all of them for 0, without what could steer a terminal.

    Raises:
        StoreError: it may not be read.
    """
    with explained(path), path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        yield from map(_shown, deque(file, num_lines) if num_lines else file)


def error_of(path: Path) -> str | None:
    """The error that a log ends with; None where it ends otherwise, or cannot be read."""
    try:
        line = _ends(path)[1]
    except StoreError:
        return None
    return line.partition(ERROR)[2] if _is_event(line, ERROR) else None


def slices_of(path: Path, wanted: SlicePlace | Manifest) -> Iterator[list[str]]:
    """Lines of a log from begin to end of each slice that held a cell, or that became a part.

    A slice that the worker did not live to end goes on until the next one begins, or to the log's end.
    """
    lines: list[str] = []
    if not path.exists():
        return
    for line in tail(path, 0):
        if _is_event(line, BEGUN):
            if lines and _is_wanted(lines, wanted):
                yield lines
            lines = [line]
        elif lines:
            lines.append(line)
            if _is_event(line, ENDED):
                if _is_wanted(lines, wanted):
                    yield lines
                lines = []
    if lines and _is_wanted(lines, wanted):
        yield lines


def _is_wanted(lines: Sequence[str], wanted: SlicePlace | Manifest) -> bool:
    if isinstance(wanted, Manifest):
        return _is_event(lines[-1], ENDED) and lines[-1].endswith(f", {wanted.path}")
    found = _BEGUN.search(lines[0])
    if found is None:
        return False
    tile, k_lo, k_hi = map(int, found.groups())
    return tile == wanted.tile and k_lo <= wanted.k < k_hi


def _is_event(line: str, kind: str) -> bool:
    """Whether a line is one of ours of that kind, and not just something printed that looks like it."""
    stamp = _STAMP.match(line)
    return stamp is not None and line.startswith(kind, stamp.end())


def _log_file(study: str, path: Path) -> LogFile | None:
    """Log as its path, first and last line describe it; None for a file that is no log of ours."""
    if not path.parent.name.isdecimal():
        return None
    first, last = _ends(path)
    head, found = _HEAD.match(first), path.stat()
    return LogFile(
        study=study,
        epoch=int(path.parent.name),
        name=path.stem,
        path=path,
        host=head[2] if head else "",
        pid=int(head[1]) if head else None,
        size_bytes=found.st_size,
        changed_s=found.st_mtime,
        last_line=last,
    )


def _ends(path: Path) -> tuple[str, str]:
    """The first line of a log, and its last event."""
    with explained(path), path.open("rb") as file:
        first = file.readline(_MOST_LINE)
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        end = file.read().decode(errors="replace").splitlines()
    last = next((line for line in reversed(end) if _STAMP.match(line)), "")
    return _shown(first.decode(errors="replace")), _shown(last)


def _shown(line: str) -> str:
    return plain(line).rstrip()
