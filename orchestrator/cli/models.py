"""``swapyard models``: which models have short names, where the cache lies, fetching and clearing."""

__all__ = ["models", "options_of"]

from typing import TYPE_CHECKING

import click
from click.formatting import wrap_text

if TYPE_CHECKING:
    from workers.zoo.configs import ZooConfig


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List the short names of models, what is fetched, the built-in models, and which families resume.

    Any hub id and any local folder works as a model, too.
    """
    if context.invoked_subcommand is None:
        _list()


@models.command()
@click.argument("ref")
@click.option("--revision", metavar="REV", help="A branch, tag or commit of a hub model.")
def fetch(ref: str, revision: str | None) -> None:
    """Bring the model REF (alias or hub id) onto this machine and print its folder."""
    from workers.errors import ModelError
    from workers.model.references import resolve
    from workers.vocabulary import ModelSpec

    if ref.startswith("zoo:"):
        raise ModelError(f"model {ref!r} is built in: there is nothing to fetch; name it in a study")
    facts = resolve(ModelSpec(ref=ref, revision=revision), say=lambda line: click.echo(line, err=True))
    click.echo(facts.folder)


@models.command()
@click.argument("ref", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(ref: str | None, yes: bool) -> None:
    """Delete the fetched model REF, or the whole cache."""
    from workers.errors import ModelError
    from workers.model import cache
    from workers.model.fetch import SOURCES

    if ref is not None and ref not in SOURCES:
        raise ModelError(
            f"model {ref!r} is not in swapyard's cache, which can hold {', '.join(SOURCES)}; "
            "hub models lie in the hub's own cache: see 'hf cache rm --help'"
        )
    folder = cache.cache_folder() if ref is None else cache.models_folder() / ref
    if not folder.exists():
        click.echo(f"nothing to clear in {folder}", err=True)
        return
    if not yes:
        click.confirm(f"Delete {folder} ({_megabytes(cache.size_bytes(folder))})?", abort=True, err=True)
    click.echo(f"freed {_megabytes(cache.clear(folder))}", err=True)


def _list() -> None:
    from workers.model import cache
    from workers.model.fetch import SOURCES
    from workers.model.references import ALIASES, find
    from workers.zoo.configs import ZOO

    for name, alias in ALIASES.items():
        folder = find(name)
        state = "not fetched" if folder is None else f"fetched, {_megabytes(cache.size_bytes(folder))}"
        pinned = f" (revision {SOURCES[name].pin.revision[:12]})" if name in SOURCES else ""
        click.echo(f"{name:<14}  {state:<18}  {alias.about}{pinned}")
    for config in ZOO.values():
        click.echo(f"{f'zoo:{config.name}':<14}  {'built in':<18}  {config.about}")
        click.echo(f"{'':<36}{options_of(config)}")
    _list_families()
    here = cache.cache_folder()
    click.echo(f"\ncache: {here} ({_megabytes(cache.size_bytes(here))}; 'swapyard models clear' empties it)")


def _list_families() -> None:
    from workers.replay.families import HOOKED, LEVEL, RESUMED

    reasons = (f"{name} ({reason})" for name, reason in HOOKED.items())
    for title, names in (
        ("resumed: jobs run from the first block and token that they change", RESUMED),
        ("resumed, with all rows of a forward from one block", LEVEL),
        ("hooked: jobs run the whole model", reasons),
    ):
        click.echo(f"\n{title}")
        click.echo(wrap_text(", ".join(names), 100, "  ", "  "))
    click.echo("\nWhich of these a model does, of these families or any other, is checked when it is loaded.")


def options_of(config: "type[ZooConfig]") -> str:
    """The options of a built-in model: those that it needs, then those that it has defaults for."""
    fields = config.model_fields.items()
    needed = ", ".join(name for name, field in fields if field.is_required())
    others = ", ".join(f"{name}={field.default}" for name, field in fields if not field.is_required())
    return f"needs {needed}; has {others}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
