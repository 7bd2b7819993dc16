"""The unintervened runs beside every result: each kept pair's base and sources, on the pair's labels."""

__all__ = ["runs_table"]

import numpy as np
import pyarrow as pa

from orchestrator.plan.clean import COLUMNS, Scorer
from orchestrator.plan.tables import Plan
from workers.vocabulary import CleanRun, Pair, read_in


def runs_table(plan: Plan, scorer: Scorer) -> pa.Table:
    """One row for each lane × pair × run × read of the plan, with the values of `COLUMNS`.

    Raises:
        MissingRunsError: `scorer` may not load a model and does not know them all.
    """
    keys: list[tuple[int, int, str, str]] = []
    values: list[dict[str, np.ndarray]] = []
    for number, lane in plan.lanes.items():
        rows = [
            ((number, pair, run, str(read)), request)
            for pair, reads in _reads(plan, number).items()
            for read in reads
            for run, request in _requests(plan.pairs[pair], read)
        ]
        if rows:
            keys += [key for key, _ in rows]
            values.append(scorer.score(lane, [request for _, request in rows]))
    names = ("lane", "pair", "run", "read")
    types = (pa.uint16(), pa.uint32(), pa.string(), pa.string())
    columns = {name: pa.array([key[i] for key in keys], types[i]) for i, name in enumerate(names)}
    scored = {name: np.concatenate([v[name] for v in values]) for name, _ in COLUMNS}
    return pa.table({**columns, **scored})


def _reads(plan: Plan, lane: int) -> dict[int, list[int | str]]:
    """For each pair of a lane, where its cells read, each place once."""
    grid, inputs = plan.tables["grid"], plan.tables["inputs"]
    cells = {n: cell.read for n, cell in plan.cells.items()}
    by_class: dict[int, dict[int | str, None]] = {}
    for kind, cell in zip(grid["class"].to_pylist(), grid["cell"].to_pylist(), strict=True):
        by_class.setdefault(kind, {})[cells[cell]] = None
    rows = zip(*(inputs[name].to_pylist() for name in ("lane", "pair", "class", "kept")), strict=True)
    return {pair: list(by_class.get(kind, ())) for at, pair, kind, kept in rows if kept and at == lane}


def _requests(pair: Pair, read: int | str) -> list[tuple[str, CleanRun]]:
    found = ((run, read_in(pair, run, read)) for run in pair.tokens)
    return [
        (run, CleanRun(pair.tokens[run], at, pair.label_ids, pair.base_label_ids))
        for run, at in found
        if at is not None
    ]
