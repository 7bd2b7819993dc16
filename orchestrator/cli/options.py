"""Options that several commands share."""

__all__ = ["store_option", "study_argument"]

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
