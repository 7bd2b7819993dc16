"""Merging: many small files become one, so that readers of a long study open hundreds and not thousands.

Only where bytes lie changes. The rows are those of the files merged, and the parts that they came from stay
in the log.
"""

__all__ = ["MOST_FILES", "Merge", "Merged", "merge_files", "next_merge"]

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.faults import reach
from orchestrator.store.manifest import Manifest, MergedFile, StoredFile
from orchestrator.store.notes import UNWRITTEN
from orchestrator.store.parts import concatenated
from workers.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_FILES = 500
"""With more files than this, some are merged."""
_MOST_ROWS = 1_000_000
"""Of a merged file, about."""
_SMALL_ROWS = 250_000
"""A file of fewer rows may be merged, also one that was merged before."""
_MOST_BYTES = 1 << 28
"""Of the files of a merge, which lie in memory together: what a row collected may be thousands of numbers."""
_SMALL_BYTES = _MOST_BYTES >> 2
"""A file of fewer bytes may be merged."""
_MOST_INPUTS = 2_000
"""Files merged at once: a merge is seconds of work, so that a run that ends need not wait for it."""
_FEWEST_SHARE = 16
"""A merge takes at least a sixteenth of the files that there may be: else rows are copied for little."""


class Merge(NamedTuple):
    """Files that are to become one: of one lane and the same metric families, all retries or none."""

    files: tuple[StoredFile, ...]
    parts: Mapping[str, tuple[Manifest, ...]] = MappingProxyType({})
    """For each file the parts whose rows it holds: the merged file says which they are."""
    study: str = ""
    """The nonce of the study's first commit; without one the merged file says nothing of itself."""
    seq: int = 0
    """Number of commits at that time."""
    plan: str | None = None
    """The plan that the study followed: its numbers are those of the rows."""


class Merged(NamedTuple):
    """Outcome of a merge."""

    file: MergedFile | None
    """Written, and not committed yet; None where it was given up, or fewer than two files were whole."""
    damaged: Mapping[str, str]
    """The files that were left out, each with what is wrong with it."""


def next_merge(
    files: Mapping[str, StoredFile], *, most_files: int = MOST_FILES, leave_out: Set[str] = frozenset()
) -> Merge | None:
    """Next merge, or None where none is due; never of the files in `leave_out`."""
    if len(files) <= most_files:
        return None
    kinds: dict[tuple[str, tuple[str, ...], bool], list[StoredFile]] = defaultdict(list)
    for file in files.values():
        if file.rows < _SMALL_ROWS and file.size_bytes < _SMALL_BYTES and file.path not in leave_out:
            kinds[file.lane, file.families, file.is_retry].append(file)
    best = max((_first(found) for found in kinds.values()), key=len, default=())
    return Merge(best) if len(best) >= max(2, most_files // _FEWEST_SHARE) else None


def merge_files(
    merge: Merge,
    read: Callable[[StoredFile], "pa.Table"],
    write: Callable[[MergedFile, bytes], MergedFile],
    path: str,
    go_on: Callable[[], bool],
) -> Merged:
    """Read, check and write the rows of `merge` as one file; given up once `go_on` says so.

    Args:
        merge: the files.
        read: a file's rows, checked; `StoreError` where it is damaged.
        write: writes the bytes of a file durably, and gives it with its size and hash.
        path: where the merged file is to lie.
        go_on: asked before every step that takes long.

    Raises:
        StorageFullError, StoreError: the merged file could not be written.
    """
    tables: dict[StoredFile, pa.Table] = {}
    damaged: dict[str, str] = {}
    for file in merge.files:
        if not go_on():
            return Merged(None, damaged)
        try:
            tables[file] = read(file)
        except StoreError as error:
            damaged[file.path] = str(error)
    if len(tables) < 2:
        return Merged(None, damaged)
    data = concatenated(list(tables.values()))
    if not go_on():
        return Merged(None, damaged)
    kind = merge.files[0]
    draft = MergedFile(
        path=path,
        **UNWRITTEN,
        families=kind.families,
        lane=kind.lane,
        rows=sum(file.rows for file in tables),
        is_retry=kind.is_retry,
        of=tuple(file.path for file in tables),
    )
    made = write(draft, data)
    reach("merge.written")
    return Merged(made, damaged)


def _first(files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
    """As many files from the first on as one merge takes."""
    taken: list[StoredFile] = []
    num_rows = num_bytes = 0
    for file in files:
        num_rows += file.rows
        num_bytes += file.size_bytes
        if num_rows > _MOST_ROWS or num_bytes > _MOST_BYTES or len(taken) == _MOST_INPUTS:
            break
        taken.append(file)
    return tuple(taken)
