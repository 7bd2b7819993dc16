"""`swapyard sites`: where a model can be changed."""

__all__ = ["sites"]

import click


@click.command()
@click.argument("model")
def sites(model: str) -> None:
    """List the sites of MODEL (an alias, a hub id or a folder): names that studies may use for it."""
    from orchestrator.lines import table
    from workers.families import describe
    from workers.references import resolve
    from workers.vocabulary import ModelSpec

    facts = resolve(ModelSpec(ref=model), say=lambda line: click.echo(line, err=True))
    click.echo(
        f"{model}: {facts.model_type}, {facts.num_layers} layers, {facts.num_heads} heads"
        f" ({facts.num_kv_heads} of keys and values), width {facts.width}"
    )
    rows = [[row.site, row.module, row.side, row.heads, row.note] for row in describe(facts)]
    click.echo(table(["site", "module", "side", "heads", ""], rows))
    click.echo("any other module by its path: a.b.c is its output, a.b.c:input its input")
