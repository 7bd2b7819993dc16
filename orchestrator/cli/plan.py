"""`swapyard plan`: what a study would do."""

__all__ = ["plan"]

import json
from pathlib import Path

import click

from orchestrator.cli.options import (
    asker,
    remote_code_option,
    store_option,
    study_argument,
    trust_option,
)


@click.command()
@study_argument
@store_option
@click.option(
    "--prepare", is_flag=True, help="Run the prompts once without interventions, where that is open."
)
@trust_option
@remote_code_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def plan(study: str, store: Path, prepare: bool, trust: bool, remote_code: bool, as_json: bool) -> None:
    """Show how many cells, pairs and jobs STUDY has, and how many of them are done.

    STUDY is a study file, the name of a bundled study, or of one below --store.

    Nothing is run, unless --prepare is given: which pairs a filter keeps only the model can tell, and
    until it was asked the numbers are bounds.
    """
    from orchestrator.overview import overview
    from orchestrator.roots import load_named
    from orchestrator.trust import allowed_study

    def say(line: str) -> None:
        click.echo(line, err=True)

    loaded = allowed_study(load_named(study, store), trust=trust, remote_code=remote_code, ask=asker())
    found = overview(loaded, store, prepare=prepare, say=say)
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(found.lines()))
