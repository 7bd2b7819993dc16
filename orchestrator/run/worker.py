"""What runs slices, the same under Ray and inline: one model, parts written where the study lies."""

__all__ = ["Hello", "Report", "StudyWorker"]

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.faults import reach
from orchestrator.loading import Engines
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.ending import AtOnce, never
from orchestrator.run.fits import StudyFits
from orchestrator.run.logs import WorkerLog, worker_name
from orchestrator.run.making import Making
from orchestrator.run.refused import check_loaded
from orchestrator.run.selected import run_lost, run_selected
from orchestrator.run.trained import failure_of
from orchestrator.run.trainings import StudyTrainings, TrainReport, TrainSlice
from orchestrator.run.trial import Trial
from orchestrator.run.work import Slice, jobs_within
from orchestrator.store import UNWRITTEN, Manifest, PlanRef, StudyStore, encode_part, explained
from workers.capability import Capability
from workers.errors import RunError
from workers.vocabulary import Cell, Pair

if TYPE_CHECKING:
    from workers.engine.batch import BatchResult
    from workers.engine.engine import Engine

FIT_POLL_S = 0.2
"""How often it is looked whether a fit is there that another worker makes."""
OVERRUN = 2.0
"""Past this many times its target a slice ends with the cells that it has done."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a slice: the first `num_cells` of its cells are done and lie in one part."""

    num_cells: int
    seconds: float
    """Spent on the jobs: what captures cost says nothing of how long more of them take."""
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker's first words, before any work."""

    host: str
    pid: int
    version: str
    nonce: str | None
    """What it read from the study's folder; None where it sees no such file."""


