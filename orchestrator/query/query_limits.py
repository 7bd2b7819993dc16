"""Limits of a query: how much memory and time it takes, and where it puts what does not fit into memory."""

__all__ = ["QueryLimits", "QueryTimer", "default_memory_bytes", "fresh_folder", "size"]

import atexit
import contextlib
import fcntl
import itertools
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.machine import memory_bytes, resident_bytes
from workers.errors import OutOfTimeError, QueryError
from workers.libraries.duckdb import is_interruption

if TYPE_CHECKING:
    import duckdb

LEAST_BYTES = 256 * 10**6
"""With less memory no query begins: the process alone takes half of it."""
_LEAST_FOR_ROWS = 64 * 10**6
_FOR_ROWS = 0.8
"""Of what is left beside the process: files that are open, and rows on their way out, count nowhere."""
_SHARE = 0.5
"""Of the machine's memory, or of the control group's: what a query may take by default."""
_UNITS = {"k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)
_AGAIN_S = 0.05
"""An interruption that falls between two statements is lost: it is repeated after this time."""


def size(text: str | int) -> int:
    """Bytes of a size such as ``2GB``, ``1.5GiB`` or ``500MB``; a bare number is of bytes.

    Raises:
        QueryError: it is none, or too little for a query.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise QueryError(f"{text!r} is no size of memory; write it as 500MB, 2GB or 1.5GiB")
    unit = (1024 if found[3] else 1000) ** _UNITS[found[2].lower()] if found[2] else 1
    num_bytes = int(float(found[1]) * unit)
    if num_bytes < LEAST_BYTES:
        raise QueryError(f"a query cannot do with {text} of memory; give it {LEAST_BYTES // 10**6}MB or more")
    return num_bytes


def default_memory_bytes() -> int:
    """Memory that a query may take where nobody says: half of the machine's, or of the control group's."""
    return max(LEAST_BYTES, int(_SHARE * memory_bytes()))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """Limits of one query; None means the default share of memory, and as much time as it takes."""

    memory_bytes: int | None = None
    timeout_s: float | None = None
    with_process: bool = False
    """Whether the memory is all that the process may hold, and not what the query adds to it."""

    def for_rows(self) -> int:
        """Bytes that DuckDB may take of it: of small limits the process itself needs a good part."""
        if self.memory_bytes is None:
            return default_memory_bytes()
        held = resident_bytes() if self.with_process else 0
        return max(_LEAST_FOR_ROWS, int(_FOR_ROWS * (self.memory_bytes - held)))


class QueryTimer:
    """Time limit of a query, from when the timer is made: reading of studies counts, too."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    def check(self, num_bytes: int = 0) -> None:
        """Stop where the time is over; also called, with how many bytes were read, while files are checked.

        Raises:
            OutOfTimeError: it is.
        """
        if self._end_s is not None and time.monotonic() >= self._end_s:
            raise self._error()

    @contextmanager
    def over(self, connection: "duckdb.DuckDBPyConnection") -> Iterator[None]:
        """Interrupt what `connection` does within the block once the time is over.

        Raises:
            OutOfTimeError: instead of what the interruption raises.
        """
        if self._end_s is None:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._interrupt, args=(connection, done), daemon=True, name="watch")
        thread.start()
        try:
            yield
        except Exception as error:
            if time.monotonic() >= self._end_s and is_interruption(error):
                raise self._error() from None
            raise
        finally:
            done.set()
            thread.join()

    def _interrupt(self, connection: "duckdb.DuckDBPyConnection", done: threading.Event) -> None:
        assert self._end_s is not None
        wait_s = self._end_s - time.monotonic()
        while not done.wait(max(0.0, wait_s)):
            connection.interrupt()
            wait_s = _AGAIN_S

    def _error(self) -> OutOfTimeError:
        return OutOfTimeError(
            f"the query was stopped after {self._timeout_s:g} s; give it more time with --timeout"
            " (timeout= in Python), or ask for less"
        )


_PREFIX = "swapyard-query-"
_LOCK = ".lock"
_own: dict[int, tuple[Path, int]] = {}
"""The folder of this process, by its id, and the open lock: a forked child makes its own."""
_guard = threading.Lock()
_numbers = itertools.count()


def fresh_folder() -> Path | None:
    """A path for what a query cannot keep in memory, nothing there yet; None where no disk has room.

    It lies in a folder of this process, which goes when the process ends. A killed process leaves its own
    behind: a lock file beside it tells that nobody uses it any more, and the next process removes both.

    Each database needs one of its own: their files have the same names.
    """
    with _guard:
        if os.getpid() not in _own:
            try:
                made = _made(Path(tempfile.gettempdir()))
            except OSError:
                return None
            _own[os.getpid()] = made
            atexit.register(_remove, os.getpid())
        return _own[os.getpid()][0] / str(next(_numbers))


def _made(place: Path) -> tuple[Path, int]:
    """A new folder with a lock that this process holds until it ends."""
    _clear(place)
    while True:
        opened, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_LOCK, dir=place)
        # Between the two lines another process may have found it free, and removed it.
        if _locked(opened) and os.fstat(opened).st_nlink:
            break
        os.close(opened)
    folder = Path(name.removesuffix(_LOCK))
    folder.mkdir(mode=0o700)
    return folder, opened


def _clear(place: Path) -> None:
    """Remove what processes that were killed left in `place`, as far as it is ours."""
    for lock in place.glob(f"{_PREFIX}*{_LOCK}"):
        with contextlib.suppress(OSError):
            opened = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(opened).st_uid == os.getuid() and _locked(opened):
                    _remove_both(lock)
            finally:
                os.close(opened)


def _locked(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_both(lock: Path) -> None:
    shutil.rmtree(str(lock).removesuffix(_LOCK), ignore_errors=True)
    lock.unlink(missing_ok=True)


def _remove(process: int) -> None:
    if process == os.getpid() and process in _own:
        folder, opened = _own.pop(process)
        with contextlib.suppress(OSError):
            _remove_both(Path(f"{folder}{_LOCK}"))
        os.close(opened)
