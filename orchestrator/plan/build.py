"""A plan of a study and its inputs: cells, pairs, cellsets, tiles. Never a row a job.

Numbers of cells, pairs, cellsets and tiles belong to the store: a later plan keeps those of an
earlier one and adds its own, so that rows already written stay valid.
"""

__all__ = ["LaneInputs", "build_plan", "with_notes"]

import gc
import uuid
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.plan import encode
from orchestrator.plan.costs import Costs, may_resume
from orchestrator.plan.empty_blocks import Lacking, notes_of, reasons_of
from orchestrator.plan.encode import Placed
from orchestrator.plan.fit_checks import check_fits, check_parts, check_tokens, named
from orchestrator.plan.fit_tables import fit_tables
from orchestrator.plan.fits import LaneFits
from orchestrator.plan.pair_columns import Row
from orchestrator.plan.position_checks import check_positions, check_reads, check_spans, check_whole
from orchestrator.plan.prepare import Input
from orchestrator.plan.previous_plan import PreviousPlan
from orchestrator.plan.screening import CellChoice, Screening, check_labels
from orchestrator.plan.site_checks import check_dims, check_refused, check_sites, check_skips, check_widths
from orchestrator.plan.tables import Lane, Plan, Tile
from orchestrator.plan.tiles import Group, make_tiles
from studies import Study
from studies.language.expand import PairClass, Point, expand, used_spans
from studies.language.identity import cell_id, pair_id
from workers.errors import StudyError
from workers.model.facts import ModelFacts
from workers.model.sites import order
from workers.vocabulary import Cell, ModelSpec, Pair, Position, Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneInputs:
    """A lane's share of a plan: its model's facts, all inputs, and the class of each kept one."""

    lane: Lane
    facts: ModelFacts
    model: ModelSpec
    """As the study writes it."""
    inputs: Sequence[Input]
    classes: Mapping[int, PairClass]
    """Given number of a kept input → its class."""
    modules: Callable[[], Collection[str] | None] = lambda: None
    """The paths of its modules; None where nobody knows."""


class _Numbers:
    """Numbers for things known by id: those of before, then fresh ones."""

    def __init__(self, known: Mapping[uuid.UUID, int]) -> None:
        self.known = dict(known)
        self._next = max(known.values(), default=-1) + 1

    def __getitem__(self, key: uuid.UUID) -> int:
        number = self.known.setdefault(key, self._next)
        self._next += number == self._next
        return number

    def retired(self, used: Mapping[int, object]) -> list[tuple[int, uuid.UUID]]:
        """Numbers that are not among the `used`, with their ids."""
        return [(number, key) for key, number in self.known.items() if number not in used]


