"""`swapyard status`: how far studies are, from their stores alone."""

__all__ = ["status"]

import json
import sys
import time
from pathlib import Path

import click

from orchestrator.cli.options import store_option

WATCH_EVERY_S = 2.0


@click.command()
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@store_option
@click.option("--watch", is_flag=True, help="Go on showing, until all is done or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def status(studies: tuple[str, ...], store: Path, watch: bool, as_json: bool) -> None:
    """Show how far the studies below --store are, or only those named, and what to do where jobs failed.

    Exit code 1 where one is damaged.
    """
    from orchestrator.roots import study_folders, without_copies
    from orchestrator.status import StatusReader, hints, read_status, show

    reader = StatusReader()
    while True:
        found = read_status(store, studies, reader=reader)
        click.echo(json.dumps([one.to_json() for one in found]) if as_json else show(found))
        if not as_json:
            without_copies(study_folders(store, studies), lambda line: click.echo(line, err=True))
        for line in [] if as_json else hints(found, store):
            click.echo(line, err=True)
        if not watch or all(one.is_complete or one.damaged for one in found):
            break
        time.sleep(WATCH_EVERY_S)
    if any(one.damaged is not None for one in found):
        sys.exit(1)
