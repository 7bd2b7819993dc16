"""Options that several commands share."""

__all__ = ["duration", "store_option", "study_argument"]

import re
from pathlib import Path

import click

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
