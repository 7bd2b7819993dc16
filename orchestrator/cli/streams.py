"""Streams of a command: closed, full or read by nobody, they end it in one line or in silence.

A closed stdout is an answer that cannot be written, and what says so has a type of its own: other errors of
the system are of other files. A stderr that cannot be written is nobody's loss.
"""

__all__ = ["NoReaderError", "UnwritableError", "drop_output", "flushed", "guard_streams"]

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class UnwritableError(OSError):
    """Standard output cannot be written."""

    @property
    def exit_code(self) -> int:
        """4 where its storage is full, as for a study's; else 1."""
        return 4 if self.errno in (errno.ENOSPC, errno.EDQUOT) else 1


class NoReaderError(UnwritableError):
    """Closed pipe: nobody reads our output any more. It is no `BrokenPipeError`, which click ends with 1."""


# Buffers, and not the files below them: an interrupt that comes right after the system has written would make
# a buffer believe that it was not, and write once more.


class _Out(io.BufferedWriter):
    """Standard output, whose errors are known from those of other files."""

    def write(self, data: Any, /) -> int:
        """As `io.BufferedWriter.write`.

        Raises:
            NoReaderError: nobody reads any more.
            UnwritableError: it is closed, or where it goes to is full.
        """
        with _told():
            return super().write(data)

    def flush(self) -> None:
        """As `io.BufferedWriter.flush`; raises as `write` does."""
        with _told():
            super().flush()


class _Err(io.BufferedWriter):
    """Standard error; what cannot be written there is lost."""

    def write(self, data: Any, /) -> int:
        """As `io.BufferedWriter.write`."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes

    def flush(self) -> None:
        """As `io.BufferedWriter.flush`."""
        with suppress(OSError):
            super().flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise NoReaderError(errno.ESHUTDOWN, "nobody reads it") from None
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror) from None


def guard_streams() -> None:
    """Have stdout and stderr end in errors of ours; of those that are closed nothing else takes the place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # A file that is opened later must not get what is printed. It can be read, and not be written.
            at = os.open(os.devnull, os.O_RDONLY)
            if at != number:
                os.dup2(at, number)
                os.close(at)
    sys.stdout = _text(_Out(io.FileIO(1, "wb", closefd=False)), sys.stdout)
    sys.stderr = _text(_Err(io.FileIO(2, "wb", closefd=False)), sys.stderr)


def _text(buffer: io.BufferedWriter, before: TextIO | None) -> io.TextIOWrapper:
    """A stream of text like the one `before`, which is None where it was closed."""
    is_error = isinstance(buffer, _Err)
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        buffer,
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=getattr(before, "errors", None) or ("backslashreplace" if is_error else "strict"),
        line_buffering=is_error or buffer.isatty(),
        write_through=bool(getattr(before, "write_through", False)),
    )


def drop_output() -> None:
    """Write nothing more to stdout, also not what is held back."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def flushed() -> int:
    """Write what is still held back; another exit code where somebody wants it and it cannot be written."""
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except NoReaderError:
            drop_output()
            return 0
        except UnwritableError as error:
            drop_output()
            print(f"Error: the answer cannot be written: {error.strerror}", file=sys.stderr, flush=True)
            return error.exit_code
        except (OSError, ValueError):
            continue
    return 0
