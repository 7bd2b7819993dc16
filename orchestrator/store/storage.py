"""Storage of bytes by name: the few operations that a study store needs, and their form on a local disk.

Names are relative, with ``/`` between their parts. A part never starts with a dot: such names belong to
the storage itself (temporary files, the lock) and are never listed.
"""

__all__ = ["JsonObject", "LocalStorage", "Storage", "check_name", "explained", "gone", "make_inside", "named"]

import contextlib
import errno
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.faults import around, reach
from orchestrator.store.disk import Disk
from workers.errors import StorageFullError, StoreError
from workers.limits import reached

JsonObject = Mapping[str, Any]
"""Object of a JSON file of ours, as it was parsed."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT)
"""A disk that fails, or a folder that went away while it was used."""
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)
"""Errors by which file systems without hard links refuse one between two names in a folder."""
_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Limits of this process, of which nothing is wrong with the disk."""
_CANNOT_SYNC = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOTSUP)
"""Errors of a folder that cannot be synced at all, and so can hold nothing that we made."""


class Storage(Protocol):
    """Operations that a study store needs of a disk, or of an object store.

    Whatever returned is durable: it outlives a kill and a power cut. Every operation raises
    `StorageFullError` where no room is left and `StoreError` where it cannot be done, or where nobody
    knows whether it was: then the same call again is safe, and tells.
    """

    def create(self, name: str, data: bytes) -> bool:
        """Write the whole of `data` under `name` if nothing is there; whether this call did it.

        Among any number of callers at once, at most one gets True; none does where its answer was lost. A
        reader sees all of it or nothing. After False too, what is there is durable.
        """

    def put_fresh(self, name: str, data: bytes) -> None:
        """Write `data` under a `name` that nobody used before; until it returns, a reader may see a part."""

    def read(self, name: str) -> bytes | None:
        """The bytes under `name`, or None where nothing is there."""

    def list(self, folder: str) -> list[str]:
        """Names below `folder`, sorted."""

    def remove(self, name: str) -> None:
        """Forget `name`; nothing happens where it is not there."""

    def exists(self, name: str) -> bool:
        """Whether something is there under `name`."""


def gone(root: Path) -> StoreError:
    """Error for a folder that was there, and is not any more."""
    return StoreError(
        f"the folder {root} is gone, moved or removed while it was used; nothing that was committed is lost"
        " with a move: the same command goes on, wherever the study lies in its store"
    )


