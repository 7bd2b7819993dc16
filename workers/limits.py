"""Limits that the system sets this process: memory, open files, threads, room on the disk. No torch here.

Every library says in words of its own that it ran into one, or dies of it. What an exception tells is found
by the number of the system's error, or by the few words that the system itself uses and libraries pass on.
"""

__all__ = ["Reached", "allowed", "is_our_limit", "lasting", "reached"]

import errno
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from workers.errors import SwapyardError

Kind = Literal["memory", "files", "threads", "room", "refused", "disk"]

_NUMBERS: dict[int, Kind] = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.EAGAIN: "threads",
    errno.ENOSPC: "room",
    errno.EDQUOT: "room",
    errno.EROFS: "refused",
    errno.EACCES: "refused",
    errno.EPERM: "refused",
    errno.EIO: "disk",
    errno.ESTALE: "disk",
}
_WORDS: dict[str, Kind] = {
    "failed to map segment": "memory",
    "cannot map zero-fill pages": "memory",
    "allocate memory": "memory",
    "allocate block": "memory",
    "out of memory": "memory",
    "bad_alloc": "memory",
    "bad allocation": "memory",
    "too many open files": "files",
    "can't start new thread": "threads",
    "resource temporarily unavailable": "threads",
    "no space left on device": "room",
}
"""As the C library and Python say it, whoever passes it on."""
_MOST_DETAIL = 160


@dataclass(frozen=True, slots=True)
class Reached:
    """A limit that an exception tells of."""

    kind: Kind
    line: str
    """Line for people: what it was and what to do."""

    @property
    def exit_code(self) -> int:
        """Exit code of a command that it ends; that of a full storage is the same everywhere."""
        return 4 if self.kind == "room" else 1


def reached(error: BaseException) -> Reached | None:
    """The limit that `error`, or what it was raised from, tells of; None where it tells of none."""
    for one in _chain(error):
        if (kind := _kind(one)) is not None:
            return Reached(kind, _line(kind, _detail(one)))
    return None


def is_our_limit(error: BaseException) -> bool:
    """Whether `error` tells of a limit of this process: nothing is wrong with the file that was opened."""
    found = reached(error)
    return found is not None and found.kind in ("memory", "files", "threads")


def lasting(error: BaseException) -> str | None:
    """One line on the limit of this process that `error` tells of, if less work at a time changes nothing."""
    found = reached(error)
    if found is None or not is_our_limit(error):
        return None
    return found.line if found.kind != "memory" or isinstance(error, ImportError) else None


def allowed() -> str:
    """Limits of this process that are lower than usual, as a shell's ``ulimit`` says them; empty for none."""
    found = []
    if (size_bytes := _soft(resource.RLIMIT_AS)) is not None:
        found.append(f"ulimit -v {size_bytes // 1024}")
    if (files := _soft(resource.RLIMIT_NOFILE)) is not None and files < _FEW_FILES:
        found.append(f"ulimit -n {files}")
    if (threads := _soft(resource.RLIMIT_NPROC)) is not None and threads < _FEW_THREADS:
        found.append(f"ulimit -u {threads}")
    return ", ".join(found)


_FEW_FILES, _FEW_THREADS = 1024, 4096
"""Below these a limit is worth a word: usual ones are higher."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from or while."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _kind(error: BaseException) -> Kind | None:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return _told_apart(_NUMBERS[error.errno])
    if isinstance(error, SwapyardError):
        # What it was raised from tells; a message of ours may quote anything.
        return None
    said = str(error).lower()
    return next((_told_apart(kind) for words, kind in _WORDS.items() if words in said), None)


def _told_apart(kind: Kind) -> Kind:
    """A thread is refused in the same words for lack of memory for its stack."""
    return "memory" if kind == "threads" and _soft(resource.RLIMIT_AS) is not None else kind


def _detail(error: BaseException) -> str:
    """The error's own words on one line: the last of a page that a library writes."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror.lower()}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if any(words in line.lower() for words in _WORDS)), "")
    text = said or (lines[0] if lines else type(error).__name__)
    return text if len(text) <= _MOST_DETAIL else f"…{text[1 - _MOST_DETAIL :]}"


def _line(kind: Kind, detail: str) -> str:
    """Line on what was reached, the limit, and what to do."""
    if kind == "memory":
        size_bytes = _soft(resource.RLIMIT_AS)
        if size_bytes is None:
            return f"memory ran out ({detail}); end other programs, or take a machine with more"
        return (
            f"memory ran out: ulimit -v allows this process {size_bytes / 1e6:,.0f} MB ({detail}); allow"
            " more, or all with: ulimit -v unlimited"
        )
    if kind == "files":
        limit = _soft(resource.RLIMIT_NOFILE)
        return (
            f"no more files can be opened: ulimit -n allows this process {limit or 'any number of'} at a time"
            f" ({detail}); allow more, such as: ulimit -n 4096"
        )
    if kind == "threads":
        limit = _soft(resource.RLIMIT_NPROC)
        return (
            f"no more threads or processes can be started: ulimit -u allows this user {limit or 'any number'}"
            f" ({detail}); end other programs, or allow more, such as: ulimit -u 4096"
        )
    if kind == "room":
        return f"no room is left on the disk ({detail}); free some and run the same command again"
    if kind == "disk":
        return f"the disk does not work ({detail}); look at it, and run the same command again"
    return f"the system does not allow it ({detail}); change permissions, or name another folder"


def _soft(number: int) -> int | None:
    """The limit that holds now; None where there is none."""
    limit = resource.getrlimit(number)[0]
    return None if limit == resource.RLIM_INFINITY else limit
