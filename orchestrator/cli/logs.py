"""`swapyard logs`: logs of drivers and workers, and the story of one job."""

__all__ = ["logs"]

from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli.options import Incomplete, partial_option, store_option


@click.command()
@click.argument("study", required=False)
@store_option
@click.option(
    "--job", metavar="ID", help="Show what happened to one job: its job_id, or at least its first 8 digits."
)
@click.option("--driver", is_flag=True, help="Print the driver's log.")
@click.option(
    "--worker", metavar="NAME", help="Print the log of one worker, named HOST-PROCESS as in the list."
)
@click.option("--epoch", type=click.IntRange(min=1), help="Logs of this epoch [default: the newest].")
@click.option(
    "--tail",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Number of lines of a log to print; 0 for all.",
)
@partial_option
def logs(
    study: str | None,
    store: Path,
    job: str | None,
    driver: bool,
    worker: str | None,
    epoch: int | None,
    tail: int,
    partial: bool,
) -> None:
    """List the logs of STUDY (of all studies if none is named), or print one of them.

    A log is a file in STUDY/logs/EPOCH/; every run of a study is an epoch.
    """
    from orchestrator.store.study_dirs import study_folders

    if (job is not None) + driver + (worker is not None) > 1:
        raise click.UsageError("give one of --job, --driver and --worker")
    folders = study_folders(store, [study] if study else [])
    if job is not None:
        _tell_job(folders, job, partial=partial)
    elif driver or worker is not None:
        _print(folders, worker, epoch, tail)
    else:
        _list(folders, epoch)


def _tell_job(folders: Sequence[Path], job_id: str, *, partial: bool) -> None:
    from orchestrator.upkeep.job_history import find_jobs, story

    with Incomplete(partial=partial) as lacking:
        unread = lacking.study if len(folders) > 1 else None
        for number, found in enumerate(find_jobs(folders, job_id, leave_out=unread)):
            if number:
                click.echo()
            for line in story(*found, lost=lacking.study):
                click.echo(line)


def _print(folders: Sequence[Path], worker: str | None, epoch: int | None, num_lines: int) -> None:
    from orchestrator.run.logs import DRIVER
    from orchestrator.upkeep.logs import find_logs, log_of, tail

    if worker is None and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise click.UsageError(f"name a study: each has a driver's log; there are {names}")
    found = [log for folder in folders for log in find_logs(folder)]
    chosen = log_of(found, worker or DRIVER, epoch)
    click.echo(f"{chosen.path}:", err=True)
    for line in tail(chosen.path, num_lines):
        click.echo(line)


def _list(folders: Sequence[Path], epoch: int | None) -> None:
    from orchestrator.upkeep.logs import find_logs, listing

    found = [log for folder in folders for log in find_logs(folder) if epoch in (None, log.epoch)]
    if found:
        click.echo(listing(sorted(found, key=lambda log: log.changed_s)))
    else:
        click.echo("there are no logs yet", err=True)