class LocalStorage:
    """Folder on a file system with hard links, shared by any number of processes."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self._disk = disk or Disk()
        self._durable: set[Path] = set()
        self._was_there = root.is_dir()

    def create(self, name: str, data: bytes) -> bool:
        """Write a temporary file, sync it, and link it to `name`: links never replace what is there."""
        target = self.locate(name)
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
        with self._explained(target):
            self._make_folder(target.parent)
            try:
                self._write("create", temporary, data)
                made = self._link(temporary, target)
            finally:
                with around("create.unlink"):
                    self._disk.unlink(temporary)
            with around("create.folder"):
                self._disk.sync_folder(target.parent)
        return made

    def put_fresh(self, name: str, data: bytes) -> None:
        """Write `name` in place, exclusively, and sync file and folder."""
        target = self.locate(name)
        with self._explained(target):
            self._make_folder(target.parent)
            self._write("put", target, data)
            with self._whole_or_gone(target), around("put.folder"):
                self._disk.sync_folder(target.parent)

    def read(self, name: str) -> bytes | None:
        """The bytes under `name`, or None where nothing is there."""
        path = self.locate(name)
        with self._explained(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def list(self, folder: str) -> list[str]:
        """Names below `folder`, sorted; none where the folder is not there."""
        with self._explained(self.locate(folder)):
            return sorted(self._walk(folder))

    def remove(self, name: str) -> None:
        """Forget `name`, durably."""
        path = self.locate(name)
        with self._explained(path), contextlib.suppress(FileNotFoundError):
            with around("remove.unlink"):
                self._disk.unlink(path)
            # Also where it was gone: whoever removed it may have died before it got this far.
            with around("remove.folder"):
                self._disk.sync_folder(path.parent)

    def exists(self, name: str) -> bool:
        """Whether something is there under `name`."""
        path = self.locate(name)
        with self._explained(path):
            return path.exists()

    def locate(self, name: str) -> Path:
        """Path of `name` on the disk, for readers that open files themselves.

        Raises:
            StoreError: the name is absolute, or would leave the root.
        """
        check_name(name)
        return self.root / name

    def probe(self) -> None:
        """Try what the store rests on: a synced file, a hard link, and a second link that is refused.

        Raises:
            StoreError: this file system cannot do it.
        """
        with self._explained(self.root):
            self._make_root()
            first, second = (self.root / f".tmp-{uuid.uuid4().hex}" for _ in range(2))
            try:
                self._write("create", first, b"probe")
                exclusive = self._links_once(first, second)
                self._disk.sync_folder(self.root)
            finally:
                self._disk.unlink(first)
                self._disk.unlink(second)
        if not exclusive:
            raise _without_links(self.root)

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """As `explained`; where the whole root is gone, that."""
        try:
            with explained(path):
                yield
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError) and not self.root.exists():
                raise gone(self.root) from error
            raise

    def _write(self, step: str, path: Path, data: bytes) -> None:
        """Write and sync a file that must not exist yet; nothing stays behind when that fails."""
        descriptor = self._disk.create(path)
        with self._whole_or_gone(path):
            try:
                self._fill(step, descriptor, memoryview(data))
            finally:
                self._disk.close(descriptor)

    def _fill(self, step: str, descriptor: int, data: memoryview) -> None:
        half = len(data) // 2
        with around(f"{step}.write"):
            self._disk.write(descriptor, data[:half])
            # In halves, so that a fault here leaves a torn file.
            reach(f"{step}.write")
            self._disk.write(descriptor, data[half:])
        with around(f"{step}.sync"):
            self._disk.sync(descriptor)

    def _link(self, existing: Path, new: Path) -> bool:
        """Whether this call gave the file the name `new`, rather than that something else has it."""
        try:
            with around("create.link"):
                try:
                    self._disk.link(existing, new)
                except FileExistsError:
                    return False
                return True
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise _without_links(new.parent) from error
            raise

    def _links_once(self, first: Path, second: Path) -> bool:
        """Whether `first` can be linked to `second` once, and not twice."""
        try:
            return self._link(first, second) and not self._link(first, second)
        except StoreError:
            return False
        except OSError as error:
            if error.errno in (*_FULL, errno.EIO):
                raise
            return False

    @contextlib.contextmanager
    def _whole_or_gone(self, path: Path) -> Iterator[None]:
        """Take the name of a new file away where its writing fails."""
        try:
            yield
        except BaseException:
            # What failed first is the news; the file may stay, where nobody will look for it.
            with contextlib.suppress(OSError):
                self._disk.unlink(path)
            raise

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and what is missing above it, each entry synced.

        Folders that another process made are synced too: it may have died before it got that far. A root that
        was there is not made again: somebody moved it away.
        """
        if folder in self._durable:
            return
        if folder == self.root:
            if self._was_there:
                self.root.stat()
            self._make_root()
        else:
            self._make_folder(folder.parent)
            self._make(folder)
            self._durable.add(folder)

    def _make_root(self) -> None:
        for above in reversed(self.root.absolute().parents):
            self._make_above(above)
        self._make(self.root)
        self._durable.add(self.root)

    def _make_above(self, folder: Path) -> None:
        """As `_make`, for a folder above the root; one that cannot be synced was never ours."""
        try:
            self._make(folder)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC or not folder.exists():
                raise

    def _make(self, folder: Path) -> None:
        with around("folder.make"):
            self._disk.make_folder(folder)
        with around("folder.sync"):
            self._disk.sync_folder(folder.parent)

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            entries = list(os.scandir(self.root / folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(name)
            else:
                yield name


def check_name(name: str) -> None:
    """Refuse a name that no storage takes: an absolute one, or one that would leave the root.

    Raises:
        StoreError: it is one.
    """
    if "\0" in name or any(part == "" or part.startswith(".") for part in name.split("/")):
        raise StoreError(
            f"the name {name!r} is not allowed in a study: names are relative, and no part of one starts "
            "with a dot"
        )


def make_inside(root: Path, folder: Path) -> None:
    """Make `folder` and what is missing above it, but never `root`: somebody may have moved it away.

    Raises:
        OSError: it cannot be made.
    """
    for above in reversed((folder, *folder.parents)):
        if above.is_relative_to(root) and above != root:
            above.mkdir(exist_ok=True)


def named(root: Path) -> str:
    """The study in the folder `root`, as commands name it, for a shell."""
    return shlex.join([root.name, "--store", str(root.parent)])


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one sentence for the user."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in _FULL:
            raise StorageFullError(
                f"no room is left to write {path} ({reason}); nothing that was committed is lost: "
                "free some space and run the same command again"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(
                f"{path} may not be read or written ({reason}); change its permissions, or choose another "
                "folder with --store"
            ) from error
        if error.errno in _BROKEN:
            raise StoreError(
                f"{path} cannot be read or written ({reason}); nothing that was committed is lost: look at"
                " the disk (swapyard doctor does) and run the same command again"
            ) from error
        if error.errno in _LIMITS and (limit := reached(error)) is not None:
            raise StoreError(f"{path} cannot be opened: {limit.line}") from error
        raise StoreError(f"{path} cannot be read or written: {reason}") from error


def _without_links(folder: Path) -> StoreError:
    return StoreError(
        f"the file system of {folder} has no working hard links, which keep a study whole when it is"
        " interrupted; keep the study on a local disk or on NFS"
    )