class _Builder:
    """Collects the rows of a plan, lane by lane."""

    def __init__(self, study: Study, earlier: PreviousPlan, rows: Sequence[Row]) -> None:
        self.cells: dict[int, tuple[uuid.UUID, int, Cell]] = {}
        self.points: dict[tuple[object, ...], tuple[int, int, Point]] = {}
        self.grid = array("I")
        """Class, point and cell, one after the other."""
        self.classes: list[Group] = []
        """The cells and pairs of each class; a pair that was given twice may be in two."""
        self.placed: dict[tuple[int, int], Placed] = {}
        """(lane, given) → where a kept input is."""
        self.fits: list[LaneFits] = []
        """Fits that the cells of each lane name."""
        self.counts: Counter[tuple[int, str]] = Counter()
        """(place of the lane, block) → points."""
        self.kinds: list[tuple[str, ModelFacts, list[PairClass]]] = []
        """Of each lane its model, and the class of each kept pair."""
        self._is_resumed: dict[int, bool] = {}
        """For each lane, whether its jobs may be resumed."""
        self._study = study
        self._rows = rows
        self._used_spans = used_spans(study)
        self._cell_numbers = _Numbers(earlier.cells)
        self._pair_numbers = _Numbers(earlier.pairs)

    def add_lane(self, brought: LaneInputs) -> None:
        """Add the classes of a lane, each with its cells and pairs.

        Raises:
            StudyError: the sweep asks for what the lane's model or pairs do not have.
        """
        check_reads(self._study, brought.model, brought.facts)
        members: dict[PairClass, list[Input]] = defaultdict(list)
        for one in brought.inputs:
            if one.reason is None:
                members[brought.classes[one.given]].append(one)
        kept = [one for ones in members.values() for one in ones]
        lane = brought.lane
        self.kinds.append(
            (lane.spec.ref, brought.facts, [kind for kind, ones in members.items() for _ in ones])
        )
        self._is_resumed[lane.lane] = may_resume(brought.facts.model_type)
        fits = LaneFits(self._study, lane.lane, lane.identity, self._rows, kept, self._pair_id)
        self.fits.append(fits)
        expansions = {kind: expand(self._study, brought.facts, kind, brought.model, fits) for kind in members}
        check_positions(self._study, expansions, members)
        check_spans(self._study, expansions, members)
        check_fits(fits, brought.facts)
        check_tokens(expansions, members, fits)
        for kind in sorted(members, key=_class_order):
            points = expansions[kind].points
            self.counts.update((len(self.kinds) - 1, point.block) for point in points)
            check_sites(points, brought.facts, brought.modules)
            places = [(made.name, made.place) for made in fits.made.values()]
            check_refused(points, places, brought.facts, self._study.line_of)
            check_dims(points, brought.facts)
            check_widths(points, brought.facts)
            check_skips(points, brought.facts)
            check_parts(points, named(fits), brought.facts)
            check_whole(points, brought.facts, dict(kind.lengths))
            self.classes.append(
                Group(
                    lane=lane.lane,
                    cells=self._add_cells(lane, points),
                    pairs=self._add_pairs(lane.lane, members[kind]),
                )
            )

    def groups(self) -> list[Group]:
        """The classes, but that a pair which is in several of them is in one group, with all their cells."""
        homes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for at, group in enumerate(self.classes):
            for pair in group.pairs:
                homes[group.lane, pair].append(at)
        pairs: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for (_, pair), found in homes.items():
            pairs[tuple(found)].append(pair)
        return [self._joined(classes, pairs[classes]) for classes in pairs]

    def lacking(self) -> Lacking:
        """Models and pairs on which the blocks were tried."""
        return Lacking(study=self._study, rows=self._rows, lanes=self.kinds, counts=self.counts)

    def take_points(self) -> list[tuple[int, int, Point]]:
        """The written grid points, which the builder lets go of: they are most of what it holds."""
        points, self.points = list(self.points.values()), {}
        return points

    def retired(self) -> list[tuple[str, int, uuid.UUID]]:
        """Numbers that belong to nothing in this plan."""
        pairs = {pair: None for pair, _, _ in self.placed.values()}
        return [
            *(("cell", *gone) for gone in self._cell_numbers.retired(self.cells)),
            *(("pair", *gone) for gone in self._pair_numbers.retired(pairs)),
        ]

    def _add_cells(self, lane: Lane, points: Sequence[Point]) -> tuple[int, ...]:
        """Number the cells of a class; they come back in running order."""
        found: dict[int, None] = {}
        for point in points:
            identity = cell_id(lane.identity, point.cell)
            number = self._cell_numbers[identity]
            self.cells.setdefault(number, (identity, lane.lane, point.cell))
            found[number] = None
            written = (lane.lane, point.block, *point.axes.values())
            at, _, _ = self.points.setdefault(written, (len(self.points), lane.lane, point))
            self.grid.extend((len(self.classes), at, number))
        return self._in_order(found)

    def _add_pairs(self, lane: int, members: Sequence[Input]) -> tuple[int, ...]:
        pairs: dict[int, None] = {}
        for one in sorted(members, key=_pair_order):
            identity = self._pair_id(one)
            pair = self._pair_numbers[identity]
            self.placed[lane, one.given] = (pair, identity, len(self.classes))
            pairs[pair] = None
        return tuple(pairs)

    def _pair_id(self, one: Input) -> uuid.UUID:
        return pair_id(
            tokens=one.tokens,
            label_ids=one.label_ids,
            base_label_ids=one.base_label_ids,
            spans=one.spans,
            used_spans=self._used_spans,
        )

    def _joined(self, classes: tuple[int, ...], pairs: list[int]) -> Group:
        """The group of the `pairs` that are in all of these classes and no other."""
        first = self.classes[classes[0]]
        cells = first.cells
        if len(classes) > 1:
            cells = self._in_order({cell for at in classes for cell in self.classes[at].cells})
        return Group(first.lane, cells, tuple(pairs))

    def _in_order(self, numbers: Iterable[int]) -> tuple[int, ...]:
        """Cells of one lane in running order: those that can share a forward are neighbours."""
        return tuple(sorted(numbers, key=self._running_order))

    def _running_order(self, number: int) -> tuple[object, ...]:
        _, lane, cell = self.cells[number]
        place = min([_place(unit.place.site, unit.place.layer) for unit in cell.units])
        token = min([_first_token(unit.place.position) for unit in cell.units])
        # Resumed jobs share a forward where they begin at one token, others their hooks at one place.
        return (token, place, number) if self._is_resumed[lane] else (place, token, number)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collects no garbage meanwhile: a large plan is many objects that live on, in no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_collection()
