"""Room on the disk for what a query cannot keep in memory: a private folder that goes when its process ends.

A killed process leaves its folder behind. A lock file beside it tells that nobody uses it any more, and the
next process that needs room removes both.
"""

__all__ = ["fresh_folder"]

import atexit
import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
from pathlib import Path

_PREFIX = "swapyard-query-"
_LOCK = ".lock"
_own: dict[int, tuple[Path, int]] = {}
"""The folder of this process, by its id, and the open lock: a forked child makes its own."""
_guard = threading.Lock()
_numbers = itertools.count()


def fresh_folder() -> Path | None:
    """A path in this process's folder that nobody else uses, nothing there yet; None where no disk has room.

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
