"""A study's cells: pure, fast, and complete for one model and one class of pairs.

Pairs fall into classes: those with as many tokens in each run, the same spans, the same values of the
columns that the sweep reads, and the same blocks that are about them. All pairs of a class have the same
cells, so a plan never expands a pair.
"""

__all__ = ["Expansion", "Missing", "PairClass", "Point", "expand", "referenced_columns", "used_spans"]

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.axes import Extent, Names, axes_of, combine
from studies.blocks import AXES, UNIT_AXES, Block, Coordinates
from studies.fields import Scalar
from studies.forms import is_reference, parse_every_span, parse_span, references
from studies.models import Task
from studies.scope import names_of, values_of, written
from studies.slots import Prompt, Slot, read_positions
from studies.spec import Study
from studies.units import Lack, UnitTemplate, written_of
from workers.errors import StudyError
from workers.facts import ModelFacts
from workers.sites import num_heads
from workers.vocabulary import Cell, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PairClass:
    """What all pairs of a class have in common."""

    lengths: tuple[tuple[str, int], ...]
    """How many tokens each run has; ``base`` is always there."""
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
    """The block's name, or ``block0`` …"""
    index: int
    """The block's index in the sweep."""
    axes: Mapping[str, Scalar]
    """The value of each axis, and of each key that is the same for all units; lists as JSON text."""
    cell: Cell
    seed: int | None = None
    """The seed where something draws, else None."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A position or a run that the sweep names and the class lacks: its cells are left out."""

    block: str
    position: Scalar
    """As written; None where there is no such run."""
    run: str
    skip: bool
    """Whether the block says ``missing: skip``."""


@dataclass(slots=True)
class Expansion:
    """The cells that a class of pairs has, and the positions and runs that it lacks."""

    points: list[Point] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def expand(
    study: Study, facts: ModelFacts, pair_class: PairClass, model: ModelSpec | None = None
) -> Expansion:
    """Every point of the sweep for one model and one class of pairs, blocks in order.

    A unit whose computed range is empty is dropped, a cell without units too. Points that resolve to one
    cell (position -1 and 4 of 5 tokens) are all there. Needs a study that `check_supported` accepts.
    `model` is one of ``study.lanes()``; without it all that have the reference and dtype of `facts`.

    Raises:
        StudyError: the sweep asks for what the model or the pairs cannot have; it names the block.
    """
    expansion = Expansion()
    for index, block in enumerate(study.blocks()):
        if pair_class.blocks is not None and index not in pair_class.blocks:
            continue
        for lane in _lanes_of(block, facts, model):
            try:
                _expand_block(index, block, lane, facts, pair_class, expansion)
            except StudyError as error:
                raise type(error)(f"{block.name}: {error}") from None
    return expansion


def referenced_columns(study: Study) -> set[str]:
    """The columns whose values decide which cells a pair has: ``$pair.COLUMN``, and several tasks."""
    found = {"task"} if len(study.all_tasks()) > 1 else set()
    for block in study.blocks():
        everything = [names_of(block)[name] for name in names_of(block)]
        everything.extend(value for unit in _units_of(block) for _, value in written(unit))
        names = references([*everything, block.read, block.seed])
        found |= {name.removeprefix("pair.") for name in names if name.startswith("pair.")}
    return found


def used_spans(study: Study) -> set[tuple[str, str]]:
    """The spans that decide which cells a pair has, as (run, name); the name ``*`` means every span."""
    found: set[tuple[str, str]] = set()
    for block in study.blocks():
        for unit in _units_of(block):
            position = written_of(unit, block, "position")
            value = written_of(unit, block, "from_")
            origin = position if value is None or value.position is None else value.position
            runs = ("source",) if value is None else values_of(block, value.run) if value.run else ()
            found |= {("base", name) for name in _span_names(block, position)}
            found |= {
                (str(run), name) for run in runs if run != "zero" for name in _span_names(block, origin)
            }
        found |= {("base", name) for name in _span_names(block, block.read)}
        found |= {("base", name) for name in _span_names(block, block.reads)}
    return found


def _units_of(block: Block) -> tuple[Coordinates, ...]:
    return tuple(block.units) if block.units is not None else (block,)


def _span_names(block: Block, value: Any) -> Iterator[str]:
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


