"""`swapyard plot`: draw a study's results as PNG and SVG."""

__all__ = ["plot"]

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import click

from orchestrator.cli.options import Incomplete, partial_option, store_option, study_argument

Command = Callable[..., None]

_WHERE = click.option("--where", metavar="SQL", help="SQL condition on the rows that are drawn.")
_TITLE = click.option("--title", metavar="TEXT", help="Title above the picture.")
_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="STEM",
    help="Write STEM.png and STEM.svg [default: the study's plots/KIND].",
)


@click.group()
def plot() -> None:
    """Draw the results of a study below --store, as PNG and SVG; the paths go to stdout.

    Options that are not given are taken from the study's own first plot of that kind, or have sensible
    defaults. If rows are lost, the picture is made from the rest, and the exit code is 1.
    """


def _shared_options(command: Command) -> Command:
    for option in reversed(
        (
            study_argument,
            store_option,
            click.option(
                "--x", multiple=True, metavar="COLUMN", help="Column along the x axis; may be repeated."
            ),
            click.option(
                "--y", multiple=True, metavar="COLUMN", help="Column along the y axis; may be repeated."
            ),
            click.option(
                "--facet",
                multiple=True,
                metavar="COLUMN",
                help="Column with a facet for each value; may be repeated.",
            ),
            _WHERE,
            click.option(
                "--scale", type=click.Choice(["shared", "own"]), help="One scale for all facets, or one each."
            ),
            click.option("--view", metavar="VIEW", help="View whose rows are drawn: results, scores, …"),
            _TITLE,
            _OUTPUT,
            partial_option,
        )
    ):
        command = option(command)
    return command


@plot.command(short_help="Colours over two axes, such as layers by positions.")
@_shared_options
@click.option(
    "--fill",
    multiple=True,
    metavar="COLUMN",
    help="Values shown as colours: a column, SQL, or recovered; a facet for each if repeated.",
)
@click.option("--log", type=click.Choice(["fill"]), help="Colours on a logarithmic scale.")
def heatmap(**given: Any) -> None:
    """Draw a heat map of STUDY: by default layers upwards, positions to the right, a facet for each site."""
    _draw("heatmap", **given)


@plot.command(short_help="Bars over one axis, further columns as colours.")
@_shared_options
@click.option("--log", type=click.Choice(["y"]), help="Values on a logarithmic scale.")
def bars(**given: Any) -> None:
    """Draw bars of STUDY: the first x along the axis, further x as colours, a facet for each y."""
    _draw("bars", **given)


@plot.command(short_help="Learning curves of what the study trains.")
@study_argument
@store_option
@_WHERE
@_TITLE
@_OUTPUT
@partial_option
def curves(
    study: str, store: Path, where: str | None, title: str | None, output: Path | None, partial: bool
) -> None:
    """Draw the learning curves of STUDY: a facet for each metric, means over seeds and their range."""
    from orchestrator.plots import draw_learning
    from orchestrator.store.study_dirs import study_folders

    (root,) = study_folders(store, [study])
    said = _said(root, "curves", where, title)
    with Incomplete(partial=partial) as lacking:
        stem = _stem(root, "curves", output)
        _print(draw_learning(root, stem, **said, told=_tell, lost=lacking.rows))


@plot.command(short_help="The causal model beside the network, with the accuracy of each place.")
@study_argument
@store_option
@_WHERE
@_TITLE
@_OUTPUT
@partial_option
def alignment(
    study: str, store: Path, where: str | None, title: str | None, output: Path | None, partial: bool
) -> None:
    """Draw the causal model of STUDY beside its network, with lines from variables to their places.

    The lines are coloured by the interchange accuracy that the sweep measured at each place.
    """
    from orchestrator.plots import draw_places
    from orchestrator.store.study_dirs import study_folders

    (root,) = study_folders(store, [study])
    said = _said(root, "alignment", where, title)
    with Incomplete(partial=partial) as lacking:
        stem = _stem(root, "alignment", output)
        _print(draw_places(root, stem, **said, told=_tell, lost=lacking.rows))


@plot.command("all", short_help="The plots that a study itself names.")
@study_argument
@store_option
@partial_option
def all_(study: str, store: Path, partial: bool) -> None:
    """Draw the plots that STUDY itself names; a heat map where it names none."""
    from orchestrator.plots import draw_study
    from orchestrator.store.study_dirs import study_folders

    (root,) = study_folders(store, [study])
    with Incomplete(partial=partial) as lacking:
        _print(draw_study(root, told=lambda name, over: _tell(f"{name}: {over}"), lost=lacking.rows))


def _draw(kind: str, study: str, store: Path, output: Path | None, partial: bool, **given: Any) -> None:
    from orchestrator.plots import draw_kind
    from orchestrator.store.study_dirs import study_folders

    (root,) = study_folders(store, [study])
    with Incomplete(partial=partial) as lacking:
        _print(draw_kind(root, kind, _stem(root, kind, output), given, told=_tell, lost=lacking.rows))


def _said(root: Path, kind: str, where: str | None, title: str | None) -> "_Said":
    """Rows and title of a picture: as asked for, and else as in the study's own plot of that kind."""
    from orchestrator.plots import own_plots

    own = next((one for one in own_plots(root).values() if one.kind == kind), None)
    if where is not None or own is None:
        return {"where": where, "title": title}
    return {"where": own.where, "title": title or own.title}


class _Said(TypedDict):
    where: str | None
    title: str | None


def _stem(root: Path, kind: str, output: Path | None) -> Path:
    """Path of a picture, without its ending."""
    stem = output or root / "plots" / kind
    return stem.with_suffix("") if stem.suffix in (".png", ".svg") else stem


def _tell(over: str) -> None:
    """Say what the values of a picture run over."""
    click.echo(over, err=True)


def _print(paths: list[Path]) -> None:
    for path in paths:
        click.echo(path)
