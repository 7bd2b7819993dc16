"""Selection of the cells of a screened study that run: from the estimates that are committed, by model."""

__all__ = ["mean_effects", "select"]

import uuid
from collections import defaultdict

import numpy as np
import pyarrow.compute as pc

from orchestrator.plan.screening import CellChoice, choose
from orchestrator.plan.tables import Plan
from orchestrator.store import State, StudyStore
from studies import Study
from workers.metrics import ESTIMATE


def select(plan: Plan, state: State, store: StudyStore, study: Study) -> dict[int, CellChoice]:
    """Fate of each cell that was estimated, by its number.

    Raises:
        StoreError: a file of rows is missing or damaged.
    """
    assert study.screen is not None
    means = mean_effects(plan, state, store)
    cells, table = plan.tables["cells"], plan.tables["screening"]
    estimated = set(table.filter(pc.equal(table["selected"], "open"))["cell"].to_pylist())
    numbers: dict[uuid.UUID, int] = {}
    lanes: dict[int, dict[uuid.UUID, float | None]] = defaultdict(dict)
    for number, identity, lane in zip(
        cells["cell"].to_pylist(), cells["cell_id"].to_pylist(), cells["lane"].to_pylist(), strict=True
    ):
        if number in estimated:
            numbers[identity] = number
            lanes[lane][identity] = means.get(number)
    found = {key: one for effects in lanes.values() for key, one in choose(effects, study.screen).items()}
    return {numbers[identity]: one for identity, one in found.items()}


def mean_effects(plan: Plan, state: State, store: StudyStore) -> dict[int, float]:
    """The mean of |estimate| over the plan's pairs, for each cell that has an estimate.

    Rounded to float32, so that the order in which rows were written does not show.
    """
    size = 1 + max(plan.tables["cells"]["cell"].to_pylist(), default=0)
    sums, counts = np.zeros(size), np.zeros(size, np.int64)
    kept = _kept_pairs(plan)
    for file in state.files.values():
        if file.families != (ESTIMATE,) or int(file.lane) not in kept:
            continue
        rows = store.read_part(file, ("cell", "pair", "estimate"))
        cell, pair, estimate = (rows[name].to_numpy() for name in ("cell", "pair", "estimate"))
        is_one = (cell < size) & np.isin(pair, kept[int(file.lane)]) & ~np.isnan(estimate)
        sums += np.bincount(cell[is_one], np.abs(estimate[is_one], dtype=np.float64), size)
        counts += np.bincount(cell[is_one], minlength=size)
    found = np.flatnonzero(counts)
    return dict(zip(found.tolist(), (sums[found] / counts[found]).astype(np.float32).tolist(), strict=True))


def _kept_pairs(plan: Plan) -> dict[int, np.ndarray]:
    """The numbers of the pairs that each lane runs."""
    inputs = plan.tables["inputs"].filter(plan.tables["inputs"]["kept"])
    lanes, pairs = inputs["lane"].to_numpy(), inputs["pair"].to_numpy()
    return {int(lane): np.unique(pairs[lanes == lane]) for lane in np.unique(lanes)}
