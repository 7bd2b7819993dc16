"""Baseline runs: the values of each kept pair's unintervened base and sources, on the pair's labels.

They stand beside every result, and filters ask for them. Planning gets them as data from a `BaselineScorer`
and loads no model: `orchestrator.run.baseline_scorers` has those that do.
"""

__all__ = ["COLUMNS", "BaselineScorer", "Columns", "MissingRunsError", "runs_table"]

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from orchestrator.plan.tables import Lane, Plan
from workers.errors import SwapyardError
from workers.vocabulary import CleanRun, Pair, read_in

COLUMNS = (
    ("label_logit", "f"),
    ("base_label_logit", "f"),
    ("logsumexp", "f"),
    ("label_rank", "i"),
    ("base_label_rank", "i"),
    ("pred_id", "i"),
    ("pred_logit", "f"),
    ("margin", "f"),
)
"""The values of a run and how they are packed: 32-bit floats and integers."""

Columns = dict[str, np.ndarray]
"""An array for each of `COLUMNS`, shape (num_requests,)."""

_KEYS = {"lane": pa.uint16(), "pair": pa.uint32(), "run": pa.string(), "read": pa.string()}

_Key = tuple[int, int, str, str]
"""Lane, pair, run and read of a row."""

_NOTHING = {name: np.empty(0, {"f": np.float32, "i": np.int32}[code]) for name, code in COLUMNS}


class MissingRunsError(SwapyardError):
    """Values that only a model can give are asked for where none may be loaded."""


class BaselineScorer(Protocol):
    """Source of the unintervened values of runs: one array a column, in the order of the requests."""

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> Columns:
        """Values of `requests` under the lane's model."""


def runs_table(
    plan: Plan, scorer: BaselineScorer, earlier: Plan | None = None, lanes: Sequence[Lane] | None = None
) -> pa.Table:
    """One row for each lane × pair × run × read of the plan, with the values of `COLUMNS`.

    Only those of `lanes`, where not all models are there yet.

    Those that `earlier`, the study's committed plan, has are kept: a study does not change its mind about
    them on other hardware.

    Raises:
        MissingRunsError: `scorer` may not load a model and does not know them all.
    """
    chosen = plan.lanes if lanes is None else [lane.lane for lane in lanes]
    asked = _asked(plan, chosen)
    known = _rows_of(earlier) if earlier is not None else {}
    places = [known[key] for key in asked if key in known]
    tables = [earlier.tables["runs"].take(places)] if earlier is not None and places else []
    fresh = {key: request for key, request in asked.items() if key not in known}
    for number, lane in plan.lanes.items():
        requests = {key: request for key, request in fresh.items() if key[0] == number}
        if requests:
            tables.append(_table(requests, scorer.score(lane, list(requests.values()))))
    return pa.concat_tables(tables) if tables else _table({}, _NOTHING)


def _table(keys: Mapping[_Key, CleanRun], scored: Mapping[str, np.ndarray]) -> pa.Table:
    columns = {
        name: pa.array([key[i] for key in keys], type_) for i, (name, type_) in enumerate(_KEYS.items())
    }
    return pa.table({**columns, **{name: scored[name] for name, _ in COLUMNS}})


def _rows_of(plan: Plan) -> dict[_Key, int]:
    """Each row of a plan's runs and its place in the table. A pair's number stands for tokens and labels."""
    columns = [plan.tables["runs"][name].to_pylist() for name in _KEYS]
    return {key: place for place, key in enumerate(zip(*columns, strict=True))}


def _asked(plan: Plan, lanes: Collection[int]) -> dict[_Key, CleanRun]:
    """All rows of the table: lane by lane, pair by pair."""
    return {
        (lane, pair, run, str(read)): request
        for lane in lanes
        for pair, reads in _reads(plan, lane).items()
        for read in reads
        for run, request in _requests(plan.pairs[pair], read)
    }


def _reads(plan: Plan, lane: int) -> dict[int, dict[int | str, None]]:
    """For each pair of a lane, where its cells read, each place once."""
    grid, inputs = plan.tables["grid"], plan.tables["inputs"]
    read_of = {number: cell.read for number, cell in plan.cells.items()}
    by_class: dict[int, dict[int | str, None]] = {}
    for kind, cell in zip(grid["class"].to_pylist(), grid["cell"].to_pylist(), strict=True):
        by_class.setdefault(kind, {})[read_of[cell]] = None
    rows = zip(*(inputs[name].to_pylist() for name in ("lane", "pair", "class", "kept")), strict=True)
    by_pair: dict[int, dict[int | str, None]] = {}
    for at, pair, kind, kept in rows:
        if kept and at == lane:
            # A class that no block is about has no cells; a pair that was given twice may be in two.
            by_pair.setdefault(pair, {}).update(by_class.get(kind, {}))
    return by_pair


def _requests(pair: Pair, read: int | str) -> list[tuple[str, CleanRun]]:
    found = ((run, read_in(pair, run, read)) for run in pair.tokens)
    return [
        (run, CleanRun(pair.tokens[run], at, pair.label_ids, pair.base_label_ids))
        for run, at in found
        if at is not None
    ]
