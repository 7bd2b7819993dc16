"""Logs of a run: a file for the driver and one for each worker, in ``STUDY/logs/<epoch>/``.

A line is a local time and what happened; lines that begin with blanks belong to the one above. What native
code and libraries print in a Ray worker lies between them as it came. A log is a help and never an obstacle:
nothing here raises because a line could not be written.
"""

__all__ = ["BEGUN", "DRIVER", "ENDED", "ERROR", "WorkerLog", "worker_name"]

import contextlib
import faulthandler
import io
import logging
import os
import platform
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from orchestrator.store import Manifest, StudyStore
from orchestrator.store.storage import make_inside
from orchestrator.text_tables import plain
from workers.errors import SwapyardError

if TYPE_CHECKING:
    from typing_extensions import Buffer

DRIVER = "driver"
"""The name of the driver's log."""
BEGUN, ENDED, ERROR = "slice begun: ", "slice ended: ", "error: "
"""Beginnings of the lines that `swapyard logs` and `status` look for."""
_OURS = "swapyard"
_STREAMS = {"stdout": 1, "stderr": 2}


class Cells(Protocol):
    """Cells of a tile, as a line of a log names them."""

    @property
    def tile(self) -> int:
        """Number of the tile."""

    @property
    def k_lo(self) -> int:
        """First cell."""

    @property
    def k_hi(self) -> int:
        """Cell after the last."""

    @property
    def families(self) -> tuple[str, ...]:
        """Metric families that are measured."""

    @property
    def replaces(self) -> str | None:
        """Part whose failed rows are run again."""

    @property
    def jobs(self) -> tuple[tuple[int, int], ...]:
        """Ranges of jobs of a retry."""

    @property
    def careful(self) -> bool:
        """Whether jobs run one by one."""


def worker_name() -> str:
    """Name of this process's log; a manifest's `host` and `worker` give the same."""
    return f"{socket.gethostname()}-{os.getpid()}"


