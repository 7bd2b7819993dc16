"""A study's cells: pure, fast, and complete for one model and one class of pairs.

Pairs fall into classes: those with as many tokens in each run, the same spans, the same values of the
columns that the sweep reads, and the same blocks that are about them. All pairs of a class have the same
cells, so a plan never expands a pair.
"""

__all__ = ["Expansion", "Missing", "PairClass", "Point", "expand", "referenced_columns", "used_spans"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from math import prod

from studies.bounds import MOST_CELLS
from studies.language.axes import (
    AxisExtent,
    Row,
    axes_of,
    combine,
    constants_of,
    same_everywhere,
    scalar_of,
    singulars_of,
)
from studies.language.blocks import Block, UnitKeys, ValueSpec
from studies.language.fields import Scalar
from studies.language.grammar import Names, is_reference, parse_every_span, parse_span, references
from studies.language.resolve import Prompt, read_positions
from studies.language.scope import names_of, values_of, written
from studies.language.study import Study
from studies.language.trained import READ
from studies.language.units import (
    Lack,
    Setting,
    UnitTemplate,
    named_runs,
    places_of,
    written_of,
    written_read,
)
from studies.language.values import MEAN, ZERO, FitNames, is_fit, per_columns
from studies.language.variables import VARIABLE, is_about, placed, placed_everywhere
from workers.errors import StudyError
from workers.model.facts import ModelFacts
from workers.model.sites import num_heads
from workers.vocabulary import Cell, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PairClass:
    """Pairs with the same cells: as many tokens in each run, the same spans and values of columns."""

    lengths: tuple[tuple[str, int], ...]
    """The number of tokens of each run; ``base`` is always there."""
    spans: frozenset[tuple[str, str]] = frozenset()
    """The spans that are there, as (run, name)."""
    blocks: frozenset[int] | None = None
    """The indices of the sweep's blocks that are about the class; None for all of them."""
    columns: tuple[tuple[str, Scalar], ...] = ()
    """The values of `referenced_columns`."""


@dataclass(frozen=True, slots=True)
class Point:
    """One cell as the study wrote it and as it resolved."""

    block: str
    """The name of the block, or ``block0`` …"""
    index: int
    """The block's index in the sweep."""
    axes: Mapping[str, Scalar]
    """The value of each axis, and of each key that is the same for all units; lists as JSON text."""
    cell: Cell


@dataclass(frozen=True, slots=True)
class Missing:
    """A position or a run that the sweep names and the class lacks: its cells are left out."""

    block: str
    position: Scalar
    """The position as written; None where there is no such run."""
    run: str
    skip: bool
    """Whether the block says ``missing: skip``."""


@dataclass(slots=True)
class Expansion:
    """The cells that a class of pairs has, and the positions and runs that it lacks."""

    points: list[Point] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Scene:
    """Model, class of pairs and fits that all blocks of an expansion are resolved with."""

    facts: ModelFacts
    pair_class: PairClass
    fits: FitNames | None
    fit_names: frozenset[str]

    def prompts(self) -> dict[str, Prompt]:
        """Number of tokens and spans of each of the pairs' runs."""
        spans = self.pair_class.spans
        return {
            run: Prompt(run, count, frozenset(name for r, name in spans if r == run))
            for run, count in self.pair_class.lengths
        }


def expand(
    study: Study,
    facts: ModelFacts,
    pair_class: PairClass,
    model: ModelSpec | None = None,
    fits: FitNames | None = None,
) -> Expansion:
    """Every point of the sweep for one model and one class of pairs, blocks in order.

    A unit whose computed range is empty is dropped, a cell without units too. Points that resolve to one
    cell (position -1 and 4 of 5 tokens) are all there. Needs a study that `check_supported` accepts.
    `model` is one of ``study.lanes()``; without it all that have the reference and dtype of `facts`.
    `fits` are those of the model, for a study that has any.

    Raises:
        StudyError: the sweep asks for what the model or the pairs cannot have; it names the block.
    """
    expansion = Expansion()
    scene = _Scene(facts, pair_class, fits, frozenset({MEAN, *(study.fits or {})}))
    for index, block in enumerate(study.blocks()):
        if pair_class.blocks is not None and index not in pair_class.blocks:
            continue
        columns = dict(pair_class.columns)
        own = columns.get(VARIABLE)
        variable = None if own is None else str(own)
        if not is_about(block, variable):
            continue
        for lane in _lanes_of(block, facts, model):
            if lane.options.get(READ) != columns.get(READ):
                continue
            try:
                _expand_block(index, placed(block, variable), lane, scene, expansion)
            except StudyError as error:
                raise type(error)(f"{block.name}: {error}") from None
    return expansion


def referenced_columns(study: Study) -> set[str]:
    """The columns whose values decide which cells a pair has.

    ``$pair.COLUMN``, several tasks, variables, outputs that are read, and what a fit is made ``per``.
    """
    found = {"task"} if len(study.all_tasks()) > 1 else set()
    found |= {READ} if any(READ in model.options for model in study.lanes()) else set()
    found |= per_columns(study)
    for block in placed_everywhere(study):
        found |= {VARIABLE} if (block.variable, block.variables) != (None, None) else set()
        everything: list[object] = list(names_of(block).values())
        everything.extend(value for unit, _ in _every_unit(block) for _, value in written(unit))
        names = references([*everything, block.read, block.seed])
        found |= {name.removeprefix("pair.") for name in names if name.startswith("pair.")}
    return found


def used_spans(study: Study) -> set[tuple[str, str]]:
    """The spans that decide which cells a pair has, as (run, name); the name ``*`` means every span."""
    found: set[tuple[str, str]] = set()
    for block in placed_everywhere(study):
        for unit, defaults in _every_unit(block):
            position = written_of(unit, defaults, "position")
            value = written_of(unit, defaults, "from_")
            origin = position if value is None or value.position is None else value.position
            found |= {("base", name) for name in _span_names(block, position)}
            found |= {
                (run, name)
                for run in _prompts_of(value, block, {MEAN, *(study.fits or {})})
                for name in _span_names(block, origin)
            }
        found |= {("base", name) for name in _span_names(block, block.read)}
        found |= {("base", name) for name in _span_names(block, block.reads)}
    return found


def _prompts_of(value: ValueSpec | None, block: Block, fits: Collection[str]) -> Iterator[str]:
    """The pairs' runs in whose prompts a value is taken; for a fit any that it may be made from."""
    if value is None:
        yield "source"
        return
    for name in values_of(block, value.run) if value.run is not None else ():
        is_own = name in (block.runs or {})
        if is_own or is_fit(name, block.runs or (), fits):
            yield "base"
        if not is_own and name != ZERO:
            yield "source" if name in fits else str(name)
    if value.fit is not None:
        yield from ("base", "source")


def _units_of(block: Block) -> tuple[UnitKeys, ...]:
    return tuple(block.units) if block.units is not None else (block,)


def _every_unit(block: Block) -> Iterator[tuple[UnitKeys, Block]]:
    """The units of a block and of its runs, each with the block that it takes its defaults from."""
    for unit in _units_of(block):
        yield unit, block
    for units in (block.runs or {}).values():
        for unit in units:
            yield unit, places_of(block)


def _span_names(block: Block, value: object) -> Iterator[str]:
    """The spans that a written position can mean in a block."""
    if references(value) & {name for name in references(value) if name.startswith("pair.")}:
        yield "*"
    for item in values_of(block, value):
        for text in item if isinstance(item, tuple) else (item,):
            span = parse_span(text) if isinstance(text, str) and text != "all" else None
            if span is not None:
                yield "*" if parse_every_span(str(text)) is not None else span[0]


def _lanes_of(block: Block, facts: ModelFacts, wanted: ModelSpec | None) -> Iterator[ModelSpec]:
    """The block's models that are `wanted`, or else that `facts` are about."""
    for model in block.models or (block.model,):
        is_same = isinstance(model, ModelSpec) and (model.ref, model.dtype) == (facts.ref, facts.dtype)
        if isinstance(model, ModelSpec) and (is_same if wanted is None else model == wanted):
            yield model


def _expand_block(index: int, block: Block, model: ModelSpec, scene: _Scene, into: Expansion) -> None:
    """Add the block's points to `into`."""
    prompts = scene.prompts()
    base = prompts["base"]
    columns = {f"pair.{name}": value for name, value in scene.pair_class.columns}
    constants = constants_of(block, model, scene.pair_class.columns)
    scope: dict[str, object] = {**constants, **columns, **singulars_of(block)}
    room = MOST_CELLS - len(into.points)
    names, rows = combine(axes_of(block, _extent(block, scene.facts, base), scope), scope, room)
    values = names_of(block)
    setting = Setting(
        facts=scene.facts,
        prompts={**prompts, **dict.fromkeys(block.runs or (), base)},
        axes={name: references(values.get(name)) for name in names},
        scope=scope,
        fits=scene.fits,
        fit_names=scene.fit_names,
    )
    templates = [UnitTemplate(unit, block, setting) for unit in _units_of(block)]
    runs = {
        name: [UnitTemplate(unit, places_of(block), setting) for unit in units]
        for name, units in (block.runs or {}).items()
    }
    names, rows = _with_fit_axes(names, rows, [*templates, *chain(*runs.values())], setting, room)
    read = written_read(block)
    reads = setting.slot(read, lambda value, names: read_positions(value, names, base))
    shown, copies = same_everywhere(block, _units_of(block))
    constants = {**constants, **shown}
    plain = not any(isinstance(value, tuple) for row in rows for value in row)
    missing: dict[Missing, None] = {}
    name, skip = str(block.name), block.missing == "skip"
    for row in rows:
        point = dict(zip(names, row, strict=True))
        try:
            units = tuple([unit for template in templates for unit in template.units(point)])
            earlier = named_runs(units, runs, point) if runs else ()
            read_at = _one_read(reads.at(point), read)
        except Lack as lack:
            missing[Missing(name, scalar_of(lack.position), lack.run, skip)] = None
            continue
        if not units:
            continue
        axes = (
            {**constants, **point} if plain else {**constants, **{k: scalar_of(v) for k, v in point.items()}}
        )
        for key, of in copies:
            axes[key] = axes[of]
        into.points.append(Point(name, index, axes, Cell(units, read_at, earlier)))
    into.missing.extend(missing)


_Rows = tuple[tuple[str, ...], list[Row]]


def _with_fit_axes(
    names: tuple[str, ...],
    rows: list[Row],
    templates: Sequence[UnitTemplate],
    setting: Setting,
    room: int,
) -> _Rows:
    """The rows crossed with what the fits that they use vary themselves; None where they use no such fit.

    Raises:
        StudyError: there are more than `room`.
    """
    if setting.fits is None:
        return names, rows
    own = [_fit_axes(dict(zip(names, row, strict=True)), templates, setting) for row in rows]
    total = sum(prod(map(len, found.values())) for found in own)
    if total > room:
        raise StudyError(
            f"the axes of the block and of its fits make {total:,} cells; a study has at most {MOST_CELLS:,}"
            f" of one model, of which {room:,} are left here: take fewer ranks or seeds"
        )
    more = tuple(dict.fromkeys(axis for found in own for axis in found))
    crossed = [
        row + values
        for row, found in zip(rows, own, strict=True)
        for values in product(*(found.get(axis, (None,)) for axis in more))
    ]
    return names + more, crossed


def _fit_axes(
    point: Names, templates: Sequence[UnitTemplate], setting: Setting
) -> dict[str, tuple[Scalar, ...]]:
    """The axes of the fits that the units use at a point.

    Raises:
        StudyError: two of them, or one and the block, vary one axis differently.
    """
    assert setting.fits is not None
    found: dict[str, tuple[Scalar, ...]] = {}
    for fit in dict.fromkeys(fit for template in templates for fit in template.fits(point)):
        for axis, values in setting.fits.axes(fit).items():
            if axis in point or axis in setting.scope or found.setdefault(axis, values) != values:
                raise StudyError(
                    f"the fit {fit!r} has values for {axis!r} and so has the block, or another fit that it"
                    " uses; write them once"
                )
    return found


def _one_read(found: tuple[int | str, ...] | None, read: object) -> int | str:
    if found is None:
        raise Lack(read, "base")
    span = parse_span(found[0]) if found and isinstance(found[0], str) else None
    if len(found) != 1 or (span is not None and span[1] in (None, ".mean")):
        raise StudyError(
            f"read {read!r} is no single token; write an index, SPAN.first, SPAN.last or SPAN[1]"
        )
    return found[0]


def _extent(block: Block, facts: ModelFacts, base: Prompt) -> AxisExtent:
    """The numbers that ``all`` stands for on each axis of a block."""

    def heads(names: Names) -> int:
        counts = {num_heads(site, facts) for site in _sites_with_heads(block, names)}
        if len(counts) != 1 or None in counts:
            raise StudyError("heads all needs sites that have heads, as many each; list the heads instead")
        return next(count for count in counts if count is not None)

    return AxisExtent(
        num_layers=facts.num_layers,
        num_tokens=base.num_tokens,
        spans=tuple(sorted(base.spans)),
        num_heads=heads,
    )


def _sites_with_heads(block: Block, names: Names) -> Iterator[str]:
    """The sites of the units that the axis of heads reaches."""
    for unit, defaults in _every_unit(block):
        if "head" in references(written_of(unit, defaults, "head")):
            site = written_of(unit, defaults, "site")
            for item in site if isinstance(site, tuple) else (site,):
                yield str(names[item[1:]] if is_reference(item) else item)
