"""Options that several commands share; `swapyard trust`, and the question that asks for trust."""

__all__ = [
    "Incomplete",
    "asker",
    "duration",
    "partial_option",
    "remote_code_option",
    "run_options",
    "store_option",
    "study_argument",
    "trust",
    "trust_option",
]

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from orchestrator.run.options import Flag, flags_of

if TYPE_CHECKING:
    from orchestrator.trust import Answer, Ask
    from orchestrator.upkeep.lost import Lost

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """A time such as ``90``, ``90s``, ``30m``, ``1.5h`` or ``2d``, as seconds.

    Raises:
        click.BadParameter: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if seconds <= 0:
        raise click.BadParameter(f"{text!r} is no time; write it as 90s, 30m, 8h or 2d")
    return seconds


store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder that holds the studies.",
)

study_argument = click.argument("study", metavar="STUDY")

trust_option = click.option(
    "--trust", is_flag=True, help="Run the Python code beside the study file, this once; see: swapyard trust."
)

remote_code_option = click.option(
    "--trust-remote-code",
    "remote_code",
    is_flag=True,
    help="Run the Python code in the model's own folder, this once.",
)


def run_options(command: _Command) -> _Command:
    """Add the flags of `orchestrator.run.options`; the command gets their values by the fields' names."""
    for name, (flag, default) in reversed([*flags_of().items()]):
        more: dict[str, Any] = {"help": flag.help, "metavar": flag.metavar, "envvar": flag.variable}
        if flag.kind == "switch":
            more["is_flag"] = True
        elif flag.repeatable:
            more["multiple"] = True
        elif default is not None:
            more |= {"default": default, "show_default": True}
        command = click.option(flag.name, name, type=_type_of(flag), **more)(command)
    return command


def _type_of(flag: Flag) -> "click.ParamType[Any] | Callable[[str], float] | None":
    if flag.choices:
        return click.Choice(flag.choices)
    if flag.kind == "count":
        return click.IntRange(min=flag.least)
    return duration if flag.kind == "duration" else None


def asker() -> "Ask | None":
    """Question whether a folder is trusted, where a user at a terminal can be asked; else None."""
    return _ask if sys.stdin.isatty() and sys.stderr.isatty() else None


def _ask(folder: Path, files: Sequence[Path]) -> "Answer":
    """One question that names what would run."""
    from orchestrator.text_tables import plain

    click.echo(plain(f"The study would run Python code of its folder {folder}:"), err=True)
    for file in files:
        click.echo(plain(f"  {file.relative_to(folder)}"), err=True)
    text = "Do you trust it? yes (this once), no, or always here"
    answer: Answer = click.prompt(text, value_proc=_chosen, default="no", err=True)
    return answer


def _chosen(text: str) -> "Answer":
    answers: Sequence[Answer] = ("yes", "no", "always")
    for answer in answers:
        # The first letter will do.
        if text.strip() and answer.startswith(text.strip().lower()):
            return answer
    raise click.UsageError("answer yes, no or always")


partial_option = click.option(
    "--partial", is_flag=True, help="Exit with 0, not 1, if studies or rows are missing from the answer."
)


class Incomplete:
    """Context of an answer that may lack something: this is said at its end, and the command ends with 1."""

    def __init__(self, *, partial: bool) -> None:
        self._partial = partial
        self._lines: dict[str, None] = {}

    def study(self, line: str) -> None:
        """A study is left out; `line` says which, and why."""
        self._lines[line] = None

    def rows(self, lost: "Lost") -> None:
        """Rows of a study are lost."""
        self._lines.update(dict.fromkeys(lost.lines()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from orchestrator.text_tables import plain

        for line in self._lines:
            click.echo(plain(line), err=True)
        if self._lines and kind is None:
            if self._partial:
                return
            click.echo("the answer is of the rest; with --partial that is no error", err=True)
            sys.exit(1)


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--list", "is_list", is_flag=True, help="List the folders that are trusted, and change nothing."
)
@click.option("--remove", is_flag=True, help="Trust FOLDER no longer.")
def trust(folder: Path | None, is_list: bool, remove: bool) -> None:
    """Trust the Python code in FOLDER, and in all below it: studies there may run their own functions.

    It is kept in your own configuration, and holds also when files there change. Without it, code beside a
    study file is run by no command.
    """
    from orchestrator.text_tables import plain
    from orchestrator.trust import forget, remember, trusted_folders

    if is_list == (folder is not None):
        raise click.UsageError("give a FOLDER, or --list")
    if folder is None:
        if remove:
            raise click.UsageError("name the FOLDER that is to be removed from the list")
        for one in trusted_folders():
            click.echo(plain(str(one)))
    elif remove:
        click.echo(plain(f"no longer trusted: {forget(folder)}"))
    else:
        click.echo(plain(f"trusted, with all below it: {remember(folder)}"))