class WorkerLog:
    """The log of one process: appended to, a line an event, each written at once.

    As a context it is closed at the end, and an exception that ends it is its last line.
    """

    def __init__(self, folder: Path, epoch: int, name: str) -> None:
        """Open ``logs/<epoch>/<name>.log`` in the study `folder`, `name` being `DRIVER` or `worker_name`."""
        self.path = StudyStore(folder).logs(epoch) / f"{name}.log"
        self._undo: list[Callable[[], object]] = []
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            make_inside(folder, self.path.parent)
            # Several writers share the file once native output goes there, too.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
        self.note(
            f"process {os.getpid()} on {socket.gethostname()},"
            f" swapyard {version('swapyard')}, Python {platform.python_version()}"
        )

    def note(self, text: str) -> None:
        """Write an event; further lines of `text` are set in below the first."""
        if self._descriptor is None:
            return
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        body = "\n    ".join(plain(text).rstrip().splitlines())
        # A full disk must not end work that a line is about.
        with contextlib.suppress(OSError):
            os.write(self._descriptor, f"{now} {body}\n".encode(errors="replace"))

    def begun(self, taken: Cells) -> None:
        """A slice begins."""
        retry = f", {sum(hi - lo for lo, hi in taken.jobs):,} jobs of {taken.replaces}" if taken.jobs else ""
        careful = ", one job at a time" if taken.careful else ""
        families = "+".join(taken.families)
        self.note(f"{BEGUN}{_place(taken.tile, taken.k_lo, taken.k_hi)}, {families}{retry}{careful}")

    def ended(self, manifest: Manifest) -> None:
        """A slice, or the first cells of it, is done and lies in a part."""
        self.note(
            f"{ENDED}{_place(manifest.tile, manifest.k_lo, manifest.k_hi)}, {manifest.rows:,} rows,"
            f" {manifest.failed:,} failed, {manifest.timings.get('total_s', 0.0):.2f} s, {manifest.path}"
        )

    def failed(self, taken: Cells, error: BaseException) -> None:
        """A slice came to nothing: `error` ended it, and is written with its traceback."""
        trace = "".join(traceback.format_exception(error))
        self.note(f"slice failed: {_place(taken.tile, taken.k_lo, taken.k_hi)}\n{trace}")

    def capture(self, *, stdio: bool) -> None:
        """From now on until `close`, also write crashes of the interpreter, warnings and log records.

        Records of at least WARNING, and of swapyard's own loggers of at least INFO. With `stdio` also what
        anyone in this process prints: for workers of their own, never for a process that has a terminal.
        """
        if self._descriptor is None:
            return
        self._catch_crashes(self._descriptor)
        if stdio:
            self._catch_streams(self._descriptor)
        self._catch_warnings(pass_on=not stdio)
        self._catch_records(pass_on=not stdio)

    def close(self) -> None:
        """End what `capture` began, and close the file; twice does no harm."""
        while self._undo:
            with contextlib.suppress(OSError, ValueError):
                self._undo.pop()()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.note("ended")
        elif isinstance(error, KeyboardInterrupt):
            self.note("interrupted")
        else:
            if not isinstance(error, SwapyardError):
                self.note("".join(traceback.format_exception(error)))
            self.note(f"{ERROR}{type(error).__name__}: {error}")
        self.close()

    def _catch_crashes(self, descriptor: int) -> None:
        was_enabled = faulthandler.is_enabled()
        faulthandler.enable(descriptor)
        self._undo.append(_enable_on_stderr if was_enabled else faulthandler.disable)

    def _catch_streams(self, descriptor: int) -> None:
        for name, number in _STREAMS.items():
            stream = getattr(sys, name)
            before = os.dup(number)
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            os.dup2(descriptor, number)
            raw = _Unfailing(number, "wb", closefd=False)
            # What waits in a buffer when a process is killed is lost.
            text = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors="replace", line_buffering=True)
            setattr(sys, name, text)
            self._undo += [
                partial(_put_back, before, number),
                partial(setattr, sys, name, stream),
                text.flush,
            ]

    def _catch_warnings(self, *, pass_on: bool) -> None:
        before = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            self.note(f"{category.__name__}: {message} ({filename}:{lineno})")
            if pass_on:
                before(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        self._undo.append(lambda: setattr(warnings, "showwarning", before))

    def _catch_records(self, *, pass_on: bool) -> None:
        root, ours = logging.getLogger(), logging.getLogger(_OURS)
        # A root logger that has a handler no longer prints warnings by itself.
        last = logging.lastResort if pass_on and not root.handlers else None
        handler = _Handler(self.note, last)
        root.addHandler(handler)
        self._undo.append(lambda: root.removeHandler(handler))
        level = ours.level
        ours.setLevel(logging.INFO)
        self._undo.append(lambda: ours.setLevel(level))


class _Handler(logging.Handler):
    """Notes log records: warnings and worse, and all of our own."""

    def __init__(self, note: Callable[[str], None], last: logging.Handler | None) -> None:
        super().__init__()
        self._note = note
        self._last = last
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and pass on what would have been printed without this handler."""
        is_warning = record.levelno >= logging.WARNING
        if is_warning or record.name.partition(".")[0] == _OURS:
            try:
                self._note(self.format(record))
            except Exception:
                self.handleError(record)
        if is_warning and self._last is not None:
            self._last.handle(record)


class _Unfailing(io.FileIO):
    """A file of which a full disk swallows what is written: printing is no reason for a job to fail."""

    def write(self, data: "Buffer", /) -> int:
        """Write as much as there is room for, and say that it was all."""
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def _place(tile: int, k_lo: int, k_hi: int) -> str:
    return f"tile {tile}, cells [{k_lo}, {k_hi})"


def _enable_on_stderr() -> None:
    # Where it wrote before cannot be asked; this is where it does by default.
    faulthandler.enable(sys.__stderr__ or 2)


def _put_back(before: int, number: int) -> None:
    os.dup2(before, number)
    os.close(before)
