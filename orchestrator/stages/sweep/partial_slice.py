"""Running some jobs of a slice: those of a retry, or all of a slice that killed workers, one by one."""

__all__ = ["GIVEN_UP", "run_lost", "run_selected"]

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orchestrator.stages.sweep.work import Slice
from workers.vocabulary import Cell, Pair

if TYPE_CHECKING:
    from workers.engine.batch import Batch, BatchResult
    from workers.engine.engine import Engine

GIVEN_UP = ("WorkerDied", "workers died of this job again and again; their logs say more")
"""Type and message of a failed row that no worker lived to write."""


class _Block(NamedTuple):
    """Neighbouring cells, counted from the slice's first, on the same pairs of the tile."""

    lo: int
    hi: int
    pairs: tuple[int, ...]


def run_selected(
    engine: "Engine",
    taken: Slice,
    cells: Sequence[tuple[int, Cell]],
    pairs: Sequence[Pair],
    note: Callable[[int], None],
    deadline_s: float,
) -> "BatchResult":
    """The jobs of a retry, or those of a careful slice with a `note` of each before it begins.

    Args:
        engine: the model's.
        taken: the slice; without `jobs` all of its jobs are run.
        cells: its cells, (number, cell).
        pairs: all pairs of its tile.
        note: called with ``k * P + j`` before a job of a careful slice begins.
        deadline_s: past this no further cells are begun.

    Returns:
        The rows of the first whole cells, in the order (cell, pair).
    """
    from workers.engine.batch import Batch

    until = time.perf_counter() + deadline_s
    outcomes: list[BatchResult] = []
    num_cells = 0
    for block in _blocks(taken, len(pairs)):
        if outcomes and time.perf_counter() > until:
            break
        mine = cells[block.lo : block.hi]
        if taken.careful:
            for j in block.pairs:
                job = (taken.k_lo + block.lo) * len(pairs) + j
                batch = Batch(cells=mine, pairs=[pairs[j]], families=taken.families)
                outcomes.append(_run_alone(engine, batch, taken, job, note))
        else:
            chosen = [pairs[j] for j in block.pairs]
            outcomes.append(engine.run(Batch(cells=mine, pairs=chosen, families=taken.families)))
        num_cells = block.hi
    return _joined(outcomes, num_cells)


def run_lost(
    taken: Slice, cells: Sequence[tuple[int, Cell]], pairs: Sequence[Pair], type_name: str, message: str
) -> "BatchResult":
    """The jobs of a slice whose model there is not: failed rows that say why."""
    from workers.engine.batch import Batch

    outcomes = [
        _failed(
            Batch(
                cells=cells[block.lo : block.hi],
                pairs=[pairs[j] for j in block.pairs],
                families=taken.families,
            ),
            type_name,
            message,
        )
        for block in _blocks(taken, len(pairs))
    ]
    return _joined(outcomes, len(cells))


def _blocks(taken: Slice, num_pairs: int) -> Iterator[_Block]:
    """Blocks that run together: cells that have the same pairs; in a careful slice, single cells."""
    wanted = np.full((taken.k_hi - taken.k_lo) * num_pairs, not taken.jobs)
    for lo, hi in taken.jobs:
        wanted[lo - taken.k_lo * num_pairs : hi - taken.k_lo * num_pairs] = True
    chosen = [tuple(row.nonzero()[0].tolist()) for row in wanted.reshape(-1, num_pairs)]
    for (pairs, _), group in groupby(
        enumerate(chosen), key=lambda one: (one[1], one[0] if taken.careful else None)
    ):
        numbers = [at for at, _ in group]
        yield _Block(numbers[0], numbers[-1] + 1, pairs)


def _run_alone(
    engine: "Engine", batch: "Batch", taken: Slice, job: int, note: Callable[[int], None]
) -> "BatchResult":
    """One job; what would take the worker with it becomes a failed row as far as that can be had."""
    from workers.engine.attempts import attempt

    if any(lo <= job < hi for lo, hi in taken.given_up):
        return _failed(batch, *GIVEN_UP)
    note(job)
    found: list[BatchResult] = []
    error = attempt(lambda: found.append(engine.run(batch)))
    return found[0] if error is None else _failed(batch, type(error).__name__, str(error))


def _failed(batch: "Batch", type_name: str, message: str) -> "BatchResult":
    from workers.engine.batch import BatchResult, Sheet

    sheet = Sheet.of(batch)
    num_rows = len(batch.cells) * len(batch.pairs)
    for row in range(num_rows):
        sheet.fail(row, type_name, message)
    columns = sheet.first(num_rows)
    tiers = Counter(columns["tier"].tolist())
    return BatchResult(
        num_cells=len(batch.cells),
        columns=columns,
        tiers=tiers,
        num_failed=num_rows,
        num_forwards=0,
        model_s=0.0,
        capture_s=0.0,
    )


def _joined(outcomes: Sequence["BatchResult"], num_cells: int) -> "BatchResult":
    """One outcome for all, as of one call."""
    from workers.engine.batch import BatchResult

    names = outcomes[0].columns
    return BatchResult(
        num_cells=num_cells,
        columns={name: np.concatenate([one.columns[name] for one in outcomes]) for name in names},
        tiers=sum((Counter(one.tiers) for one in outcomes), Counter()),
        num_failed=sum(one.num_failed for one in outcomes),
        num_forwards=sum(one.num_forwards for one in outcomes),
        model_s=sum(one.model_s for one in outcomes),
        capture_s=sum(one.capture_s for one in outcomes),
    )
