"""System calls of a local storage, one method each.

Everything that a study's durability rests on goes through here, so that a test can record it, call by call,
and work out what a power loss may leave.
"""

__all__ = ["Disk"]

import contextlib
import os
import sys
from pathlib import Path


class Disk:
    """System calls as they are: each raises `OSError`, and nothing is durable before its sync returns."""

    def create(self, path: Path) -> int:
        """Create an empty file where nothing is, and give its descriptor for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: memoryview) -> None:
        """Append all of `data`; where that fails, some of it may have been written."""
        while data:
            data = data[os.write(descriptor, data) :]

    def sync(self, descriptor: int) -> None:
        """Make what a file or folder holds outlive a power loss; a file's name is held by its folder."""
        if sys.platform == "darwin":
            # There fsync only reaches the drive's own cache.
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Let a file go; it is not thereby durable."""
        os.close(descriptor)

    def link(self, existing: Path, new: Path) -> None:
        """Give a file a second name, where nothing has that name."""
        os.link(existing, new)

    def unlink(self, path: Path) -> None:
        """Take a name from a file; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def make_folder(self, path: Path) -> None:
        """Make a folder, unless it is there."""
        path.mkdir(exist_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder outlive a power loss."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)
