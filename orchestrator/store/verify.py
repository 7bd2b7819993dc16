"""Verification of files of rows against their commits: each by its hash, once in a process.

Nothing of this is remembered on the disk: a bit that rots changes no time stamp.
"""

__all__ = ["Damage", "damaged_files", "fault_of"]

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from orchestrator.store.manifest import Manifest, StoredFile
from orchestrator.store.state import State

_CHUNK_BYTES = 1 << 20
_MOST_THREADS = 8
_seen: set[tuple[str, int, str]] = set()
_lock = threading.Lock()


class Damage(NamedTuple):
    """File of rows that is lost, or not as it was committed."""

    path: str
    """Relative to the study."""
    why: str
    """Goes on from the file's name."""
    num_rows: int
    """Rows that it held."""
    parts: tuple[Manifest, ...]
    """The parts whose rows these were: each says its tile, its cells and its metric families."""


def damaged_files(
    root: Path,
    state: State,
    *,
    verify: bool = True,
    files: Iterable[StoredFile] | None = None,
    advance: Callable[[int], None] = lambda num_bytes: None,
) -> tuple[Damage, ...]:
    """The files of the study in `root` that are missing or damaged, with what they held, in order.

    Args:
        root: the study's folder.
        state: what it holds.
        verify: whether hashes are looked at, each once in a process, and not only sizes.
        files: some of the state's; None means all.
        advance: told how many bytes were read, from any thread.
    """
    wanted = list(state.files.values() if files is None else files)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        faults = list(pool.map(lambda file: fault_of(root / file.path, file, verify, advance), wanted))
    found = [(file, why) for file, why in zip(wanted, faults, strict=True) if why is not None]
    held = state.parts_by_file() if found else {}
    return tuple(Damage(file.path, why, file.rows, held.get(file.path, ())) for file, why in found)


def fault_of(
    path: Path,
    file: StoredFile | Manifest,
    verify: bool = True,
    advance: Callable[[int], None] = lambda num_bytes: None,
    *,
    afresh: bool = False,
) -> str | None:
    """Fault of a file of rows; None where there is none. With `afresh`, whatever was found before."""
    try:
        found = path.stat().st_size
        if found != file.size_bytes:
            return f"has {found:,} bytes where {file.size_bytes:,} were committed"
        key = (str(path.absolute()), file.size_bytes, file.sha256)
        if not verify or (key in _seen and not afresh):
            advance(found)
            return None
        digest = hashlib.sha256()
        with path.open("rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                digest.update(chunk)
                advance(len(chunk))
    except FileNotFoundError:
        return "was committed and is missing"
    except OSError as error:
        return f"cannot be read ({(error.strerror or str(error)).lower()})"
    if digest.hexdigest() != file.sha256:
        return "is damaged: its bytes are not those committed"
    with _lock:
        _seen.add(key)
    return None
