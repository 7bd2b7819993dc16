"""Commands by name, each loaded when it is called. Data goes to stdout, everything else to stderr."""

__all__ = ["cli"]

from importlib import import_module

import click

_COMMANDS = {
    "plan": "Show how many cells, pairs and jobs a study has, before anything runs.",
    "run": "Run a study, or go on with one that was stopped.",
    "status": "Show how far studies are.",
    "logs": "Show the logs of a run, or what happened to one job.",
    "query": "Query the results of all studies in SQL.",
    "plot": "Plot the results of a study.",
    "sites": "List the sites of a model that interventions can change.",
    "models": "List, fetch or delete models that have short names.",
    "trust": "Trust folders whose Python code studies may run.",
    "doctor": "Check this machine and its studies; repair a study.",
    "mv": "Rename or move a study.",
    "cp": "Copy a study.",
    "rm": "Remove studies.",
    "export": "Pack a study into one archive, to share it.",
    "import": "Unpack a study from an archive.",
}
"""Commands in the order of a study's life, each in the module of its name."""
_TOGETHER = {
    **dict.fromkeys(("mv", "cp", "rm", "export", "import"), "folders"),
    "plan": "run",
    "sites": "models",
    "trust": "options",
}
"""Commands that share a module, each with its name."""


class _Lazy(click.Group):
    """Group that imports a command's module only when it is called: help must come at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"orchestrator.cli.{_TOGETHER.get(cmd_name, cmd_name)}")
        found = getattr(module, "import_" if cmd_name == "import" else cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from workers.errors import nearest

            ctx.fail(
                f"no such command {args[0]!r}; there are {', '.join(_COMMANDS)}{nearest(args[0], _COMMANDS)}"
            )
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and not {"-h", "--help"} & set(rest):
            from orchestrator.machine import refuse

            refuse(name)
        return name, command, rest


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="swapyard", prog_name="swapyard")
def cli() -> None:
    """Large interchange-intervention studies: resumed at once after anything, answered in SQL.

    A study is a YAML file; its results live in ./runs/STUDY. Begin with:

        swapyard run capitals
    """
