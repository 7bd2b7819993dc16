"""Limits of a query: how much memory and time it takes, and where it puts what does not fit into memory."""

__all__ = ["QueryLimits", "Watch", "default_memory_bytes", "size"]

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


class Watch:
    """The time that a query has, from when the watch is made: reading of studies counts, too."""

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
