"""The alignment of a causal model with a network: the two side by side, each variable linked to its place.

The lines are coloured by the interchange accuracy that the study measured there.
"""

__all__ = ["draw_alignment"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, FancyBboxPatch, Rectangle

from orchestrator.plots.style import FONT_SIZE, new_figure, title_of
from orchestrator.query.axes import distinct, means_over, model_columns, varying
from orchestrator.query.statements import Row, fetch, run_query
from studies.language.blocks import Aligned
from studies.language.fields import Scalar
from studies.language.grammar import parse_range
from workers.errors import QueryError
from workers.libraries.duckdb import literal, quoted

MOST_PICTURES = 12
_FROM_BELOW = ("block_input", "cell_input")
_GREY = "0.6"
_COLOURS = colormaps["viridis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnNetwork:
    """Network as it is drawn, with the places that variables are aligned with."""

    names: Mapping[str, Scalar]
    """Columns of ``results`` that name it: its block, its model, and the axes of its training."""
    places: Mapping[str, Aligned]
    num_layers: int
    width: int
    num_tokens: int
    """Of an input, where a place is one token of it."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """Interchange accuracies of one picture."""

    title: str
    network: DrawnNetwork
    accuracy: Mapping[str, float]
    num_jobs: int
    merged: Sequence[str]
    """The axes that vary and are not shown."""
    counts: Sequence[Sequence[int]]
    """For each accuracy, how many values of these it runs over."""


def draw_alignment(
    connection: duckdb.DuckDBPyConnection,
    parents: Mapping[str, Sequence[str]],
    networks: Sequence[DrawnNetwork],
    *,
    where: str | None = None,
    title: str | None = None,
) -> tuple[Figure, str]:
    """One pair of graphs for each model that the study tells apart, and what an accuracy runs over, such as
    ``mean over 3 seeds``.

    Args:
        connection: with the study's views.
        parents: of each variable of the causal model, each after its parents.
        networks: those that the study interchanges variables in, at their aligned places.
        where: SQL over ``results``.
        title: above all.

    Raises:
        QueryError: nothing was measured there yet.
    """
    found = _measured(connection, networks, where)
    beside = min(len(found), 3)
    below = -(-len(found) // beside)
    figure = new_figure(4.6 * beside + 0.6, 3.0 * below + 0.7)
    grid = figure.subplots(below, 2 * beside, squeeze=False)
    scale = ScalarMappable(Normalize(0.0, 1.0), _COLOURS)
    sides = list(grid.flat)
    for spare in sides[2 * len(found) :]:
        spare.remove()
    for one, graph, layers in zip(found, sides[::2], sides[1::2], strict=False):
        at = _draw_graph(graph, parents)
        boxes = _draw_network(layers, one.network)
        _connect(graph, layers, at, boxes, one.accuracy)
        graph.set_title(one.title, loc="left")
    bar = figure.colorbar(scale, ax=sides[: 2 * len(found)], aspect=30, pad=0.01, shrink=0.8)
    bar.set_label("interchange accuracy")
    over = means_over(found[0].merged, [counts for one in found for counts in one.counts])
    title_of(figure, title, f"{sum(one.num_jobs for one in found):,} jobs", over)
    return figure, over


def _measured(
    connection: duckdb.DuckDBPyConnection, networks: Sequence[DrawnNetwork], where: str | None
) -> list[_Measured]:
    there = run_query(connection, "FROM results").columns
    kinds = ["block", *(kind for kind in model_columns(connection) if kind in there and kind != "variable")]
    blocks = ", ".join(dict.fromkeys(literal(str(network.names["block"])) for network in networks))
    chosen = f"block IN ({blocks})" + (f" AND ({where}\n)" if where else "")
    columns = ", ".join([*map(quoted, kinds), "variable"])
    merged = [axis for axis in varying(connection) if axis not in ("variable", *kinds)]
    counts = f"[{', '.join(map(distinct, merged))}]::BIGINT[]"
    rows = fetch(
        connection,
        f"SELECT {columns}, {counts}, avg(iia), count(*) FROM results WHERE {chosen}"
        " GROUP BY ALL ORDER BY ALL",
    )
    pictures: dict[Row, list[Row]] = {}
    for row in rows:
        places = _network_of(row, kinds, networks).places
        if row[-4] in places and row[-2] is not None:
            pictures.setdefault(row[: len(kinds)], []).append(row[-4:])
    if not pictures:
        raise QueryError(
            "there is no alignment to draw: no job is done that interchanges a variable at its place; see:"
            " swapyard status"
        )
    differing = [at for at in range(len(kinds)) if len({key[at] for key in pictures}) > 1]
    if len(pictures) > MOST_PICTURES:
        raise QueryError(f"{len(pictures)} models; draw at most {MOST_PICTURES}, chosen by --where")
    return [
        _Measured(
            title=" · ".join(f"{kinds[at]} {key[at]}" for at in differing),
            network=_network_of(key, kinds, networks),
            accuracy={variable: value for variable, _, value, _ in found},
            num_jobs=sum(count for *_, count in found),
            merged=merged,
            counts=[several for _, several, _, _ in found],
        )
        for key, found in pictures.items()
    ]


def _network_of(key: Row, kinds: Sequence[str], networks: Sequence[DrawnNetwork]) -> DrawnNetwork:
    """The network that a row is about."""
    row = dict(zip(kinds, key, strict=False))

    def is_so(name: str, said: Scalar) -> bool:
        # A column of several types is text.
        return name not in row or row[name] == said or row[name] == str(said)

    return next(one for one in networks if all(is_so(name, said) for name, said in one.names.items()))


def _draw_graph(ax: Axes, parents: Mapping[str, Sequence[str]]) -> dict[str, tuple[float, float]]:
    """The causal graph, inputs below; where each variable is."""
    level: dict[str, int] = {}
    for name, own in parents.items():
        level[name] = 1 + max((level[parent] for parent in own), default=-1)
    rows: dict[int, list[str]] = {}
    for name, number in level.items():
        rows.setdefault(number, []).append(name)
    height = max(rows) or 1
    at = {
        name: ((number + 1) / (len(names) + 1), row / height)
        for row, names in rows.items()
        for number, name in enumerate(names)
    }
    for name, own in parents.items():
        for parent in own:
            arrow = {"arrowstyle": "-|>", "color": _GREY, "shrinkA": 9, "shrinkB": 9, "linewidth": 0.8}
            ax.annotate("", at[name], at[parent], arrowprops=arrow)
    for name, (x, y) in at.items():
        box = {"boxstyle": "circle,pad=0.35", "facecolor": "white", "edgecolor": "black", "linewidth": 0.8}
        ax.text(x, y, name, ha="center", va="center", bbox=box, zorder=3)
    _bare(ax)
    return at


def _draw_network(ax: Axes, network: DrawnNetwork) -> dict[str, tuple[float, float]]:
    """The layers of the network, the input below; the middle of the lower edge of each place in them."""
    height = network.num_layers or 1
    half = 0.32 / height
    for row in range(network.num_layers + 1):
        box = FancyBboxPatch(
            (0.0, row / height - half),
            1.0,
            2 * half,
            boxstyle="round,pad=0,rounding_size=0.02",
            facecolor="0.94",
            edgecolor=_GREY,
            linewidth=0.6,
        )
        ax.add_patch(box)
        text = "input" if row == 0 else f"layer {row - 1}"
        ax.text(1.04, row / height, text, va="center", fontsize=FONT_SIZE - 1)
    found: dict[str, tuple[float, float]] = {}
    for name, place in network.places.items():
        row = (int(place.layer) if isinstance(place.layer, int) else network.num_layers - 1) + 1
        row -= place.site in _FROM_BELOW
        low, high = _extent(place, network)
        node = Rectangle(
            (low, row / height - half), high - low, 2 * half, facecolor="white", edgecolor="black"
        )
        ax.add_patch(node)
        middle = (low + high) / 2
        ax.text(middle, row / height + half / 3, name, ha="center", va="center", fontsize=FONT_SIZE - 1)
        found[name] = (middle, row / height - half)
    _bare(ax)
    ax.set_xlim(-0.05, 1.35)
    return found


def _extent(place: Aligned, network: DrawnNetwork) -> tuple[float, float]:
    """Extent of a place in its layer, from 0 to 1: of its dimensions, or of its tokens."""
    parts = place.subspace if isinstance(place.subspace, tuple) else (place.subspace,)
    ranges = [found.bounds(lambda _: 0) for part in parts if (found := parse_range(str(part))) is not None]
    if ranges:
        low = min(first or 0 for first, _ in ranges) / network.width
        return low, max(last or network.width for _, last in ranges) / network.width
    if isinstance(place.position, int) and network.num_tokens > 1:
        token = place.position % network.num_tokens
        return token / network.num_tokens, (token + 1) / network.num_tokens
    return 0.0, 1.0


def _connect(
    graph: Axes,
    layers: Axes,
    at: Mapping[str, tuple[float, float]],
    boxes: Mapping[str, tuple[float, float]],
    accuracy: Mapping[str, float],
) -> None:
    """A line from each variable that was measured to its place."""
    for name, value in accuracy.items():
        if name not in at or name not in boxes:
            continue
        line = ConnectionPatch(
            at[name],
            boxes[name],
            "data",
            "data",
            axesA=graph,
            axesB=layers,
            color=_COLOURS(value),
            linewidth=2.2,
            shrinkA=9,
            # Bent below the variables that stand beside it.
            connectionstyle="arc3,rad=0.2",
        )
        graph.figure.add_artist(line)
        x, y = boxes[name]
        layers.annotate(
            f"{value:.2f}",
            (x, y),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=FONT_SIZE - 2,
        )


def _bare(ax: Axes) -> None:
    ax.set_xlim(-0.05, 1.05)
    ax.set_ylim(-0.2, 1.2)
    ax.set_axis_off()
