"""`swapyard models` and `swapyard sites`: short names, the cache, and the sites that a model has."""

__all__ = ["models", "options_of", "sites"]

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click
from click.formatting import wrap_text

from orchestrator.cli.options import remote_code_option

if TYPE_CHECKING:
    from workers.model.facts import ModelFacts
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
    from workers.engine.replay.families import HOOKED, LEVEL, RESUMED

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


_SMALL = {"width": 8, "num_layers": 2, "outputs": 2, "seed": 0, "num_heads": 2, "vocab_size": 64}
"""Options by which a built-in model is shown: its sites have the same names whatever they are."""


@click.command()
@click.argument("model")
@click.option(
    "--load/--no-load",
    default=True,
    help="Load the model, and check that its sites are what they are called.",
)
@remote_code_option
def sites(model: str, load: bool, remote_code: bool) -> None:
    """List the sites of MODEL: names that studies may use for it.

    MODEL is an alias, a hub id, a folder or a built-in model. The column `identity` says whether the tensor
    at a site is what its name promises. A site that is not is refused in every study, and the lines below the
    table say what to name instead. This is tried on the loaded model the first time; with --no-load only what
    its config and its family's table tell is shown.
    """
    from orchestrator.plan.model_reports import tried_identities
    from orchestrator.text_tables import table
    from workers.model.families import describe, family_of
    from workers.model.references import resolve
    from workers.model.site_identities import Identities
    from workers.vocabulary import ModelSpec

    spec = ModelSpec(ref=model, options=_options(model), trust_remote_code=remote_code)
    facts = resolve(spec, say=lambda line: click.echo(line, err=True))
    click.echo(_shape(facts, spec.options))
    rows = describe(facts)
    if load:
        found = tried_identities(spec, facts, say=lambda line: click.echo(line, err=True))
    else:
        found = Identities.of(facts, family_of(facts.model_type))
    cells = [[row.site, row.module, row.side, row.heads, found.shown(row.site), row.note] for row in rows]
    click.echo(table(["site", "module", "side", "heads", "identity", ""], cells))
    if note := family_of(facts.model_type).note:
        click.echo(note)
    for line in found.lines(spec.dtype):
        click.echo(line)
    click.echo("any other module by its path: a.b.c is its output, a.b.c:input its input")


def _options(model: str) -> dict[str, int]:
    """Options of a small built-in model, to show its sites; none for other models."""
    from workers.zoo.configs import ZOO, is_zoo, zoo_name

    if not is_zoo(model) or zoo_name(model) not in ZOO:
        return {}
    fields = ZOO[zoo_name(model)].model_fields
    return {name: _SMALL[name] for name, field in fields.items() if field.is_required()}


def _shape(facts: "ModelFacts", options: "Mapping[str, object]") -> str:
    if options:
        made = ", ".join(f"{name}: {value}" for name, value in options.items())
        return f"{facts.ref}, made with {{{made}}} to be shown here"
    return (
        f"{facts.ref}: {facts.model_type}, {facts.num_layers} layers, {facts.num_heads} heads"
        f" ({facts.num_kv_heads} of keys and values), width {facts.width}"
    )
