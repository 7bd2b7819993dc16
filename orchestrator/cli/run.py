"""`swapyard plan` and `swapyard run`: the numbers of a study before anything runs, and the run itself."""

__all__ = ["plan", "run"]

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from orchestrator.cli.options import (
    asker,
    remote_code_option,
    run_options,
    store_option,
    study_argument,
    trust_option,
)
from orchestrator.interrupts import INTERRUPTED
from orchestrator.machine import num_cores
from orchestrator.run.options import options_of

if TYPE_CHECKING:
    from orchestrator.run.driver import Outcome
    from workers.code.places import Code


@click.command()
@study_argument
@store_option
@click.option(
    "--prepare", is_flag=True, help="Run the prompts once without interventions, where filters need it."
)
@trust_option
@remote_code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def plan(study: str, store: Path, prepare: bool, trust: bool, remote_code: bool, as_json: bool) -> None:
    """Show how many cells, pairs and jobs STUDY has, and how many of them are done.

    STUDY is a study file, the name of a bundled study, or of one below --store.

    No model is run, unless --prepare is given. Only the model can tell which pairs a filter keeps: until it
    has run, the numbers are upper bounds.
    """
    from orchestrator.run.overview import overview
    from orchestrator.store.study_dirs import load_named
    from orchestrator.trust import allowed_study

    def say(line: str) -> None:
        click.echo(line, err=True)

    loaded = allowed_study(load_named(study, store), trust=trust, remote_code=remote_code, ask=asker())
    found = overview(loaded, store, prepare=prepare, say=say)
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(found.lines()))


FINISHED_WITH_FAILURES = 3


@click.command()
@study_argument
@store_option
@run_options
@trust_option
@remote_code_option
@click.option(
    "--plots/--no-plots", default=True, show_default=True, help="Draw the study's plots at the end."
)
def run(
    study: str,
    store: Path,
    trust: bool,
    remote_code: bool,
    plots: bool,
    **given: Any,
) -> None:
    """Run STUDY: a study file, or the name of a bundled or stored study.

    If it is stopped or killed at any moment, the same command goes on from there. Exit codes: 0 complete, or
    stopped by --limit or --max-time; 1 error, 2 usage, 3 failed jobs, 4 storage full, 5 another driver holds
    the study, 130 interrupted.
    """
    options = options_of(given)
    if options.error_types and not options.retry_failed:
        raise click.BadParameter(
            "says which failed jobs run again, with --retry-failed", param_hint="--error-type"
        )
    if options.num_workers is not None and options.address is None:
        _check_workers(options.num_workers, options.executor)
    with _resumable():
        from orchestrator.run.driver import run_study
        from orchestrator.run.progress import Progress
        from orchestrator.store.study_dirs import home_of, load_named
        from orchestrator.trust import allowed_study

        loaded = allowed_study(load_named(study, store), trust=trust, remote_code=remote_code, ask=asker())
        # Ray prints what it thinks of workers that died; we say it ourselves, on stderr.
        with Progress() as progress, redirect_stdout(_nowhere()):
            root = home_of(store, loaded.study, progress.say)
            outcome = run_study(loaded, root, options, progress)
    _finish(outcome, plots=plots, code=loaded.code)


def _finish(outcome: "Outcome", *, plots: bool, code: "Code") -> None:
    """Say how a run ended, show what it found, and end with the code that says the same."""
    root = outcome.root
    from orchestrator.query.summary import ending

    click.echo(ending(outcome), err=True)
    if outcome.stopped is not None:
        click.echo(f"to go on: {command_line()}", err=True)
    if outcome.stopped == "interrupted":
        sys.exit(INTERRUPTED)
    _answer(root)
    if outcome.counts.num_estimates and outcome.counts.is_complete:
        _tell_recall(root)
    if plots:
        _draw(root, code)
    if num_failed := outcome.counts.num_failed:
        query = ["swapyard", "query", "FROM failures", "--study", root.name, "--store", str(root.parent)]
        from workers.errors import counted

        click.echo(f"{counted(num_failed, 'job')} failed; to see why: {shlex.join(query)}", err=True)
        sys.exit(FINISHED_WITH_FAILURES)


@cache
def _nowhere() -> TextIO:
    """A stream that nobody reads. Ray's colorama keeps the one that it first sees, so it is never closed."""
    return Path(os.devnull).open("w")


def _check_workers(workers: int, executor: str) -> None:
    """Refuse before any work what cannot be had on this machine."""
    cores = num_cores()
    if executor == "inline" and workers > 1:
        raise click.BadParameter("inline is one worker in this process", param_hint="--workers")
    if workers > cores:
        raise click.BadParameter(f"{workers}: this machine has {cores} cores", param_hint="--workers")


def command_line() -> str:
    """The command that this process was started with, to be pasted into a shell."""
    started_as = sys.argv[0]
    name = Path(started_as).name
    on_path = shutil.which(name)
    is_short = on_path is not None and Path(on_path).resolve() == Path(started_as).resolve()
    return shlex.join([name if is_short else started_as, *sys.argv[1:]])


@contextmanager
def _resumable() -> Iterator[None]:
    """Within it whatever ends a run also says how to go on, unless the same command would end the same."""
    from workers.errors import ClusterError, ModelError, RunError, StorageFullError, StoreError, StudyError

    try:
        yield
    except BrokenPipeError as error:
        # Our output is written after this: it is another process that went away.
        raise RunError(f"a connection broke ({error}); run the same command again") from error
    except BaseException as error:
        is_lasting = isinstance(error, StudyError | ModelError | StoreError | ClusterError)
        if isinstance(error, StorageFullError) or not is_lasting:
            error.add_note(f"to go on: {command_line()}")
        raise


def _answer(root: Path) -> None:
    """Show where the study found most; rows that cannot be read take nothing from a study that is done."""
    from orchestrator.query.summary import answer
    from workers.errors import QueryError, StoreError

    try:
        if (shown := answer(root)) is not None:
            click.echo(shown)
    except (QueryError, StoreError) as error:
        click.echo(f"no table: {error}", err=True)


def _tell_recall(root: Path) -> None:
    """Say how many of the largest effects the screening found; what cannot be measured takes nothing away."""
    from orchestrator.query.summary import recall_lines
    from workers.errors import QueryError, StoreError

    try:
        for line in recall_lines(root):
            click.echo(line, err=True)
    except (QueryError, StoreError) as error:
        click.echo(f"no recall: {error}", err=True)


def _draw(root: Path, code: "Code") -> None:
    """Draw the study's plots; one that cannot be drawn takes nothing from a study that is done."""
    from orchestrator.plots import draw_study
    from workers.errors import QueryError, StoreError

    def failed(name: str, error: QueryError) -> None:
        click.echo(f"no picture {name}: {error}", err=True)

    def told(name: str, over: str) -> None:
        click.echo(f"picture {name}: {over}", err=True)

    try:
        for path in draw_study(root, failed, told, code=code):
            click.echo(f"drew {path}", err=True)
    except (QueryError, StoreError) as error:
        click.echo(f"no picture: {error}", err=True)
