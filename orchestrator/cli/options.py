"""Options that several commands share, and the question that trust is asked for by."""

__all__ = [
    "asker",
    "duration",
    "remote_code_option",
    "run_options",
    "store_option",
    "study_argument",
    "trust_option",
]

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.run.options import Flag, flags_of

if TYPE_CHECKING:
    from orchestrator.trust import Answer, Ask

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
    help="The folder that studies lie in.",
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
    """Who can be asked whether a folder is trusted: the user at a terminal, else nobody."""
    return _ask if sys.stdin.isatty() and sys.stderr.isatty() else None


def _ask(folder: Path, files: Sequence[Path]) -> "Answer":
    """One question that names what would run."""
    from orchestrator.lines import plain

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
