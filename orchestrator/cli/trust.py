"""`swapyard trust`: folders whose Python code studies may run."""

__all__ = ["trust"]

from pathlib import Path

import click


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
    from orchestrator.lines import plain
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
