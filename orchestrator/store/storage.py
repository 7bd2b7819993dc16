"""Bytes by name: the few operations that a study store needs, and their form on a local disk.

Names are relative, with ``/`` between their parts. A part never starts with a dot: such names belong to
the storage itself (temporary files, the lock) and are never listed.
"""

__all__ = ["LocalStorage", "Storage", "explained"]

import contextlib
import errno
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from workers.errors import StorageFullError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Storage(Protocol):
    """What a study store asks of a disk, or of an object store.

    Whatever returned is durable: it outlives a kill and a power cut. Every operation raises
    `StorageFullError` where no room is left and `StoreError` where it cannot be done.
    """

    def create(self, name: str, data: bytes) -> bool:
        """Write the whole of `data` under `name` if nothing is there; whether this call did it.

        Among any number of callers at once, exactly one gets True. A reader sees all of it or nothing.
        """

    def put_fresh(self, name: str, data: bytes) -> None:
        """Write `data` under a `name` that nobody used before; until it returns, a reader may see a part."""

    def read(self, name: str) -> bytes | None:
        """The bytes under `name`, or None where nothing is there."""

    def list(self, folder: str) -> list[str]:
        """Every name below `folder`, sorted."""

    def remove(self, name: str) -> None:
        """Forget `name`; nothing happens where it is not there."""

    def exists(self, name: str) -> bool:
        """Whether something is there under `name`."""


class LocalStorage:
    """A folder on a file system with hard links, shared by any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()

    def create(self, name: str, data: bytes) -> bool:
        """Write a temporary file, sync it, and link it to `name`: links never replace what is there."""
        target = self.locate(name)
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
        with explained(target):
            self._make_folder(target.parent)
            try:
                _write_new(temporary, data)
                os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        return True

    def put_fresh(self, name: str, data: bytes) -> None:
        """Write `name` in place, exclusively, and sync file and folder."""
        target = self.locate(name)
        with explained(target):
            self._make_folder(target.parent)
            _write_new(target, data)
            _sync_folder(target.parent)

    def read(self, name: str) -> bytes | None:
        """The bytes under `name`, or None where nothing is there."""
        path = self.locate(name)
        with explained(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def list(self, folder: str) -> list[str]:
        """Every name below `folder`, sorted; none where the folder is not there."""
        with explained(self.locate(folder)):
            return sorted(self._walk(folder))

    def remove(self, name: str) -> None:
        """Forget `name`, durably."""
        path = self.locate(name)
        with explained(path), contextlib.suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def exists(self, name: str) -> bool:
        """Whether something is there under `name`."""
        path = self.locate(name)
        with explained(path):
            return path.exists()

    def locate(self, name: str) -> Path:
        """Where `name` lies on the disk, for readers that open files themselves.

        Raises:
            StoreError: the name is absolute, or would leave the root.
        """
        if "\0" in name or any(part == "" or part.startswith(".") for part in name.split("/")):
            raise StoreError(
                f"the name {name!r} is not allowed in a study: names are relative, and no part of one starts "
                "with a dot"
            )
        return self.root / name

    def probe(self) -> None:
        """Try what the store rests on: a synced file, a hard link, and a second link that is refused.

        Raises:
            StoreError: this file system cannot do it.
        """
        with explained(self.root):
            self._make_folder(self.root)
            first, second = (self.root / f".tmp-{uuid.uuid4().hex}" for _ in range(2))
            try:
                _write_new(first, b"probe")
                exclusive = _link_is_exclusive(first, second)
                _sync_folder(self.root)
            finally:
                first.unlink(missing_ok=True)
                second.unlink(missing_ok=True)
        if not exclusive:
            raise StoreError(
                f"the file system of {self.root} has no working hard links, which keep a study whole when it "
                "is interrupted; keep the study on a local disk or on NFS"
            )

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and what is missing above it, each entry synced.

        Folders that another process made are synced too: it may have died before it got that far.
        """
        if folder in self._durable:
            return
        if folder == self.root:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)
        self._durable.add(folder)

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


def _write_new(path: Path, data: bytes) -> None:
    """Write and sync a file that must not exist yet; nothing stays behind when that fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(data)
            file.flush()
            _sync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _link_is_exclusive(first: Path, second: Path) -> bool:
    """Whether `first` can be linked to `second` once, and not twice."""
    try:
        os.link(first, second)
    except OSError:
        return False
    try:
        os.link(first, second)
    except FileExistsError:
        return True
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        # There fsync only reaches the drive's own cache.
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


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
        raise StoreError(f"{path} cannot be read or written: {reason}") from error
