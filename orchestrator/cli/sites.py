"""`swapyard sites`: where a model can be changed."""

__all__ = ["sites"]

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import remote_code_option

if TYPE_CHECKING:
    from workers.facts import ModelFacts

_SMALL = {"width": 8, "num_layers": 2, "outputs": 2, "seed": 0, "num_heads": 2, "vocab_size": 64}
"""Options by which a built-in model is shown: its sites have the same names whatever they are."""


@click.command()
@click.argument("model")
@click.option("--load/--no-load", default=True, help="Try on the loaded model what names promise.")
@remote_code_option
def sites(model: str, load: bool, remote_code: bool) -> None:
    """List the sites of MODEL: names that studies may use for it.

    MODEL is an alias, a hub id, a folder or a built-in model. The column `identity` says what the model keeps
    of what each name promises. A site that does not is refused in every study, and the lines below the table
    say what to name instead. The first time the model is loaded for it; with --no-load only what its config
    and its family's table tell is shown.
    """
    from orchestrator.identities import tried_identities
    from orchestrator.lines import table
    from workers.families import describe, family_of
    from workers.identities import Identities
    from workers.model.references import resolve
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


def _options(model: str) -> dict[str, Any]:
    """What a built-in model needs to be made, in a small size; nothing for other models."""
    from workers.zoo.configs import ZOO, is_zoo, zoo_name

    if not is_zoo(model) or zoo_name(model) not in ZOO:
        return {}
    fields = ZOO[zoo_name(model)].model_fields
    return {name: _SMALL[name] for name, field in fields.items() if field.is_required()}


def _shape(facts: "ModelFacts", options: Any) -> str:
    if options:
        made = ", ".join(f"{name}: {value}" for name, value in options.items())
        return f"{facts.ref}, made with {{{made}}} to be shown here"
    return (
        f"{facts.ref}: {facts.model_type}, {facts.num_layers} layers, {facts.num_heads} heads"
        f" ({facts.num_kv_heads} of keys and values), width {facts.width}"
    )
