"""One contract for whoever runs slices, and the executor that runs them in this process."""

__all__ = ["Died", "Event", "Executor", "Failed", "Finished", "InlineExecutor"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.run.schedule import Slice
from orchestrator.run.worker import Report, StudyWorker
from workers.errors import SwapyardError


@dataclass(frozen=True, slots=True)
class Finished:
    """A slice came back."""

    worker: int
    taken: Slice
    report: Report


@dataclass(frozen=True, slots=True)
class Failed:
    """A call raised; the worker lives."""

    worker: int
    taken: Slice
    message: str


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone, and what it did with its slice is not known."""

    worker: int
    taken: Slice
    message: str


Event = Finished | Failed | Died


class Executor(Protocol):
    """Runs slices on workers that are known by number; one slice a worker at a time.

    One, because a slice lasts seconds and a hand-over milliseconds; so a death has one slice to blame.
    """

    def start(self) -> Sequence[int]:
        """Bring up the workers and return their numbers."""

    def submit(self, worker: int, taken: Slice, target_s: float) -> None:
        """Give an idle worker a slice that should take `target_s` seconds."""

    def wait(self, timeout_s: float) -> list[Event]:
        """What happened since, waiting at most `timeout_s` for something to happen."""

    def replace(self, worker: int) -> int:
        """A new worker in the place of one that died; its number."""

    def close(self) -> None:
        """End the workers."""


class InlineExecutor:
    """One worker in this process: no start-up, easy to debug."""

    def __init__(self, worker: StudyWorker) -> None:
        self._worker = worker
        self._waiting: tuple[Slice, float] | None = None

    def start(self) -> Sequence[int]:
        """As `Executor.start`."""
        return [0]

    def submit(self, worker: int, taken: Slice, target_s: float) -> None:
        """As `Executor.submit`; the work is done by `wait`."""
        self._waiting = (taken, target_s)

    def wait(self, timeout_s: float) -> list[Event]:
        """Run what was submitted; it cannot be left before it ends."""
        if self._waiting is None:
            return []
        (taken, target_s), self._waiting = self._waiting, None
        try:
            return [Finished(0, taken, self._worker.run(taken, target_s))]
        except SwapyardError:
            raise
        except Exception as error:
            return [Failed(0, taken, f"{type(error).__name__}: {error}")]

    def replace(self, worker: int) -> int:
        """Never needed: this worker dies with the driver."""
        raise AssertionError("an inline worker cannot die alone")

    def close(self) -> None:
        """As `Executor.close`: nothing was started."""
