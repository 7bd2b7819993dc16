"""Worker's half of a sweep: runs the cells of a slice on the pairs of its tile, and writes a part."""

__all__ = ["CellHands"]

import os
import socket
import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from orchestrator.faults import reach
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import StageReport
from orchestrator.stages.sweep.partial_slice import run_lost, run_selected
from orchestrator.stages.sweep.work import Slice, jobs_within
from orchestrator.stages.units import Taken
from orchestrator.store import UNWRITTEN, Manifest, encode_part
from workers.errors import RunError
from workers.vocabulary import Cell, Pair

if TYPE_CHECKING:
    from workers.engine.batch import BatchResult

FIT_POLL_S = 0.2
"""Time between two looks for a fit that another worker makes."""
OVERRUN = 2.0
"""Past this many times its target a slice ends with the cells that it has done."""


class CellHands:
    """Runs slices of cells, or estimates them, with the engines of a bench."""

    def __init__(self, bench: WorkerBench) -> None:
        self._bench = bench

    def run(self, taken: Taken, target_s: float, worker: int) -> StageReport:
        """As `Hands.run`: a slice, or its first cells, as one part."""
        bench, mine = self._bench, cast(Slice, taken)
        if bench.lost(mine.lane) is None:
            # Loading says nothing of how long jobs take.
            self._load(mine, worker)
        started = time.perf_counter()
        bench.log.begun(mine)
        try:
            outcome = self._outcome(mine, OVERRUN * target_s, worker)
            bench.engines.keep_pace()
            manifest = self._write(mine, outcome, started)
        except Exception as error:
            bench.log.failed(mine, error)
            raise
        bench.log.ended(manifest)
        reach("worker.report")
        seconds = time.perf_counter() - started - outcome.capture_s
        return StageReport(outcome.num_cells, seconds, manifests=(manifest,))

    def _load(self, taken: Slice, worker: int) -> None:
        """Load the slice's model and its fits: a damaged file ends the run, and makes no failed rows."""
        bench, engine = self._bench, self._bench.engine(taken.lane)
        if (fits := bench.engines.fits) is None:
            return
        units = [unit for _, cell in self._inputs(taken)[0] for unit in cell.every_unit()]
        wanted = list(dict.fromkeys(fit for unit in units for fit in (unit.fit, unit.value_fit) if fit))
        # They are there; but a shared disk may show that late.
        while not all(map(fits.is_settled, wanted)):
            with bench.at_once():
                if not fits.make_one(wanted, engine.model, worker, bench.pulse):
                    time.sleep(FIT_POLL_S)
        for fit in wanted:
            # One that cannot be made says so again when its cells run, and its rows become failures.
            with suppress(RunError):
                fits.of(fit, engine.model)

    def _outcome(self, taken: Slice, deadline_s: float, worker: int) -> "BatchResult":
        from workers.engine.batch import Batch

        cells, pairs, tile_cells = self._inputs(taken)
        if (lost := self._bench.lost(taken.lane)) is not None:
            return run_lost(taken, cells, pairs, *lost)
        engine = self._bench.engine(taken.lane)
        if taken.careful or taken.jobs:
            trial = self._bench.trial(worker)
            outcome = run_selected(engine, taken, cells, pairs, trial.note, deadline_s)
            trial.clear()
            return outcome
        batch = Batch(cells=cells, pairs=pairs, families=taken.families)
        # Captures are made once for all cells of the tile, whichever slices they come in.
        return engine.run(batch, deadline_s=deadline_s, tile_cells=tile_cells)

    def _write(self, taken: Slice, outcome: "BatchResult", started: float) -> Manifest:
        """Write the rows as a part, durably, and describe it."""
        bench = self._bench
        num_rows = len(outcome.columns["cell"])
        attempt = 0 if taken.replaces is None else 1
        attempts = np.full(num_rows, attempt, np.uint8)
        body = encode_part({**outcome.columns, "attempt": attempts}, taken.families)
        capability = None if bench.lost(taken.lane) is not None else bench.engine(taken.lane).capability
        num_pairs = len(bench.plan.tiles[taken.tile].pairs)
        k_hi = taken.k_lo + outcome.num_cells
        draft = Manifest(
            path=bench.store.fresh_path(bench.epoch, str(taken.lane)),
            **UNWRITTEN,
            families=taken.families,
            lane=str(taken.lane),
            tile=taken.tile,
            k_lo=taken.k_lo,
            k_hi=k_hi,
            rows=num_rows,
            failed=outcome.num_failed,
            tiers=outcome.tiers,
            tier_reason="" if capability is None else capability.tier,
            capability="" if capability is None else capability.to_json(),
            timings={
                "total_s": time.perf_counter() - started,
                "model_s": outcome.model_s,
                "capture_s": outcome.capture_s,
            },
            worker=str(os.getpid()),
            host=socket.gethostname(),
            attempt=attempt,
            replaces=taken.replaces,
            jobs=jobs_within(taken.jobs, taken.k_lo * num_pairs, k_hi * num_pairs),
        )
        manifest = bench.store.write_rows(draft, body, study=bench.study, seq=taken.seq, plan=bench.ref.id)
        reach("worker.written")
        return manifest

    def _inputs(self, taken: Slice) -> tuple[list[tuple[int, Cell]], list[Pair], list[Cell]]:
        """The cells of a slice with their numbers, the pairs of its tile, and all cells of its tile."""
        tile = self._bench.plan.tiles[taken.tile]
        cells, pairs = self._known
        numbers = self._bench.plan.cellsets[tile.cellset].tolist()
        mine = [(number, cells[number]) for number in numbers[taken.k_lo : taken.k_hi]]
        return mine, [pairs[number] for number in tile.pairs], [cells[number] for number in numbers]

    @cached_property
    def _known(self) -> tuple[dict[int, Cell], dict[int, Pair]]:
        """All cells and pairs that tiles may name."""
        plan = self._bench.plan
        return plan.cells | plan.carried_cells, plan.pairs | plan.carried_pairs
