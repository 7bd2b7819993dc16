"""What runs slices, the same under Ray and inline: one model, parts written where the study lies."""

__all__ = ["Hello", "Report", "StudyWorker"]

import os
import socket
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from orchestrator.loading import Engines
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.schedule import Slice
from orchestrator.store import Manifest, PlanRef, StudyStore, encode_part
from workers.vocabulary import Cell, Pair

OVERRUN = 2.0
"""Past this many times its target a slice ends with the cells that it has done."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a slice: the first `num_cells` of its cells are done and lie in one part."""

    num_cells: int
    seconds: float
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker's first words, before any work."""

    host: str
    version: str
    nonce: str | None
    """What it read from the study's folder; None where it sees no such file."""


class StudyWorker:
    """Runs slices of a committed plan, one after the other."""

    def __init__(self, root: Path, plan: PlanRef, *, epoch: int, engines: Engines) -> None:
        """`root` is the study's folder; parts are written under the driver's `epoch`."""
        self._store = StudyStore(root)
        self._ref = plan
        self._epoch = epoch
        self._engines = engines

    def hello(self, question: str, answer: str) -> Hello:
        """Read the file `question` in the study's folder and write what it says to the file `answer`."""
        path = self._store.root / question
        nonce = path.read_text() if path.exists() else None
        if nonce is not None:
            (self._store.root / answer).write_text(nonce)
        return Hello(socket.gethostname(), version("swapyard"), nonce)

    def run(self, taken: Slice, target_s: float) -> Report:
        """Run a slice, write its part, and say what was done; about `target_s` seconds, twice at most."""
        from workers.engine import Batch

        engine = self._engines.of(self._plan.lanes[taken.lane])
        # Loading a model says nothing of how long jobs take.
        started = time.perf_counter()
        tile = self._plan.tiles[taken.tile]
        cells, pairs = self._known
        numbers = self._plan.cellsets[tile.cellset].tolist()
        batch = Batch(
            cells=[(number, cells[number]) for number in numbers[taken.k_lo : taken.k_hi]],
            pairs=[pairs[number] for number in tile.pairs],
            families=taken.families,
        )
        # Captures are made once for all cells of the tile, whichever slices they come in.
        tile_cells = [cells[number] for number in numbers]
        outcome = engine.run(batch, deadline_s=OVERRUN * target_s, tile_cells=tile_cells)
        attempt = np.zeros(len(outcome.columns["cell"]), np.uint8)
        body = encode_part({**outcome.columns, "attempt": attempt}, taken.families)
        written = self._store.write_part(self._epoch, str(taken.lane), body)
        seconds = time.perf_counter() - started
        manifest = Manifest(
            path=written.path,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            families=taken.families,
            lane=str(taken.lane),
            tile=taken.tile,
            k_lo=taken.k_lo,
            k_hi=taken.k_lo + outcome.num_cells,
            rows=outcome.num_cells * len(tile.pairs),
            failed=outcome.num_failed,
            tiers=outcome.tiers,
            timings={"total_s": seconds, "model_s": outcome.model_s, "capture_s": outcome.capture_s},
            worker=str(os.getpid()),
            host=socket.gethostname(),
        )
        return Report(num_cells=outcome.num_cells, seconds=seconds, manifest=manifest)

    @cached_property
    def _known(self) -> tuple[dict[int, Cell], dict[int, Pair]]:
        """All cells and pairs that tiles may name."""
        plan = self._plan
        return plan.cells | plan.carried_cells, plan.pairs | plan.carried_pairs

    @cached_property
    def _plan(self) -> Plan:
        return read_plan(self._store, self._ref)
