"""Cells and pairs by hand: where a job intervenes, what it is called, and which words it is scored by.

Ids are reckoned here as `docs/decisions` says: the first 128 bits of a SHA-256 over a tag and canonical JSON.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from views import tiny
from views.plain import Pair

RUNS = ("base", "source", "source_2")
Unit = dict[str, Any]
Cell = dict[str, Any]


@dataclass(frozen=True)
class Lane:
    """One model of a study."""

    model: str
    """As the views call it."""
    family: str
    dtype: str
    revision: str


@dataclass(frozen=True)
class Job:
    """A written cell on a given pair."""

    study: str
    lane: Lane
    block: str
    axes: Mapping[str, Any]
    """As written."""
    cell: Cell
    """As resolved: what the view `cells` has under ``units``."""
    pair: Pair

    @property
    def cell_id(self) -> UUID:
        """The id of the resolved cell."""
        lane = {"revision": self.lane.revision, "dtype": self.lane.dtype, "options": {}}
        return _id("cell", {"lane": lane, "seed": None, **self.cell})

    @property
    def pair_id(self) -> UUID:
        """The id of what is run and scored."""
        used = {
            run: {name: span for name, span in named.items() if (self.study, name) in SPANS_USED}
            for run, named in self.pair.spans.items()
        }
        return _id(
            "pair",
            {
                "tokens": self.pair.tokens,
                "label_ids": sorted(set(self.pair.label_ids)),
                "base_label_ids": sorted(set(self.pair.base_label_ids)),
                "spans": {run: named for run, named in used.items() if named},
            },
        )

    @property
    def job_id(self) -> UUID:
        """The id of the cell on the pair."""
        digest = hashlib.sha256(f"{self.cell_id}/{self.pair_id}".encode()).hexdigest()
        return UUID(digest[:32])


SPANS_USED = {
    ("numbers", "place"),
    *((study, "subject") for study in ("numbers", "fitted", "screened", "stepwise")),
}
"""The spans that a study's positions name: only these are part of what a pair is."""


def _id(tag: str, data: Any) -> UUID:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return UUID(bytes=hashlib.sha256(f"swapyard:{tag}:1\n{text}".encode()).digest()[:16])


def text_pair(name: str, row: Mapping[str, Any]) -> Pair:
    """A given pair of texts, under one of the models of `tiny`."""
    runs = [run for run in RUNS if run in row]
    spans: dict[str, dict[str, list[int]]] = {run: {} for run in runs}
    for run in runs:
        begins = "span." if run == "base" else f"{run}.span."
        for column, part in row.items():
            if column.startswith(begins):
                spans[run][column.removeprefix(begins)] = tiny.span(name, row[run], part)
    label = row.get("label", row.get("source_label") if runs == ["base", "source"] else None)
    return Pair(
        row={**row, "label": label},
        tokens={run: tiny.tokens(name, row[run]) for run in runs},
        spans=spans,
        label_ids=_ids(name, label),
        base_label_ids=_ids(name, row.get("base_label")),
    )


def _ids(name: str, label: str | Sequence[str] | None) -> list[int]:
    given = [] if label is None else [label] if isinstance(label, str) else label
    return [tiny.vocabulary(name).index(word) for word in given]


def unit(
    pair: Pair,
    site: str,
    layer: int,
    position: int | str,
    *,
    heads: list[int] | None = None,
    dims: list[list[int]] | None = None,
    operation: str = "vanilla",
    run: str = "source",
    origin: tuple[str, int, int | str] | None = None,
    **more: Any,
) -> Unit:
    """A unit; its value is taken at its own place unless `origin` says site, layer and position."""
    here = _place(site, layer, _index(position, pair.tokens["base"]), heads)
    there = None
    if run not in ("zero", "noise", "fit"):
        where = origin or (site, layer, position)
        prompt = pair.tokens[run if run in pair.tokens else "base"]
        there = _place(where[0], where[1], _index(where[2], prompt), heads)
    return {"place": here, "dims": dims, "operation": operation, "run": run, "origin": there, **more}


def _place(site: str, layer: int, position: int | str, heads: list[int] | None) -> dict[str, Any]:
    return {"site": site, "layer": layer, "heads": heads, "position": [position]}


def _index(position: int | str, tokens: Sequence[int]) -> int | str:
    return len(tokens) - 1 if position == -1 else position


def cell(pair: Pair, *units: Unit, read: int | str = -1, runs: Sequence[tuple[str, list[Unit]]] = ()) -> Cell:
    """A cell of these units."""
    found: Cell = {"read": _index(read, pair.tokens["base"]), "units": list(units)}
    return {**found, "runs": [[name, of] for name, of in runs]} if runs else found
