"""Why a run stops before its end: it is told to by a signal, or one of its limits is reached."""

__all__ = ["AtOnce", "EndedError", "Reason", "Stop", "listening", "never"]

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Literal

from orchestrator.interrupts import note
from orchestrator.run.progress import Progress

Reason = Literal["interrupted", "limit", "time", "failures"]
"""Reasons to stop: a signal, or one of the limits that a run may be given."""
AtOnce = Callable[[], AbstractContextManager[None]]
"""Context of work that may be left at once when somebody asks to stop: nothing of it is a row, and it is done
again."""


class EndedError(Exception):
    """Work was left before its end, because somebody asked to stop."""


@contextmanager
def never() -> Iterator[None]:
    """Context in which work goes on to its end, as where nobody listens."""
    yield


@dataclass(slots=True)
class Stop:
    """Whether to stop: then nothing more is handed out, and what runs is finished and committed."""

    reason: Reason | None = None
    can_drain: bool = False
    """Before any job runs there is nothing to finish: a Ctrl-C ends everything at once."""

    can_end: bool = False
    """Whether what is done now may be left at once: a model that is loaded, a fit that is made."""

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Context in which Ctrl-C ends what is done, and is no abort: whatever was committed stays.

        Raises:
            EndedError: somebody asked to stop.
        """
        if self.reason is not None:
            raise EndedError
        self.can_end = True
        try:
            yield
        except KeyboardInterrupt:
            if self.reason is None:
                raise
            raise EndedError from None
        finally:
            self.can_end = False

    def ask(self, reason: Reason) -> None:
        """Stop, for the first reason that is given."""
        self.reason = self.reason or reason


@contextmanager
def listening(progress: Progress) -> Iterator[Stop]:
    """Context in which Ctrl-C, SIGTERM and a closed terminal ask to stop, as the main thread is told."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        elif stop.reason == "interrupted":
            note()
            raise KeyboardInterrupt
        if not stop.can_drain:
            note()
            raise KeyboardInterrupt
        stop.ask("interrupted")
        if stop.can_end:
            stop.can_end = False
            raise KeyboardInterrupt
        # The line that this signal came in the middle of may still hold the stream.
        with suppress(RuntimeError):
            progress.say("stopping: what runs is finished and committed; Ctrl-C again aborts it")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        # Under nohup a closed terminal is to be of no concern.
        if number != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """Nobody reads any more, and writing to a closed terminal is an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if not _is_file(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _is_file(descriptor: int) -> bool:
    """Whether what is written there goes to a file or a pipe, and not to the terminal that was closed."""
    return not stat.S_ISCHR(os.fstat(descriptor).st_mode)
