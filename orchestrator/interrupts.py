"""Ctrl-C in commands: heard while Python loads, while DuckDB answers and while the process ends, and never a
traceback. A run listens in its own way (`orchestrator.run.stopping`)."""

__all__ = ["INTERRUPTED", "end", "hear", "interruptible", "note", "was_heard"]

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

INTERRUPTED = 130
"""Exit code of a command that was interrupted, as shells have it."""
_PATIENCE_S = 2.0
"""Time for clearing up after the first Ctrl-C, during which a second one is ignored."""
_AGAIN_S = 0.05
"""An interruption of DuckDB that falls between two statements is lost: it is repeated after this time."""
_LOST_S = 1.5
"""An interrupt that ends nothing for so long was swallowed on its way."""
_heard_s: float | None = None
_is_ending = False


def was_heard() -> bool:
    """Whether Ctrl-C was pressed since the command began to `hear` it."""
    return _heard_s is not None


def note() -> None:
    """Somebody else has heard Ctrl-C, and raises `KeyboardInterrupt` for it."""
    global _heard_s
    _heard_s = time.monotonic()


def hear() -> None:
    """From now on Ctrl-C raises `KeyboardInterrupt`, once: a second one right after it disturbs nothing, a
    later one ends the process."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _again


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _heard_s
    if _heard_s is None:
        _heard_s = time.monotonic()
        again = threading.Timer(_LOST_S, _repeat)
        again.daemon = True
        again.start()
        raise KeyboardInterrupt
    if time.monotonic() - _heard_s > _PATIENCE_S:
        os._exit(INTERRUPTED)


def _repeat() -> None:
    """A library that caught everything has swallowed it: it is raised again unless the command ends."""
    global _heard_s
    if not _is_ending and signal.getsignal(signal.SIGINT) is _interrupt:
        _heard_s = None
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def end() -> None:
    """The command ends: an interrupt was not lost."""
    global _is_ending
    _is_ending = True


def _again(problem: "sys.UnraisableHookArgs") -> None:
    """An interrupt within a callback would be printed and lost: it is raised again outside of it."""
    global _heard_s
    if not issubclass(problem.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(problem)
    elif signal.getsignal(signal.SIGINT) is _interrupt:
        _heard_s = None
        signal.raise_signal(signal.SIGINT)


@contextmanager
def interruptible(connection: "duckdb.DuckDBPyConnection") -> Iterator[None]:
    """Within it Ctrl-C interrupts what `connection` is at: by itself DuckDB would come back only at the end.

    Raises:
        KeyboardInterrupt: instead of what the interruption raises.
    """
    raises = signal.getsignal(signal.SIGINT) in (_interrupt, signal.default_int_handler)
    if not raises or threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    if before != -1:
        # A notebook's event loop has it, or a query that this one is part of.
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        ear.close()
        mouth.close()
        yield
        return
    heard, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=_listen, args=(ear, connection, heard, done), daemon=True, name="ctrl-c")
    thread.start()
    try:
        yield
    except Exception:
        if heard.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.set_wakeup_fd(-1)
        done.set()
        mouth.close()
        thread.join()
        ear.close()


def _listen(
    ear: socket.socket,
    connection: "duckdb.DuckDBPyConnection",
    heard: threading.Event,
    done: threading.Event,
) -> None:
    """Interrupt `connection` once a SIGINT is told of, until whoever waits for it is done."""
    while numbers := ear.recv(64):
        if signal.SIGINT in numbers:
            heard.set()
            while not done.wait(_AGAIN_S):
                connection.interrupt()
            return
