"""`swapyard mv`, `cp`, `rm`, `export`, `import`: whole studies, each with its identity."""

__all__ = ["cp", "export", "import_", "mv", "rm"]

import sys
from pathlib import Path

import click

from orchestrator.cli.options import store_option

_to_option = click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Store that it goes to.  [default: that of --store]",
)


@click.command()
@click.argument("study", metavar="STUDY")
@click.argument("name", metavar="[NAME]", required=False)
@_to_option
@click.option("--renew", is_flag=True, help="Make it a study of its own, called NAME.")
@store_option
def mv(study: str, name: str | None, to: Path | None, renew: bool, store: Path) -> None:
    """Give STUDY another name or place. It stays the study that it is: `swapyard run` goes on with it.

    Refused while a driver is at work.
    """
    from orchestrator.store.moves import move

    folder, target = _places(study, name, store, to)
    done = move(folder, target, renew=renew)
    click.echo(f"{folder} is {target} now, {done.num_rows:,} rows{_own(done.is_renewed)}", err=True)


@click.command()
@click.argument("study", metavar="STUDY")
@click.argument("name", metavar="[NAME]", required=False)
@_to_option
@click.option("--keep", is_flag=True, help="Keep its identity: a backup in another store.")
@store_option
def cp(study: str, name: str | None, to: Path | None, keep: bool, store: Path) -> None:
    """Copy STUDY: NAME is a study of its own, with all results so far. May run beside a driver.

    To go on with the copy, call it NAME in the study file.
    """
    from orchestrator.store.moves import copy

    folder, target = _places(study, name, store, to)
    if keep and target.parent.resolve() == folder.parent.resolve():
        raise click.UsageError("--keep makes a second copy of one study, which a store counts once; add --to")
    done = copy(folder, target, keep=keep)
    click.echo(f"{folder} is copied to {target}, {done.num_rows:,} rows{_own(done.is_renewed)}", err=True)


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def rm(studies: tuple[str, ...], yes: bool, store: Path) -> None:
    """Remove studies for good, with all that they hold. Refused while a driver is at work."""
    from orchestrator.store.moves import remove, users_of
    from orchestrator.store.study_dirs import study_folders
    from orchestrator.upkeep.status import read_status, show

    folders = study_folders(store, studies)
    for folder in folders:
        if users := users_of(folder):
            click.echo(f"models that {folder.name} trained are swept by {', '.join(users)}", err=True)
    if not yes:
        click.echo(show(read_status(store, studies)), err=True)
        if not sys.stdin.isatty():
            raise click.UsageError("nothing was removed; add --yes to remove what is listed")
        click.confirm("remove all of this for good?", abort=True, err=True)
    for folder in folders:
        remove(folder)
        click.echo(f"{folder} is removed", err=True)


@click.command()
@click.argument("study", metavar="STUDY")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Archive to write.  [default: STUDY.zip]",
)
@store_option
def export(study: str, output: Path | None, store: Path) -> None:
    """Write STUDY as one archive: a README, the study file, versions, plain Parquet, and the study itself.

    May run beside a driver: what is committed by now is in it.
    """
    from orchestrator.query.archive import export_study
    from orchestrator.store.study_dirs import study_folders

    (folder,) = study_folders(store, [study])
    path = Path(f"{folder.name}.zip") if output is None else output
    done = export_study(folder, path, say=lambda line: click.echo(line, err=True))
    click.echo(f"{done.num_rows:,} rows, {done.size_bytes:,} bytes", err=True)
    click.echo(str(done.path))


@click.command("import")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--renew", is_flag=True, help="Make it a study of its own, with the name of its folder.")
@store_option
def import_(archive: Path, name: str | None, renew: bool, store: Path) -> None:
    """Unpack the study of an ARCHIVE that `swapyard export` made into --store, every bit checked."""
    from orchestrator.query.archive import import_study

    done = import_study(archive, store, name, renew=renew)
    click.echo(f"{archive} is {done.folder} now, {done.num_rows:,} rows{_own(done.is_renewed)}", err=True)


def _places(study: str, name: str | None, store: Path, to: Path | None) -> tuple[Path, Path]:
    """The folder of a study, and where it is to go."""
    from orchestrator.store.moves import target_of
    from orchestrator.store.study_dirs import study_folders

    if name is None and to is None:
        raise click.UsageError("say where to: a NAME, or another store with --to")
    (folder,) = study_folders(store, [study])
    place, called = store if to is None else to, folder.name if name is None else name
    if (place / called).resolve() == folder.resolve():
        raise click.UsageError(
            f"{folder} is there already, and called so; give another NAME, or another --to"
        )
    return folder, target_of(place, called)


def _own(is_renewed: bool) -> str:
    return ", a study of its own" if is_renewed else ""
