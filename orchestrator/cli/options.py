"""Options that several commands share."""

__all__ = ["leave_out", "store_option", "study_argument"]

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import click

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="The folder that studies lie in.",
)

study_argument = click.argument("study", metavar="STUDY")


def leave_out(names: Sequence[str]) -> Callable[[str], None] | None:
    """Says on stderr, once, which study cannot be read; None where studies are named: then it is an error."""
    return None if names else cache(lambda line: click.echo(line, err=True))