def _expand_block(
    index: int, block: Block, model: ModelSpec, facts: ModelFacts, pair_class: PairClass, into: Expansion
) -> None:
    prompts = {
        run: Prompt(run, count, frozenset(name for r, name in pair_class.spans if r == run))
        for run, count in pair_class.lengths
    }
    columns = {f"pair.{name}": value for name, value in pair_class.columns}
    constants = _constants(block, model, pair_class)
    scope: dict[str, Any] = {**constants, **columns, **_singulars(block)}
    names, rows = combine(axes_of(block, _extent(block, facts, prompts), scope), scope)
    values = names_of(block)
    varying = {name: references(values.get(name)) for name in names}
    templates = [
        UnitTemplate(unit, block, facts=facts, prompts=prompts, axes=varying, scope=scope)
        for unit in _units_of(block)
    ]
    read = "$read" if block.reads is not None else -1 if block.read is None else block.read
    reads = Slot(read, varying, scope, lambda value, names: read_positions(value, names, prompts["base"]))
    shown, copies = _same_everywhere(block)
    constants = {**constants, **shown}
    plain = not any(isinstance(value, tuple) for row in rows for value in row)
    missing: dict[Missing, None] = {}
    name, skip = str(block.name), block.missing == "skip"
    for row in rows:
        point = dict(zip(names, row, strict=True))
        try:
            units = tuple([unit for template in templates for unit in template.units(point)])
            read_at = _one_read(reads.at(point), read)
        except Lack as lack:
            missing[Missing(name, _scalar(lack.position), lack.run, skip)] = None
            continue
        if not units:
            continue
        axes = {**constants, **point} if plain else {**constants, **{k: _scalar(v) for k, v in point.items()}}
        for key, of in copies:
            axes[key] = axes[of]
        into.points.append(Point(name, index, axes, Cell(units, read_at)))
    into.missing.extend(missing)


def _one_read(found: tuple[int | str, ...] | None, read: Any) -> int | str:
    if found is None:
        raise Lack(read, "base")
    span = parse_span(found[0]) if found and isinstance(found[0], str) else None
    if len(found) != 1 or (span is not None and span[1] in (None, ".mean")):
        raise StudyError(
            f"read {read!r} is no single token; write an index, SPAN.first, SPAN.last or SPAN[1]"
        )
    return found[0]


def _constants(block: Block, model: ModelSpec, pair_class: PairClass) -> dict[str, Scalar]:
    """The names that are the same at every point of the block."""
    found: dict[str, Scalar] = {"model": model.ref}
    tasks = [task.name for task in block.tasks or (block.task,) if isinstance(task, Task)]
    if tasks:
        found["task"] = tasks[0] if len(tasks) == 1 else dict(pair_class.columns)["task"]
    for key in ("variable", "read", "seed", "step"):
        value = getattr(block, key)
        if value is not None and not isinstance(value, tuple):
            found[key] = value
    return found


def _singulars(block: Block) -> dict[str, Any]:
    """What ``$layer`` means where the block's layer is one value."""
    found = {key: getattr(block, key) for key in AXES if key not in ("model", "task")}
    return {key: value for key, value in found.items() if value is not None and not references(value)}


def _same_everywhere(block: Block) -> tuple[dict[str, Scalar], list[tuple[str, str]]]:
    """What all units write alike: the scalars, and the keys that repeat the value of another name."""
    constants: dict[str, Scalar] = {}
    copies: list[tuple[str, str]] = []
    varying = {singular for singular, plural in AXES.items() if getattr(block, plural) is not None}
    for key in (*UNIT_AXES, "from"):
        if key in varying:
            continue
        values = [_written_scalar(unit, block, key) for unit in _units_of(block)]
        first = values[0]
        if first is None or isinstance(first, tuple) or any(value != first for value in values):
            continue
        if is_reference(first) and not first.startswith("$pair.") and first[1:] in names_of(block):
            copies.append((key, first[1:]))
        elif not references(first):
            constants[key] = first
    return constants, copies


def _written_scalar(unit: Coordinates, block: Block, key: str) -> Any:
    if key != "from":
        return written_of(unit, block, key)
    value = written_of(unit, block, "from_")
    return None if value is None else value.run


def _extent(block: Block, facts: ModelFacts, prompts: Mapping[str, Prompt]) -> Extent:
    """How far ``all`` reaches on each axis."""

    def heads(names: Names) -> int:
        counts = {num_heads(site, facts) for site in _sites_with_heads(block, names)}
        if len(counts) != 1 or None in counts:
            raise StudyError("heads all needs sites that have heads, as many each; list the heads instead")
        return next(count for count in counts if count is not None)

    base = prompts["base"]
    return Extent(
        num_layers=facts.num_layers,
        num_tokens=base.num_tokens,
        spans=tuple(sorted(base.spans)),
        variables=(),
        num_heads=heads,
    )


def _sites_with_heads(block: Block, names: Names) -> Iterator[str]:
    """The sites of the units that the axis of heads reaches."""
    for unit in _units_of(block):
        if "head" in references(written_of(unit, block, "head")):
            site = written_of(unit, block, "site")
            for item in site if isinstance(site, tuple) else (site,):
                yield str(names[item[1:]] if is_reference(item) else item)


def _scalar(value: Any) -> Scalar:
    return json.dumps(value) if isinstance(value, tuple) else value