class StudyWorker:
    """Runs slices of a committed plan, one after the other."""

    def __init__(
        self,
        root: Path,
        plan: PlanRef,
        *,
        epoch: int,
        engines: Engines,
        has_own_process: bool = False,
    ) -> None:
        """`root` is the study's folder; parts are written under the driver's `epoch`.

        A worker that `has_own_process` sends all that is printed there to its log.
        """
        self._store = StudyStore(root)
        self._ref = plan
        self._epoch = epoch
        self._engines = engines
        self._has_own_process = has_own_process
        self._accepted: set[int] = set()
        """Lanes whose loaded models hold what the sites of their cells promise."""
        self.pulse: Callable[[], None] = lambda: None
        """Called now and then while a fit is made, for whoever waits in this process."""
        self.is_asked: Callable[[], bool] = lambda: False
        """Whether somebody asked to stop: a slice of a training ends then."""
        self.at_once: AtOnce = never
        """What is done within it may be left before its end: see `orchestrator.run.ending`."""

    def hello(self, question: str, answer: str) -> Hello:
        """Read the file `question` in the study's folder and write what it says to the file `answer`."""
        path = self._store.root / question
        nonce = path.read_text() if path.exists() else None
        if nonce is not None:
            path = self._store.root / answer
            with explained(path):
                path.write_text(nonce)
            self._log.note("found the study")
        return Hello(socket.gethostname(), os.getpid(), version("swapyard"), nonce)

    def load(self, taken: Slice | TrainSlice) -> Capability | None:
        """Load the slice's model; what it can do, or None where the slice needs none.

        Raises:
            ModelError: the model is not on this machine, is not the one that the plan was made for, or
                refuses a site that the plan's cells name.
        """
        if isinstance(taken, TrainSlice) or self._lost(taken) is not None:
            return None
        with self.at_once():
            return self._engine(taken.lane).capability

    def prepare(self, taken: Slice | TrainSlice, worker: int = 0) -> None:
        """Load the slice's model, and make those of its fits that nobody has made.

        What another worker is making is waited for; meanwhile this one makes others of the tile's. A fit that
        cannot be made says so again when the slice runs, and its rows become failures.

        Raises:
            ModelError: the model is not on this machine, is not the one that the plan was made for, or
                refuses a site that the plan's cells name.
            StoreError: a fit cannot be read or written.
        """
        if isinstance(taken, TrainSlice) or self._lost(taken) is not None:
            return
        engine = self._engine(taken.lane)
        if self._plan.has_fits:
            cells, _, tile_cells = self._inputs(taken)
            wanted = _fits_of(cell for _, cell in cells)
            if not all(map(self._fits.is_settled, wanted)):
                self._make_fits(wanted, _fits_of(tile_cells), engine, worker)
            for fit in wanted:
                with suppress(RunError):
                    self._fits.of(fit, engine.model)

    def _make_fits(self, wanted: Sequence[str], ahead: Sequence[str], engine: "Engine", worker: int) -> None:
        """Make fits until all that are `wanted` are there; those `ahead` rather than wait for others."""
        while not all(map(self._fits.is_settled, wanted)):
            with self.at_once():
                if not self._fits.make_one([*wanted, *ahead], engine.model, worker, self.pulse):
                    time.sleep(FIT_POLL_S)

    def trial(self, worker: int) -> Trial:
        """The note of the job that this worker, of this number, is alone with."""
        return Trial(self._store.root, self._epoch, worker)

    def train(self, taken: TrainSlice, target_s: float) -> TrainReport:
        """Train for about `target_s` seconds, and say how far it is."""
        reach("worker.slice")

        def ends() -> bool:
            self.pulse()
            return self.is_asked()

        return self._trainings.advance(taken.training, target_s, ends)

    def run(self, taken: Slice | TrainSlice, target_s: float, worker: int) -> Report | TrainReport:
        """Run a slice, write its part, and say what was done; about `target_s` seconds, twice at most."""
        if isinstance(taken, TrainSlice):
            return self.train(taken, target_s)
        reach("worker.slice")
        self.prepare(taken, worker)
        # Loading a model says nothing of how long jobs take.
        started = time.perf_counter()
        self._log.begun(taken)
        try:
            outcome = self._outcome(taken, OVERRUN * target_s, self.trial(worker))
            self._engines.keep_pace()
            manifest = self._write(taken, outcome, started)
        except Exception as error:
            self._log.failed(taken, error)
            raise
        self._log.ended(manifest)
        reach("worker.report")
        seconds = time.perf_counter() - started - outcome.capture_s
        return Report(num_cells=outcome.num_cells, seconds=seconds, manifest=manifest)

    def close(self) -> None:
        """Close the log, where one was opened."""
        if "_log" in self.__dict__:
            self._log.close()

    def _outcome(self, taken: Slice, deadline_s: float, trial: Trial) -> "BatchResult":
        from workers.engine.batch import Batch

        cells, pairs, tile_cells = self._inputs(taken)
        if (lost := self._lost(taken)) is not None:
            return run_lost(taken, cells, pairs, *lost)
        engine = self._engine(taken.lane)
        if taken.careful or taken.jobs:
            outcome = run_selected(engine, taken, cells, pairs, trial.note, deadline_s)
            trial.clear()
            return outcome
        batch = Batch(cells=cells, pairs=pairs, families=taken.families)
        # Captures are made once for all cells of the tile, whichever slices they come in.
        return engine.run(batch, deadline_s=deadline_s, tile_cells=tile_cells)

    def _write(self, taken: Slice, outcome: "BatchResult", started: float) -> Manifest:
        """Write the rows as a part, durably, and describe it."""
        num_rows = len(outcome.columns["cell"])
        attempt = 0 if taken.replaces is None else 1
        attempts = np.full(num_rows, attempt, np.uint8)
        body = encode_part({**outcome.columns, "attempt": attempts}, taken.families)
        capability = None if self._lost(taken) is not None else self._engine(taken.lane).capability
        num_pairs = len(self._plan.tiles[taken.tile].pairs)
        k_hi = taken.k_lo + outcome.num_cells
        draft = Manifest(
            path=self._store.fresh_path(self._epoch, str(taken.lane)),
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
        manifest = self._store.write_rows(draft, body, study=self._study, seq=taken.seq, plan=self._ref.id)
        reach("worker.written")
        return manifest

    @cached_property
    def _study(self) -> str:
        """Which study it is, whatever its folder is called."""
        return self._store.origin()

    @cached_property
    def _log(self) -> WorkerLog:
        """Opened once the study's folder is known to be there."""
        log = WorkerLog(self._store.root, self._epoch, worker_name())
        log.capture(stdio=self._has_own_process)
        return log

    def _lost(self, taken: Slice) -> tuple[str, str] | None:
        """Type and message of the error for which there is no model; None where there is one."""
        lane = self._plan.lanes[taken.lane]
        if (failure := failure_of(self._store.root, lane)) is None:
            return None
        return failure["error_type"], f"the training of {lane.spec.ref} failed: {failure['error_message']}"

    def _engine(self, lane: int) -> "Engine":
        self._engines.root, self._engines.fits = self._store.root, self._fits
        engine = self._engines.of(self._plan.lanes[lane])
        if lane not in self._accepted:
            check_loaded(self._plan, lane, engine.model)
            self._accepted.add(lane)
        return engine

    def _inputs(self, taken: Slice) -> tuple[list[tuple[int, Cell]], list[Pair], list[Cell]]:
        """The cells of a slice with their numbers, the pairs of its tile, and all cells of its tile."""
        tile = self._plan.tiles[taken.tile]
        cells, pairs = self._known
        numbers = self._plan.cellsets[tile.cellset].tolist()
        mine = [(number, cells[number]) for number in numbers[taken.k_lo : taken.k_hi]]
        return mine, [pairs[number] for number in tile.pairs], [cells[number] for number in numbers]

    @cached_property
    def _known(self) -> tuple[dict[int, Cell], dict[int, Pair]]:
        """All cells and pairs that tiles may name."""
        plan = self._plan
        return plan.cells | plan.carried_cells, plan.pairs | plan.carried_pairs

    @cached_property
    def _trainings(self) -> StudyTrainings:
        engines = self._engines
        return StudyTrainings(
            self._store.root, self._plan, engines.threads, code=engines.code, remote_code=engines.remote_code
        )

    @cached_property
    def _fits(self) -> StudyFits:
        return StudyFits(self._store.root, self._plan, Making(self._store.root, self._epoch))

    @cached_property
    def _plan(self) -> Plan:
        return read_plan(self._store, self._ref)


def _fits_of(cells: Iterable[Cell]) -> list[str]:
    """The fits that cells use, each once."""
    units = (unit for cell in cells for unit in cell.every_unit())
    return list(dict.fromkeys(fit for unit in units for fit in (unit.fit, unit.value_fit) if fit))
