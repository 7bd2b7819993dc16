"""Promise: the options of a run are told once: the command line, Python and the classes have the same names,
types of values and defaults, and every option is in the help."""

import inspect

import click
import pytest
from click.testing import CliRunner

import swapyard as sy
from orchestrator.cli.options import run_options
from orchestrator.run.options import RunOptions, flags_of, options_of


@click.command()
@run_options
@click.pass_context
def command(context: click.Context, /, **given: object) -> None:
    context.obj.append(options_of(given))


def parsed(*arguments: str) -> RunOptions:
    found: list[RunOptions] = []
    result = CliRunner().invoke(command, arguments, obj=found, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_without_flags_the_options_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert parsed() == RunOptions() == options_of({})


def test_flags_fill_the_options_and_their_limits() -> None:
    flags = ("--workers", "3", "--max-time", "2m", "--limit", "7", "--retry-failed", "--error-type", "A")
    assert parsed(*flags, "--error-type", "B", "--address", "auto") == RunOptions(
        num_workers=3,
        limits=sy.Limits(jobs=7, seconds=120.0),
        retry_failed=True,
        error_types=("A", "B"),
        address="auto",
    )


def test_python_has_the_same_options_with_the_same_defaults() -> None:
    parameters = inspect.signature(sy.run).parameters
    defaults = {name: default for name, (_, default) in flags_of().items()}
    named = defaults.keys() & parameters.keys()
    assert defaults.keys() - named == {"jobs", "seconds", "failures"}
    assert {name: parameters[name].default for name in named} == {name: defaults[name] for name in named}
    assert parameters["limits"].default == sy.Limits()


def test_every_option_is_in_the_help() -> None:
    said = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for flag, _ in flags_of().values():
        assert flag.name in said and flag.help[:20] in said
