"""The command line: one file a noun. Data goes to stdout, everything else to stderr."""

__all__ = ["console", "main"]

import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

import click

_COMMANDS = {
    "plan": "How many cells, pairs and jobs a study has, before anything runs.",
    "run": "Run a study, from wherever it stands.",
    "status": "How far studies are.",
    "logs": "What drivers and workers noted, and what happened to a job.",
    "query": "Answer a question in SQL over all studies.",
    "plot": "Draw a study's results.",
    "sites": "Where a model can be changed.",
    "models": "Models by short names: list, fetch, clear.",
    "trust": "Folders whose Python code studies may run.",
    "doctor": "Whether this machine and its studies are sound.",
    "mv": "Give a study another name or place.",
    "cp": "Copy a study.",
    "rm": "Remove studies.",
    "export": "Write a study as one archive, for others.",
    "import": "Bring back a study from an archive.",
}
"""Commands in the order of a study's life, each in the module of its name."""
_TOGETHER = dict.fromkeys(("mv", "cp", "rm", "export", "import"), "folders")
"""Those that lie in one module."""


class _Lazy(click.Group):
    """Imports a command's module only when it is called: help must come at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"orchestrator.cli.{_TOGETHER.get(cmd_name, cmd_name)}")
        found = getattr(module, "import_" if cmd_name == "import" else cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from workers.errors import nearest

            ctx.fail(
                f"no such command {args[0]!r}; there are {', '.join(_COMMANDS)}{nearest(args[0], _COMMANDS)}"
            )
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and not {"-h", "--help"} & set(rest):
            from orchestrator.needs import refuse

            refuse(name)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has had enough; what is still buffered must not be written at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="swapyard", prog_name="swapyard")
def cli() -> None:
    """Large interchange-intervention studies: resumed at once after anything, answered in SQL.

    A study is a YAML file; its results live in ./runs/STUDY. Begin with:

        swapyard run capitals
    """


def console() -> NoReturn:
    """The console's entry point: `main`, and then the end of the process.

    What was registered for the end is run, but the interpreter does not clear up after itself: where Ray and
    torch were loaded, which hold on to modules, extensions would write a page of complaints.
    """
    from workers.libraries.python import run_exit_functions

    code: str | int | None = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    is_over = run_exit_functions()
    code = code or _flushed()
    if not is_over:
        sys.exit(code)
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _flushed() -> int:
    """Write what is still held back; 1 where somebody wants it and it cannot be written."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return 0
    except OSError as error:
        _say(f"Error: the answer cannot be written: {error.strerror}", error)
        return 1
    except ValueError:
        return 0
    return 0


def main() -> None:
    """Do what the command line says: an error of ours, or a limit of the system's, is one message and an exit
    code, never a traceback."""
    # All at once: when no more files can be opened it is too late.
    import orchestrator.lines
    from workers.errors import SwapyardError
    from workers.libraries.click import interrupt_of
    from workers.limits import reached

    assert orchestrator.lines

    try:
        cli(prog_name="swapyard", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SwapyardError as error:
        _say(f"Error: {error}", error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        _say("interrupted", interrupt_of(stop))
        sys.exit(130)
    except BaseException as error:
        # Rust's panics are no Exception.
        if isinstance(error, SystemExit) or (limit := reached(error)) is None:
            raise
        _say(f"Error: {limit.line}", error)
        sys.exit(limit.exit_code)


def _say(line: str, error: BaseException) -> None:
    """The last words: what happened, then what to do about it."""
    from orchestrator.lines import plain

    for text in (line, *getattr(error, "__notes__", ())):
        click.echo(plain(text), err=True)