def build_plan(
    study: Study,
    lanes: Sequence[LaneInputs],
    rows: Sequence[Row],
    *,
    families: Sequence[str],
    earlier: PreviousPlan,
    head: Mapping[str, Any],
    base_tokens: Mapping[tuple[int, int], Sequence[str]],
    selection: Mapping[int, CellChoice] | None = None,
) -> Plan:
    """The plan of `study` over `rows` (the given pairs), keeping what `earlier` already has.

    Of a screened study `selection` says which of the cells that were estimated run.

    ``runs`` and ``tokens`` are not among its tables: whoever has a model and a tokeniser adds them.

    Raises:
        StudyError: a position that is asked for does not exist, or there is nothing to do.
    """
    builder = _Builder(study, earlier, rows)
    for brought in lanes:
        builder.add_lane(brought)
    groups = builder.groups()
    if not _num_jobs(groups):
        raise StudyError("\n".join(reasons_of(builder.lacking())))
    notes = notes_of(builder.lacking())
    estimated: Sequence[Group] = ()
    screened: dict[str, pa.Table] = {}
    if study.screen is not None:
        check_labels(study.study, (one for brought in lanes for one in brought.inputs))
        screening = Screening.of({n: cell for n, (_, _, cell) in builder.cells.items()}, selection)
        screened = {"screening": screening.table()}
        estimated, groups = screening.groups_estimated(groups), screening.groups_run(groups)
    counts = {"num_jobs": _num_jobs(groups), "num_estimates": _num_jobs(estimated)}
    cellsets, tiles = make_tiles(groups, earlier, estimated)
    carried = _carried(tiles, cellsets, builder, earlier)
    cells = {number: cell for number, (_, _, cell) in builder.cells.items()} | carried[0]
    costs = _costs(lanes, tiles, cellsets, cells, builder.placed)
    inputs = [
        (at, one, builder.placed.get((at, one.given)), base_tokens.get((at, one.given), ()))
        for at, one in ((brought.lane.lane, one) for brought in lanes for one in brought.inputs)
    ]
    tables = {
        "points": encode.points_table(builder.take_points()),
        "pairs": encode.pairs_table(rows),
        "inputs": encode.inputs_table(inputs),
        "cells": encode.cells_table(builder.cells),
        "grid": encode.grid_table(builder.grid),
        "cellsets": encode.cellsets_table(cellsets, costs),
        "tiles": encode.tiles_table(tiles),
        "carried": encode.carried_table(*carried),
        "retired": encode.retired_table(builder.retired()),
        **fit_tables(builder.fits, (cell for _, _, cell in builder.cells.values()), builder.placed),
    }
    plan = Plan(head={**head, **counts, "families": list(families)}, tables={**tables, **screened})
    return with_notes(plan, study, notes)


