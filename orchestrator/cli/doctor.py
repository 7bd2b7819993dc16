"""`swapyard doctor`: checks of this machine, its file system and its studies."""

__all__ = ["doctor"]

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import store_option

if TYPE_CHECKING:
    from orchestrator.upkeep.doctor import Advance


@click.command()
@click.argument("names", nargs=-1, metavar="[STUDY|MODEL]...")
@click.option("--repair", is_flag=True, help="Rebuild a lost log, and drop files that are lost or damaged.")
@click.option("--clear", is_flag=True, help="List the files of rows that no commit names, and remove them.")
@click.option("--yes", is_flag=True, help="Clear without asking.")
@store_option
def doctor(names: tuple[str, ...], repair: bool, clear: bool, yes: bool, store: Path) -> None:
    """Check this machine, and every byte of the results of all studies in --store, or of those named.

    A MODEL (a short name, a folder, a hub id, zoo:NAME) is loaded, to tell how fast its jobs run, and why.

    Each finding is one line; the exit code is 1 if one is a problem. --repair and --clear first act on the
    studies named; --repair changes and removes no file.
    """
    if repair or clear:
        if not names:
            raise click.UsageError("name the studies that are to be repaired or cleared")
        for name in names:
            _repair(store, name) if repair else None
            _clear(store, name, yes=yes) if clear else None
    from orchestrator.store.study_dirs import find_studies, study_folders
    from orchestrator.text_tables import plain
    from orchestrator.upkeep.doctor import examine_machine, examine_model, examine_study, is_model, num_bytes

    known = {folder.name for folder in find_studies(store)}
    models = [name for name in names if name not in known and is_model(name)]
    studies = [name for name in names if name not in models]
    folders = study_folders(store, studies) if studies else [] if models else find_studies(store)
    num_problems = 0
    for finding in examine_machine(store):
        num_problems += finding.level == "problem"
        click.echo(plain(str(finding)))
    for folder in folders:
        click.echo(f"\n{plain(folder.name)}")
        with _bar(num_bytes(folder)) as advance:
            findings = list(examine_study(folder, advance))
        num_problems += sum(finding.level == "problem" for finding in findings)
        for finding in findings:
            click.echo(plain(str(finding)))
    for model in models:
        click.echo(f"\n{plain(model)}")
        for finding in examine_model(model):
            num_problems += finding.level == "problem"
            click.echo(plain(str(finding)))
    if num_problems:
        from workers.errors import counted

        click.echo(f"\n{counted(num_problems, 'problem')}", err=True)
        sys.exit(1)


def _repair(store: Path, name: str) -> None:
    """Repair one study, and say what was done."""
    from orchestrator.store.study_dirs import study_folders
    from orchestrator.text_tables import plain
    from orchestrator.upkeep.lost import repair_study

    (folder,) = study_folders(store, [name])
    lines = repair_study(folder)
    for line in lines or ("nothing is to be repaired",):
        click.echo(plain(f"{'repaired' if lines else 'ok':<9}{folder.name}: {line}"))


def _clear(store: Path, name: str, *, yes: bool) -> None:
    """List what one study does not name, and remove it where that is wanted."""
    from orchestrator.store.repair import clear, unnamed
    from orchestrator.store.study_dirs import study_folders
    from orchestrator.text_tables import plain
    from workers.errors import counted

    (folder,) = study_folders(store, [name])
    found = unnamed(folder)
    for one in found:
        click.echo(plain(f"{'unnamed':<9}{folder / one.name}: {one.what}, {one.size_bytes:,} bytes"))
    if not found:
        click.echo(plain(f"{'ok':<9}{folder.name}: there is nothing to clear"))
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nothing was removed; add --yes to remove what is listed")
        click.confirm(f"remove these {len(found):,} files for good?", abort=True)
    cleared = clear(folder, [one.name for one in found])
    click.echo(plain(f"{'cleared':<9}{folder.name}: {counted(len(cleared), 'file')}"))


@contextmanager
def _bar(size_bytes: int) -> "Iterator[Advance]":
    """A bar on a terminal while `size_bytes` are checked; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(None), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking", total=size_bytes)
        yield lambda num: bar.advance(task, num)
