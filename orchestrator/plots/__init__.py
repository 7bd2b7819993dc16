"""Pictures of studies: heat maps, bars, learning curves and alignments, as PNG and SVG."""

__all__ = ["default_plot", "draw", "draw_kind", "draw_learning", "draw_places", "draw_study", "own_plots"]

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import duckdb

from orchestrator.plan.plot_checks import LOG
from orchestrator.plan.tables import read_plan
from orchestrator.plan.trainings import causal_task, planned_trainings, swept_study
from orchestrator.plots.alignment import DrawnNetwork, draw_alignment
from orchestrator.plots.bars import draw_bars
from orchestrator.plots.curves import draw_curves
from orchestrator.plots.data import Grid, read_grid
from orchestrator.plots.defaults import changed, default_plot, own_plots, own_study
from orchestrator.plots.heatmap import draw_heatmap
from orchestrator.plots.labels import position_texts, tick_texts
from orchestrator.plots.style import save, style
from orchestrator.query.connection import connect
from orchestrator.store import StudyStore
from orchestrator.upkeep.lost import TellLost
from studies import Block, ModelSpec, Study
from studies.language.results import OF_TRAININGS, Plot
from studies.language.trained import Lanes
from studies.language.variables import is_aligned
from studies.names import NAME_RULE, is_plain_file
from workers.code.places import Code
from workers.errors import QueryError, StudyError
from workers.model.references import resolve

_ENDINGS = (".png", ".svg")


Told = Callable[[str], None]
"""Is told what a picture's values run over besides pairs, where that is anything: ``mean over 12 heads``."""


def draw(
    connection: duckdb.DuckDBPyConnection, plot: Plot, stem: Path, told: Told | None = None
) -> list[Path]:
    """Draw `plot` into ``STEM.png`` and ``STEM.svg``, and give their paths.

    Raises:
        QueryError: the plot's SQL cannot be answered, or there is nothing to draw.
    """
    if plot.log not in (None, LOG[plot.kind]):
        raise QueryError(f"log: {plot.log} cannot be drawn; {plot.kind} takes log: {LOG[plot.kind]}")
    grid = read_grid(connection, plot)
    positions = position_texts(connection, plot, _positions(grid))
    across, down = tick_texts(grid.across, positions), tick_texts(grid.down, positions)
    draw_kind = draw_heatmap if plot.kind == "heatmap" else draw_bars
    _tell(told, grid.over_text)
    with style():
        return save(draw_kind(grid, plot, across, down), stem)


def _positions(grid: Grid) -> list[int]:
    """The positions in the base prompt that are places of a side of a grid, counted from the beginning."""
    sides = [side for side in (grid.across, grid.down) if side.columns in (("base_position",), ("position",))]
    places = (key[0] for side in sides for key in side.keys)
    return sorted({at for at in places if isinstance(at, int) and at >= 0})


def _tell(told: Told | None, over: str) -> None:
    if told is not None and over:
        told(over)


def draw_kind(
    root: Path,
    kind: str,
    stem: Path,
    keys: Mapping[str, object],
    *,
    told: Told | None = None,
    lost: TellLost | None = None,
) -> list[Path]:
    """Draw a heat map or bars of the study in the folder `root`; what `keys` do not say is as in the study's
    own first plot of that kind, or a sensible default. `lost` as for `connect`.

    Raises:
        StudyError: a key cannot have such a value.
        QueryError, StoreError: the study cannot be read, or there is nothing to draw.
    """
    connection = connect([root], lost=lost)
    own = (one for one in own_plots(root).values() if one.kind == kind)
    start = next(own, None) or default_plot(connection, kind)
    chosen = changed(start, {key: value for key, value in keys.items() if value})
    return draw(connection, chosen, stem.with_suffix("") if stem.suffix in _ENDINGS else stem, told)


def draw_learning(
    root: Path,
    stem: Path,
    *,
    where: str | None,
    title: str | None,
    told: Told | None = None,
    lost: TellLost | None = None,
) -> list[Path]:
    """Draw the learning curves of the study in the folder `root`; `lost` as for `connect`.

    Raises:
        QueryError, StoreError: the study cannot be read, or nothing was measured yet.
    """
    with style():
        figure, over = draw_curves(connect([root], lost=lost), where=where, title=title)
        _tell(told, over)
        return save(figure, stem)