def with_notes(plan: Plan, study: Study, notes: Sequence[str]) -> Plan:
    """The plan with more notes for its users, after the lines of the file that they are about."""
    if not notes:
        return plan
    places = [study.place_of(note) for note in notes]
    told = [note if at is None else f"{at}: {note}" for at, note in zip(places, notes, strict=True)]
    return replace(plan, head={**plan.head, "notes": [*plan.head.get("notes", ()), *told]})


def _num_jobs(groups: Sequence[Group]) -> int:
    return sum(len(group.cells) * len(group.pairs) for group in groups)


def _costs(
    lanes: Sequence[LaneInputs],
    tiles: Sequence[Tile],
    cellsets: Mapping[int, Sequence[int]],
    cells: Mapping[int, Cell],
    placed: Mapping[tuple[int, int], Placed],
) -> dict[int, np.ndarray]:
    """Cost of each cell of each cellset for one pair; shape (num_cells,)."""
    models = {brought.lane.lane: Costs(brought.facts) for brought in lanes}
    inputs = {
        (brought.lane.lane, placed[brought.lane.lane, one.given][0]): one
        for brought in lanes
        for one in brought.inputs
        if (brought.lane.lane, one.given) in placed
    }
    members: dict[int, list[Input]] = defaultdict(list)
    lane_of: dict[int, int] = {}
    for tile in tiles:
        lane_of[tile.cellset] = tile.lane
        members[tile.cellset] += [inputs[tile.lane, n] for n in tile.pairs if (tile.lane, n) in inputs]
    # What no model or pair of this plan is in does not run, so that it does not matter what it costs.
    return {
        number: models[lane_of[number]].of([cells[cell] for cell in listed], members[number])
        if members[number]
        else np.ones(len(listed), np.float32)
        for number, listed in cellsets.items()
    }


def _carried(
    tiles: Sequence[Tile], cellsets: Mapping[int, Sequence[int]], builder: _Builder, earlier: PreviousPlan
) -> tuple[dict[int, Cell], dict[int, Pair]]:
    """Cells and pairs that only tiles of before still name.

    A tile that goes on, now or when its pairs come back, runs whole cells on all of its pairs, also those
    that the study has let go of.
    """
    before = earlier.plan
    if before is None:
        return {}, {}
    placed = {pair for pair, _, _ in builder.placed.values()}
    cells = {
        n for cellset in {tile.cellset for tile in tiles} for n in cellsets[cellset]
    } - builder.cells.keys()
    pairs = {pair for tile in tiles for pair in tile.pairs} - placed
    known_cells = before.cells | before.carried_cells if cells else {}
    known_pairs = before.pairs | before.carried_pairs if pairs else {}
    return {n: known_cells[n] for n in sorted(cells)}, {n: known_pairs[n] for n in sorted(pairs)}


def _class_order(kind: PairClass) -> tuple[object, ...]:
    return (kind.lengths, sorted(kind.spans), sorted(kind.blocks or ()), str(kind.columns))


def _pair_order(one: Input) -> tuple[object, ...]:
    """Pairs that share a base stay together, and of those the ones that share a source."""
    prompts = (one.tokens[run] for run in sorted(one.tokens))
    return tuple(prompt.data if isinstance(prompt, Vectors) else prompt for prompt in prompts)


_place = lru_cache(maxsize=1 << 16)(order)


@lru_cache(maxsize=1 << 16)
def _first_token(position: Position) -> tuple[int, str]:
    """Sorts positions: the indices by number, then the spans by name."""
    indices = [item for item in position if isinstance(item, int)]
    return (min(indices), "") if indices else (1 << 31, "".join(map(str, position[:1])))
