"""Merging a study's small files in the background while it runs."""

__all__ = ["Compactor", "most_files"]

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from orchestrator.store import MOST_FILES, Driver, Merge, Merged, StudyStore
from workers.errors import HeldError, RunError, StorageFullError, StoreError

VARIABLE = "SWAPYARD_MOST_FILES"
"""The environment variable that says how many files of rows a study may have before small ones are merged."""
_CLOSE_S = 10.0
"""A merge that is given up ends within this time, unless the disk hangs: then the next run clears it."""


def most_files() -> int:
    """Number of files of rows that a study may have before small ones are merged.

    Raises:
        RunError: the environment says what is no such number.
    """
    text = os.environ.get(VARIABLE, "") or str(MOST_FILES)
    if not text.isdecimal() or int(text) < 2:
        raise RunError(
            f"the environment variable {VARIABLE} says {text!r}; give a number from 2, or unset it"
        )
    return int(text)


class Compactor:
    """Merges on one thread of its own and commits on that of its caller, the driver's.

    It is housekeeping: what goes wrong with it, but for what ends the run anyway, is said once, and no more
    is merged in this run.
    """

    def __init__(
        self, store: StudyStore, driver: Driver, say: Callable[[str], None], *, most_files: int = MOST_FILES
    ) -> None:
        """`say` gets a line for the user; files are merged where there are more than `most_files`."""
        self._store = store
        self._driver = driver
        self._say = say
        self._most_files = most_files
        self._thread: threading.Thread | None = None
        self._result: Merged | Exception | None = None
        self._leave_out: set[str] = set()
        self._stop = threading.Event()

    def poll(self) -> None:
        """Commit a merge that has ended, and begin one if that is due; never waits for a merge.

        Raises:
            HeldError: another driver took the study over.
            StorageFullError: no room is left.
        """
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            self._commit()
        if not self._stop.is_set():
            merge = self._driver.next_merge(self._most_files, leave_out=self._leave_out)
            if merge is not None:
                self._begin(merge)

    def close(self) -> None:
        """Give up the merge that runs, or commit it where it is written; twice does no harm."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            # The run has ended: whatever this says is not its news.
            with suppress(StoreError):
                self.poll()

    def _begin(self, merge: Merge) -> None:
        self._thread = threading.Thread(target=self._merge, args=(merge,), name="compactor", daemon=True)
        self._thread.start()

    def _merge(self, merge: Merge) -> None:
        try:
            self._result = self._store.merge(self._driver.epoch, merge, lambda: not self._stop.is_set())
        except Exception as error:
            self._result = error

    def _commit(self) -> None:
        result, self._result = self._result, None
        try:
            if isinstance(result, Exception):
                raise result
            assert result is not None
            for path, problem in result.damaged.items():
                self._leave_out.add(path)
                self._say(f"not merged: {problem}")
            if result.file is not None:
                self._driver.commit_merged(result.file)
        except (HeldError, StorageFullError):
            raise
        except Exception as error:
            self._stop.set()
            self._say(f"small files are not merged any more in this run: {error}")
