"""The fits of a plan as tables, and how workers and views get them back.

| table     | one row for each               | what it says |
|---|---|---|
| fits      | fit, and each name that it has | identity, lane, name, spec, place, axes, and its set of pairs |
| fit_pairs | set of pairs                   | those to fit and those held out; classes where they are used |
"""

__all__ = ["PlannedFit", "fit_tables", "planned_fits"]

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.plan.encode import Placed
from orchestrator.plan.fits import FitPairs, LaneFits, MadeFit
from studies.language.values import WrittenPosition
from workers.vocabulary import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFit:
    """A fit as a worker needs it; pairs are the plan's numbers."""

    fit: str
    """Its identity."""
    name: str
    """As the study writes it; the first where it has several."""
    spec: Mapping[str, Any]
    """As `workers.fits.fitted.FitSpec` takes it."""
    position: WrittenPosition
    read: int | str
    pairs: tuple[int, ...]
    held_out: tuple[int, ...]
    classes: tuple[tuple[str | None, str | None], ...]
    """Of each of `pairs`; empty where no class is used."""


def fit_tables(
    lanes: Sequence[LaneFits], cells: Iterable[Cell], placed: Mapping[tuple[int, int], Placed]
) -> dict[str, pa.Table]:
    """The tables of the fits that `cells` name; none where they name no fit.

    Args:
        lanes: the fits of each lane.
        cells: all of the plan.
        placed: (lane, given number) → where a kept pair is.
    """
    named = {fit for cell in cells for unit in cell.every_unit() for fit in (unit.fit, unit.value_fit) if fit}
    if not named:
        return {}
    rows = [
        (lane.lane, identity, made)
        for lane in lanes
        for (identity, _), made in lane.made.items()
        if identity in named
    ]
    sets: dict[tuple[int, FitPairs], int] = {}
    for lane, _, made in rows:
        sets.setdefault((lane, made.pairs), len(sets))
    numbers = [sets[lane, made.pairs] for lane, _, made in rows]
    return {"fits": _fits(rows, numbers), "fit_pairs": _sets(sets, placed)}


def planned_fits(tables: Mapping[str, pa.Table]) -> dict[str, PlannedFit]:
    """The fits of a plan's tables by identity; none where it has no such tables."""
    if "fits" not in tables:
        return {}
    sets = {row["set"]: row for row in tables["fit_pairs"].to_pylist()}
    rows = reversed(tables["fits"].to_pylist())
    return {row["fit"]: _planned(row, sets[row["set"]]) for row in rows}


def _planned(row: Mapping[str, Any], pairs: Mapping[str, Any]) -> PlannedFit:
    classes = zip(pairs["base_class"], pairs["source_class"], strict=True)
    return PlannedFit(
        fit=row["fit"],
        name=row["name"],
        spec=json.loads(row["spec"]),
        position=tuple(json.loads(row["position"])),
        read=json.loads(row["read"]),
        pairs=tuple(pairs["pairs"]),
        held_out=tuple(pairs["held_out"]),
        classes=tuple((base, source) for base, source in classes),
    )


def _fits(rows: Sequence[tuple[int, str, MadeFit]], numbers: Sequence[int]) -> pa.Table:
    specs = [made.spec for _, _, made in rows]
    places = [made.place for _, _, made in rows]
    text, number = pa.string(), pa.int64()
    return pa.table(
        {
            "fit": pa.array([identity for _, identity, _ in rows], text),
            "lane": pa.array([lane for lane, _, _ in rows], pa.uint16()),
            "name": pa.array([made.name for _, _, made in rows], text),
            "method": pa.array([spec["method"] for spec in specs], text),
            "site": pa.array([place.site for place in places], text),
            "layer": pa.array([place.layer for place in places], number),
            "heads": pa.array([place.heads for place in places], pa.list_(number)),
            "position": pa.array([json.dumps(place.position) for place in places], text),
            "read": pa.array([json.dumps(place.read) for place in places], text),
            "rank": pa.array([spec.get("rank") for spec in specs], number),
            "seed": pa.array([spec.get("seed") for spec in specs], number),
            "per": pa.array([json.dumps(made.per) if made.per else None for _, _, made in rows], text),
            "spec": pa.array([json.dumps(spec) for spec in specs], text),
            "set": pa.array(numbers, pa.uint32()),
        }
    )


def _sets(sets: Mapping[tuple[int, FitPairs], int], placed: Mapping[tuple[int, int], Placed]) -> pa.Table:
    def pairs_of(lane: int, given: Sequence[int]) -> list[int]:
        return [placed[lane, number][0] for number in given]

    numbers, texts = pa.list_(pa.uint32()), pa.list_(pa.string())
    return pa.table(
        {
            "set": pa.array(list(sets.values()), pa.uint32()),
            "pairs": pa.array([pairs_of(lane, one.fitted) for lane, one in sets], numbers),
            "held_out": pa.array([pairs_of(lane, one.held_out) for lane, one in sets], numbers),
            "base_class": pa.array([[base for base, _ in one.classes] for _, one in sets], texts),
            "source_class": pa.array([[source for _, source in one.classes] for _, one in sets], texts),
        }
    )
