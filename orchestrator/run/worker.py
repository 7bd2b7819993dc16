"""Worker of a run, the same under Ray and inline: dispatches what it is given to the stages' hands."""

__all__ = ["Hello", "StudyWorker"]

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from orchestrator.faults import reach
from orchestrator.run.engines import Engines
from orchestrator.run.inflight_note import Trial
from orchestrator.run.stopping import AtOnce
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import Hands, StageReport
from orchestrator.stages.registry import find_stage, find_stages
from orchestrator.stages.units import Taken
from orchestrator.store import PlanRef, StudyStore, explained
from workers.model.capability import Capability


@dataclass(frozen=True, slots=True)
class Hello:
    """First words of a worker, before any work."""

    host: str
    pid: int
    version: str
    nonce: str | None
    """Text that it read from the study's folder; None where it sees no such file."""


class StudyWorker:
    """Worker that does parts of a committed plan, one after the other."""

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
        self._bench = WorkerBench(StudyStore(root), plan, epoch, engines, has_own_process)
        self._bench.equip = self._equip
        self._hands: dict[str, Hands] = {}
        self._is_equipped = False

    def listen(self, pulse: Callable[[], None], is_asked: Callable[[], bool], at_once: AtOnce) -> None:
        """Take the callbacks of the process that waits: see `WorkerBench`."""
        self._bench.pulse, self._bench.is_asked, self._bench.at_once = pulse, is_asked, at_once

    def hello(self, question: str, answer: str) -> Hello:
        """Read the file `question` in the study's folder and write its text to the file `answer`."""
        root = self._bench.root
        path = root / question
        nonce = path.read_text() if path.exists() else None
        if nonce is not None:
            path = root / answer
            with explained(path):
                path.write_text(nonce)
            self._bench.log.note("found the study")
        return Hello(socket.gethostname(), os.getpid(), version("swapyard"), nonce)

    def load(self, taken: Taken) -> Capability | None:
        """Load the model of a part; its abilities, or None where there is no model to be loaded.

        Raises:
            ModelError: the model is not on this machine, is not the one that the plan was made for, or
                refuses a site that the plan's cells name.
        """
        if taken.lane < 0 or self._bench.lost(taken.lane) is not None:
            return None
        with self._bench.at_once():
            return self._bench.engine(taken.lane).capability

    def trial(self, worker: int) -> Trial:
        """Note of the job that the worker of this number is alone with."""
        return self._bench.trial(worker)

    def run(self, taken: Taken, target_s: float, worker: int) -> StageReport:
        """Do a part, keep what came of it, and say what was done; about `target_s` seconds, twice at most."""
        reach("worker.slice")
        if taken.stage not in self._hands:
            self._hands[taken.stage] = find_stage(taken.stage).hands(self._bench)
        return self._hands[taken.stage].run(taken, target_s, worker)

    def close(self) -> None:
        """Close the log, where one was opened."""
        self._bench.close()

    def _equip(self) -> None:
        """Give the engines what stages make for them, once."""
        if not self._is_equipped:
            self._is_equipped = True
            for stage in find_stages():
                stage.equip(self._bench)
