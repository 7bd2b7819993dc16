"""`swapyard run`: run a study, from wherever it stands."""

__all__ = ["run"]

import sys
from pathlib import Path
from typing import Literal

import click

from orchestrator.cli.options import store_option, study_argument

FINISHED_WITH_FAILURES = 3
INTERRUPTED = 130


@click.command()
@study_argument
@store_option
@click.option(
    "--executor",
    type=click.Choice(["auto", "inline", "ray"]),
    default="auto",
    show_default=True,
    help="Where jobs run: in this process, or on Ray's workers. auto takes Ray for longer studies.",
)
@click.option("--workers", type=click.IntRange(min=1), help="How many workers [default: as many as fit].")
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    help="An existing Ray cluster, such as auto or 10.0.0.1:6379 [default: a local Ray of our own].",
)
@click.option("--take-over", is_flag=True, help="Take the study from another driver that holds it.")
@click.option(
    "--plots/--no-plots", default=True, show_default=True, help="Draw the study's plots at the end."
)
def run(
    study: str,
    store: Path,
    executor: Literal["auto", "inline", "ray"],
    workers: int | None,
    address: str | None,
    take_over: bool,
    plots: bool,
) -> None:
    """Run STUDY, a study file or the name of a bundled study, from wherever it stands.

    Killed at any moment, the same command goes on. Exit codes: 0 complete, 1 error, 2 usage, 3 finished
    with failed jobs, 4 storage full, 5 another driver holds the study, 130 interrupted.
    """
    from orchestrator.answer import answer
    from orchestrator.driver import run_study
    from orchestrator.progress import Progress
    from orchestrator.setup import RunOptions
    from studies import load_study

    loaded = load_study(study)
    root = store / loaded.study
    options = RunOptions(executor=executor, num_workers=workers, address=address, take_over=take_over)
    with Progress() as progress:
        try:
            outcome = run_study(loaded, root, options, progress)
        except BaseException:
            click.echo(f"to go on: {_command()}", err=True)
            raise
    counts = outcome.counts
    if outcome.interrupted:
        click.echo(
            f"interrupted at {counts.num_done:,} of {counts.num_jobs:,} jobs, all of them kept", err=True
        )
        click.echo(f"to go on: {_command()}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(
        f"{loaded.study}: {counts.num_done:,} jobs done, {outcome.num_ran:,} of them in these"
        f" {outcome.seconds:,.0f} s; results in {root}",
        err=True,
    )
    click.echo(answer(root))
    if plots:
        for path in _draw(root):
            click.echo(f"drew {path}", err=True)
    if counts.num_failed:
        click.echo(
            f"{counts.num_failed:,} jobs failed: swapyard query 'FROM failures' --store {store}", err=True
        )
        sys.exit(FINISHED_WITH_FAILURES)


def _draw(root: Path) -> list[Path]:
    from orchestrator.plots import draw_study

    return draw_study(root)


def _command() -> str:
    import shlex

    return shlex.join(["swapyard", *sys.argv[1:]])
