"""The previous plan of a study, whose numbers, kept pairs, tiles and finished ranges the next one keeps."""

__all__ = ["PreviousPlan", "earlier_inputs", "earlier_of", "numbers_of"]

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from orchestrator.plan.pair_columns import prompts_of
from orchestrator.plan.prepare import Input, Prepared
from orchestrator.plan.tables import Plan, Ranges, Tile
from orchestrator.store import IntervalSet, State
from workers.metrics import METRIC_FAMILIES
from workers.vocabulary import Prompt


@dataclass(frozen=True, slots=True)
class PreviousPlan:
    """Numbers, tiles and finished ranges that a new plan must respect."""

    lane_numbers: dict[str, int] = field(default_factory=dict)
    """A lane's identity → its number."""
    cells: Mapping[uuid.UUID, int] = field(default_factory=dict)
    pairs: Mapping[uuid.UUID, int] = field(default_factory=dict)
    cellsets: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Cellset → its cells' numbers in running order."""
    tiles: Sequence[Tile] = ()
    done: Mapping[int, Ranges] = field(default_factory=dict)
    """Tile → ranges of k for which some metric family is done."""
    plan: Plan | None = None
    """The plan that all of this is of; None where there was none."""


def earlier_of(plan: Plan | None, state: State | None) -> PreviousPlan:
    """The previous plan from `plan`, the study's committed one, and `state`; empty where there was none."""
    if plan is None or state is None:
        return PreviousPlan()
    return PreviousPlan(
        lane_numbers=plan.head["lane_numbers"],
        cells=dict(numbers_of(plan, "cell")),
        pairs=dict(numbers_of(plan, "pair")),
        cellsets={number: cells.tolist() for number, cells in plan.cellsets.items()},
        tiles=list(plan.tiles.values()),
        done={tile: _done(state, tile) for tile in plan.tiles},
        plan=plan,
    )


def earlier_inputs(plan: Plan, lane: int) -> Prepared:
    """The inputs of one lane as they were committed."""
    table = plan.tables["inputs"]
    mine = table.filter(pc.equal(table["lane"], lane))
    rows = mine.select(["given", "spans", "label_ids", "base_label_ids", "reason"]).to_pylist()
    place = [data["lane"] for data in plan.head["lanes"]].index(lane)
    return Prepared(inputs=[*map(_input, rows, prompts_of(mine))], prompts=plan.head["prompts"][place])


def numbers_of(plan: Plan, what: str) -> Iterator[tuple[uuid.UUID, int]]:
    """Every number ever given out, with its id: those of the plan and those retired before."""
    table = plan.tables["cells" if what == "cell" else "inputs"]
    for number, identity in zip(table[what].to_pylist(), table[f"{what}_id"].to_pylist(), strict=True):
        if number is not None:
            yield identity, number
    for row in plan.tables["retired"].to_pylist():
        if row["what"] == what:
            yield row["id"], row["number"]


def _done(state: State, tile: int) -> Ranges:
    some = IntervalSet()
    for family in METRIC_FAMILIES:
        for lo, hi in state.done(family, tile).intervals():
            some.add(lo, hi)
    return tuple(some.intervals())


def _input(row: Mapping[str, Any], tokens: dict[str, Prompt]) -> Input:
    spans = json.loads(row["spans"])
    return Input(
        given=row["given"],
        tokens=tokens,
        spans={run: {name: (lo, hi) for name, (lo, hi) in named.items()} for run, named in spans.items()},
        label_ids=tuple(row["label_ids"]),
        base_label_ids=tuple(row["base_label_ids"]),
        reason=row["reason"],
    )