def draw_places(
    root: Path,
    stem: Path,
    *,
    where: str | None,
    title: str | None,
    told: Told | None = None,
    lost: TellLost | None = None,
    code: Code | None = None,
) -> list[Path]:
    """Draw the causal model of the study in the folder `root` beside the network, as they are aligned.

    `lost` as for `connect`, `code` as for `own_study`.

    Raises:
        StudyError: it has no alignment, or no causal model.
        QueryError, StoreError: the study cannot be read, or nothing was measured yet.
    """
    study = own_study(root, code)
    swept, lanes = _swept(root, study)
    blocks = [block for block in swept.blocks() if is_aligned(block)]
    if not blocks:
        raise StudyError(
            f"study {study.study}: no block interchanges variables at the places of an alignment; give the"
            " study an alignment, and a block with 'variables: all'"
        )
    task, causal = causal_task(study)
    model = causal.model(task.options)
    networks = [one for block in blocks for one in _networks(block, lanes, len(model.inputs))]
    with style():
        connection = connect([root], lost=lost)
        figure, over = draw_alignment(connection, model.parents, networks, where=where, title=title)
        _tell(told, over)
        return save(figure, stem)


def _swept(root: Path, study: Study) -> tuple[Study, Lanes]:
    """The study with lanes in the places of trainings, and which trainings these are."""
    store = StudyStore(root)
    ref = store.latest_plan()
    assert ref is not None, "the study was read from its plan"
    planned = planned_trainings(read_plan(store, ref).tables, others=True)
    return swept_study(study, list(planned.values()))


def _networks(block: Block, lanes: Lanes, num_tokens: int) -> Iterator[DrawnNetwork]:
    """The networks that a block runs, without their weights."""
    for spec in block.models or (block.model,):
        assert isinstance(spec, ModelSpec)
        training = next((training for lane, training in lanes if lane == spec), None)
        facts = resolve(spec if training is None else training.model, fetch=False)
        names = {} if training is None else {k: v for k, v in spec.options.items() if k != "seed"}
        yield DrawnNetwork(
            # What views call it: a built-in model with its options, a trained one by its name.
            names={"block": str(block.name), "model": spec.ref if training else spec.title, **names},
            places=block.alignment or {},
            num_layers=facts.num_layers,
            width=facts.width,
            num_tokens=num_tokens,
        )


def draw_study(
    root: Path,
    failed: Callable[[str, QueryError], None] | None = None,
    told: Callable[[str, str], None] | None = None,
    lost: TellLost | None = None,
    code: Code | None = None,
) -> list[Path]:
    """Draw all plots of the study in the folder `root` into its ``plots/``.

    Of one that names none a heat map, or the curves and the alignment of what it trains.

    Args:
        root: the study's folder.
        failed: is told of each plot that cannot be drawn, and why; without it that is raised.
        told: is told of each plot what its values run over, where that is anything but pairs.
        lost: is told what rows cannot be read; without it that is raised.
        code: where the study's functions lie; without it where they did when it was planned, if trusted.

    Raises:
        QueryError, StoreError: the study cannot be read, or a plot cannot be drawn.
    """
    connection = connect([root], lost=lost)
    plots = own_plots(root) or _default_plots(root, connection)
    found: list[Path] = []
    for name, plot in plots.items():
        try:
            tell = None if told is None else partial(told, name)
            found += _draw(root, connection, plot, name, tell, lost, code)
        except QueryError as error:
            if failed is None:
                raise
            failed(name, error)
    return found


def _default_plots(root: Path, connection: duckdb.DuckDBPyConnection) -> Mapping[str, Plot]:
    study = own_study(root)
    if not study.train:
        return {"heatmap": default_plot(connection, "heatmap")}
    is_drawn = any(is_aligned(block) for block in _swept(root, study)[0].blocks())
    return {kind: Plot(kind=kind) for kind in (OF_TRAININGS if is_drawn else OF_TRAININGS[:1])}


def _draw(
    root: Path,
    connection: duckdb.DuckDBPyConnection,
    plot: Plot,
    name: str,
    told: Told | None,
    lost: TellLost | None,
    code: Code | None,
) -> list[Path]:
    if not is_plain_file(name):
        raise QueryError(f"{name!r} is no name for a picture: {NAME_RULE}; rename the plot in the study file")
    stem = root / "plots" / name
    if plot.kind == "curves":
        return draw_learning(root, stem, where=plot.where, title=plot.title, told=told, lost=lost)
    if plot.kind == "alignment":
        return draw_places(root, stem, where=plot.where, title=plot.title, told=told, lost=lost, code=code)
    return draw(connection, plot, stem, told)
