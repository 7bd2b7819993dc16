"""One contract for whoever runs slices, and the executor that runs them in this process."""

__all__ = ["Died", "Event", "Executor", "Finished", "InlineExecutor", "Joined", "Ready"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from orchestrator.run.stopping import AtOnce, EndedError, never
from orchestrator.run.worker import StudyWorker
from orchestrator.stages.contract import StageReport
from orchestrator.stages.units import Taken
from workers.errors import RunError, SwapyardError
from workers.limits import lasting
from workers.model.capability import Capability


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker is up and waits for slices."""

    worker: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded the model of the slice that it was given, and waits for a word before it begins."""

    worker: int
    taken: Taken
    capability: Capability
    """Abilities of the loaded model there."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A slice came back."""

    worker: int
    taken: Taken
    report: StageReport


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone, and what it did with its slice is not known."""

    worker: int
    taken: Taken | None
    """None where it had none."""
    message: str
    is_guilty: bool
    """Whether the slice may be why: not where the worker was still loading, or all died at once."""
    job: int | None = None
    """Of a careful slice, the job that the worker was alone with."""


Event = Joined | Ready | Finished | Died


class Executor(Protocol):
    """Runs slices on workers that are known by number; one slice a worker at a time.

    One, because a slice lasts seconds and a hand-over milliseconds; so a death has one slice to blame.
    """

    def start(self) -> list[int]:
        """Begin to bring up the workers, each of which joins when it is ready; their numbers."""

    def add(self, share: float) -> int:
        """Begin to bring up one more, which takes this share of the memory that one usually takes."""

    def submit(self, worker: int, taken: Taken, target_s: float) -> None:
        """Give an idle worker a slice that should take `target_s` seconds.

        The first slice of a model waits, once that is loaded, for `proceed` or `retire`: see `Ready`.
        """

    def proceed(self, worker: int) -> None:
        """Let a worker that is ready begin its slice."""

    def retire(self, worker: int) -> None:
        """End a worker that is ready; its slice was not begun."""

    def wait(self, timeout_s: float) -> list[Event]:
        """Events since the last call, waiting at most `timeout_s` for something to happen."""

    def abandon(self) -> list[int]:
        """Forget slices that no worker has begun, and the workers that still make ready for them."""

    def close(self) -> None:
        """End the workers."""


class InlineExecutor:
    """One worker in this process: no start-up, easy to debug.

    It can only raise, not die: then a fresh one takes its place.
    """

    def __init__(self, make: Callable[[float], StudyWorker]) -> None:
        """`make` gives a worker that takes a share of the usual memory."""
        self._make = make
        self._worker: StudyWorker | None = None
        self._number = -1
        self._joining = False
        self._waiting: tuple[Taken, float] | None = None
        self._lane: int | None = None
        """Whose model it has loaded."""
        self._may_begin = False
        self.pulse: Callable[[], None] = lambda: None
        """Called now and then while a fit is made: nothing else goes on in this process meanwhile."""
        self.at_once: AtOnce = never
        """Context of work that may be left before its end: see `orchestrator.run.stopping`."""
        self.is_asked: Callable[[], bool] = lambda: False
        """Whether somebody asked to stop, so that a slice of a training ends before its time."""
        self._is_left = False
        """Whether the slice was left so, before any of its rows was begun."""

    def start(self) -> list[int]:
        """As `Executor.start`."""
        return [self.add(1.0)]

    def add(self, share: float) -> int:
        """As `Executor.add`."""
        self._worker = self._make(share)
        self._lane = None
        self._worker.listen(lambda: self.pulse(), lambda: self.is_asked(), at_once=lambda: self.at_once())
        self._number += 1
        self._joining = True
        return self._number

    def submit(self, worker: int, taken: Taken, target_s: float) -> None:
        """As `Executor.submit`; the work is done by `wait`."""
        self._waiting = (taken, target_s)
        self._may_begin = taken.lane < 0 or taken.lane == self._lane

    def proceed(self, worker: int) -> None:
        """As `Executor.proceed`."""
        self._may_begin = True

    def retire(self, worker: int) -> None:
        """As `Executor.retire`."""
        self._waiting = None
        self.close()
        self._worker = None

    def wait(self, timeout_s: float) -> list[Event]:
        """Run what was submitted; it cannot be left before it ends."""
        if self._joining:
            self._joining = False
            return [Joined(self._number)]
        if self._waiting is None or self._worker is None:
            return []
        taken, target_s = self._waiting
        number, worker = self._number, self._worker
        try:
            if not self._may_begin:
                self._lane = taken.lane
                self._may_begin = True
                if (capability := worker.load(taken)) is not None:
                    self._may_begin = False
                    return [Ready(number, taken, capability)]
            self._waiting = None
            return [Finished(number, taken, worker.run(taken, target_s, number))]
        except SwapyardError:
            raise
        except EndedError:
            self._waiting, self._is_left = None, True
            return []
        except Exception as error:
            worker.close()
            self._worker = self._waiting = None
            if (limit := lasting(error)) is not None:
                raise RunError(limit) from error
            message = f"{type(error).__name__}: {error}"
            return [Died(number, taken, message, is_guilty=True, job=worker.trial(number).job)]

    def abandon(self) -> list[int]:
        """As `Executor.abandon`: what is submitted here is begun, unless it was left before its first row."""
        left, self._is_left = self._is_left, False
        return [self._number] if left else []

    def close(self) -> None:
        """As `Executor.close`."""
        if self._worker is not None:
            self._worker.close()
