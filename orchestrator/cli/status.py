"""`swapyard status`: the progress of studies, from their stores alone."""

__all__ = ["status"]

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import store_option

if TYPE_CHECKING:
    from orchestrator.upkeep.status import StudyStatus

WATCH_EVERY_S = 2.0


@click.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@store_option
@click.option("--watch", is_flag=True, help="Keep the table up to date until all is done, or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def status(studies: tuple[str, ...], store: Path, watch: bool, as_json: bool) -> None:
    """Show how far the studies in --store are, or only those named, and what to do about failed jobs.

    The exit code is 1 if a study is damaged.
    """
    from orchestrator.upkeep.status import StatusReader, read_status

    reader = StatusReader()

    def read() -> "list[StudyStatus]":
        return read_status(store, studies, reader=reader)

    if not watch:
        found = read()
        _tell(found, store, studies, as_json=as_json)
    elif as_json or not sys.stdout.isatty():
        found = _lines(read, as_json=as_json)
    else:
        found = _drawn(read)
        _tell_hints(found, store, studies)
    if any(one.damaged is not None for one in found):
        sys.exit(1)


def _tell(found: "Sequence[StudyStatus]", store: Path, studies: tuple[str, ...], *, as_json: bool) -> None:
    from orchestrator.upkeep.status import show

    click.echo(json.dumps([one.to_json() for one in found]) if as_json else show(found))
    if not as_json:
        _tell_hints(found, store, studies)


def _tell_hints(found: "Sequence[StudyStatus]", store: Path, studies: tuple[str, ...]) -> None:
    """Say what to look at where something went wrong, and which studies are copies."""
    from orchestrator.store.study_dirs import study_folders, without_copies
    from orchestrator.upkeep.status import hints

    without_copies(study_folders(store, studies), lambda line: click.echo(line, err=True))
    for line in hints(found, store):
        click.echo(line, err=True)


def _is_over(found: "Sequence[StudyStatus]") -> bool:
    return all(one.is_complete or one.damaged for one in found)


def _lines(read: Callable[[], "list[StudyStatus]"], *, as_json: bool) -> "list[StudyStatus]":
    """Say every change, a line a study; the last that was read."""
    from orchestrator.upkeep.status import Rates

    rates, said = Rates(), ""
    while True:
        found = read()
        told = rates.of(found)
        text = (
            json.dumps([one.to_json() for one in found]) if as_json else "\n".join(rates.lines(found, told))
        )
        if as_json or text != said:
            click.echo(text)
        said = text
        if _is_over(found):
            return found
        time.sleep(WATCH_EVERY_S)


def _drawn(read: Callable[[], "list[StudyStatus]"]) -> "list[StudyStatus]":
    """Draw the table in place, with the rate since the last look; the last that was read."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from orchestrator.upkeep.status import Rates, show

    rates = Rates()
    found = read()
    console = Console(highlight=False)

    def table() -> Text:
        return Text(show(found, rates.of(found)), no_wrap=True, overflow="ellipsis")

    with Live(table(), console=console, auto_refresh=False) as live:
        while not _is_over(found):
            time.sleep(WATCH_EVERY_S)
            found = read()
            live.update(table(), refresh=True)
    return found
