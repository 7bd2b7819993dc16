"""The command line: one file a noun (`commands` lists them). Data goes to stdout, everything else to stderr.

This file loads next to nothing, so that Ctrl-C is heard from the first moments on.
"""

__all__ = ["cli", "console", "main"]

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from orchestrator.interrupts import INTERRUPTED, end, hear, was_heard

if TYPE_CHECKING:
    from orchestrator.cli.commands import cli


def __getattr__(name: str) -> object:
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator.cli.commands import cli

    return cli


def console() -> NoReturn:
    """The console's entry point: `main`, and then the end of the process.

    What was registered for the end is run, but the interpreter does not clear up after itself: where Ray and
    torch were loaded, which hold on to modules, extensions would write a page of complaints.
    """
    hear()
    try:
        code = _ended()
    except KeyboardInterrupt:
        # It came in between: what there was to say is said, or was not begun.
        code = INTERRUPTED
    os._exit(code)


def _ended() -> int:
    """Do what the command line says, let what was registered for the end run; the exit code."""
    import threading

    from orchestrator.cli.streams import flushed, guard_streams
    from workers.libraries.python import run_exit_functions

    guard_streams()
    code: str | int | None = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    is_over = run_exit_functions()
    lacking = flushed()
    if not is_over:
        sys.exit(code or lacking)
    return code if isinstance(code, int) and code else lacking if code in (0, None) else 1


def main() -> None:
    """Do what the command line says: an error of ours, or a limit of the system's, is one message and an exit
    code, never a traceback."""
    try:
        _main()
    except KeyboardInterrupt:
        _interrupted()


def _main() -> None:
    import click

    # All at once: when no more files can be opened it is too late.
    import orchestrator.text_tables
    from orchestrator.cli.commands import cli
    from orchestrator.cli.streams import NoReaderError, UnwritableError, drop_output
    from workers.errors import SwapyardError
    from workers.libraries.click import interrupt_of
    from workers.limits import reached

    assert orchestrator.text_tables

    try:
        cli(prog_name="swapyard", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        _interrupted(interrupt_of(stop))
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if was_heard():
            # Whoever was interrupted says so in words of its own.
            _interrupted(error)
        if isinstance(error, NoReaderError):
            drop_output()
            sys.exit(0)
        if isinstance(error, click.ClickException):
            error.show()
            sys.exit(error.exit_code)
        if isinstance(error, SwapyardError):
            _say(f"Error: {error}", error)
            sys.exit(error.exit_code)
        if isinstance(error, UnwritableError):
            drop_output()
            _say(f"Error: the answer cannot be written: {error.strerror}", error)
            sys.exit(error.exit_code)
        # Rust's panics are no Exception.
        if (limit := reached(error)) is None:
            raise
        _say(f"Error: {limit.line}", error)
        sys.exit(limit.exit_code)


def _interrupted(stop: BaseException | None = None) -> NoReturn:
    """Say so, and how to go on where that is known; the exit code is what shells have for it."""
    from orchestrator.cli.streams import drop_output

    end()
    drop_output()
    _say("interrupted", stop)
    sys.exit(INTERRUPTED)


def _say(line: str, error: BaseException | None) -> None:
    """The last words: what happened, then what to do about it."""
    import click

    from orchestrator.text_tables import plain

    for text in (line, *getattr(error, "__notes__", ())):
        click.echo(plain(text), err=True)
