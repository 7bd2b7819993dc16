"""Lock on a study's folder, for one driver at a time; it ends with its holder, however that ends."""

__all__ = ["Holder", "StudyLock", "locked"]

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from orchestrator.store.storage import explained
from workers.errors import HeldError, StoreError


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Holder:
    """The process that drives a study."""

    pid: int
    host: str
    since: float
    """Seconds since 1970."""

    @classmethod
    def this_process(cls) -> Self:
        """This process, from now on."""
        return cls(pid=os.getpid(), host=socket.gethostname(), since=time.time())

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {since})"


class StudyLock:
    """The lock ``.lock`` of a study folder, held from `acquire` to `release` or the process's end."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._descriptor is not None

    def acquire(self, holder: Holder) -> None:
        """Take the lock, or fail at once.

        Raises:
            HeldError: another driver has it.
            StoreError: the folder cannot be written, or its file system has no locks.
        """
        assert not self.held, "this lock is held already"
        with explained(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(descriptor)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _HOLDER.dump_json(holder), 0)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; twice does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        try:
            _try_twice(descriptor)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise HeldError(
                    f"the study in {self._path.parent} is driven by {self._named(descriptor)}; wait until it "
                    "ends, stop it, or take the study over with --take-over"
                ) from None
            raise StoreError(
                f"the file system of {self._path.parent} has no locks ({error.strerror}); make sure that "
                "nothing else runs this study and pass --take-over, or choose another folder with --store"
            ) from error

    def _named(self, descriptor: int) -> str:
        """The holder, as it wrote itself down; between locking and writing, nobody is named."""
        try:
            return str(_HOLDER.validate_json(os.pread(descriptor, 4096, 0)))
        except ValueError:
            return "another process"


@contextmanager
def locked(folder: Path) -> Iterator[Holder]:
    """Hold the lock of a study's folder; raises as `StudyLock.acquire` does."""
    holder, lock = Holder.this_process(), StudyLock(folder)
    lock.acquire(holder)
    try:
        yield holder
    finally:
        lock.release()


def _try_twice(descriptor: int) -> None:
    """Lock, or raise; who only looks whether a driver is at work has the lock for an instant, too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_GLANCE_S)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_GLANCE_S = 0.05
_HOLDER = TypeAdapter(Holder)
