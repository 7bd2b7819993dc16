"""Workers as Ray actors: on a quiet Ray of our own, or on an existing cluster."""

__all__ = ["RayExecutor"]

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from orchestrator.run.executors import Died, Event, Finished, Joined, Ready
from orchestrator.run.inflight_note import Trial
from orchestrator.run.local_ray import LocalRay, resources
from orchestrator.run.worker import Hello, StudyWorker
from orchestrator.stages.registry import find_stage
from orchestrator.stages.units import Taken
from orchestrator.store import explained
from workers.errors import ClusterError, RunError, SwapyardError
from workers.libraries.ray import cause_of, last_line

JOIN_TIMEOUT_S = 300.0
"""Time that a worker may take to come up and find the study."""
MOST_STILLBORN = 3
"""Number of workers that may die before any has come up."""
LOAD_TIMEOUT_S = 600.0
"""Time that loading a small model may take."""
LOAD_BYTES_PER_S = 20e6
"""And how fast larger ones must be loaded, at least, counting 4 bytes a parameter."""
SLICE_TIMEOUT_S = 600.0
"""Time that a call may take: one that hangs must not hold up the study for ever."""
SLICE_TIMEOUT_TARGETS = 20.0
"""Or this many times what it should take, where that is more."""


@dataclass(slots=True)
class _Seat:
    """A worker: its actor, and the one call that it is at."""

    actor: Any
    nonce: "_Nonce"
    ref: Any = None
    until: float = 0.0
    """Time at which the call is given up."""
    has_joined: bool = False
    process: psutil.Process | None = None
    """Process that our own Ray started, so that it is one of this machine."""
    lane: int | None = None
    taken: Taken | None = None
    target_s: float = 0.0
    is_loading: bool = False
    """Whether its call loads a model, before which nothing else is made ready."""
    is_preparing: bool = False
    """Whether its call only makes others ready: loads a model, or makes what cells wait for."""


class RayExecutor:
    """Slices on Ray actors. Death is ours to handle: Ray restarts nothing and calls nothing twice."""

    def __init__(
        self,
        make: Callable[[float], Mapping[str, Any]],
        *,
        root: Path,
        epoch: int,
        num_workers: int | None,
        threads: int,
        address: str | None,
        use_gpus: bool = False,
        num_parameters: int = 0,
        slice_timeout_s: float | None = None,
    ) -> None:
        """Workers of the study in `root` are made with the arguments that `make` gives for a share of memory.

        Each has `threads` cores. `address` is an existing cluster's; without it a Ray of our own is started
        on the loopback. With `use_gpus` the GPUs that Ray finds are shared out among the workers.
        `num_parameters` of the largest model says how long loading may take, `slice_timeout_s` how long a
        part may, where the default does not do.
        """
        self._num_workers = num_workers
        self._make = make
        self._root = root
        self._epoch = epoch
        self._threads = threads
        self._use_gpus = use_gpus
        self._load_timeout_s = LOAD_TIMEOUT_S + 4 * num_parameters / LOAD_BYTES_PER_S
        self._slice_timeout_s = slice_timeout_s
        self._ray = LocalRay(address, num_cpus=(num_workers or 1) * threads)
        self._seats: dict[int, _Seat] = {}
        self._next = 0
        self._has_joined = False
        self._num_stillborn = 0
        self._gpus_each = 0.0

    def start(self) -> list[int]:
        """As `Executor.start`; must be called from a thread that lives as long as the driver.

        Raises:
            RunError: Ray did not start.
        """
        self._ray.start()
        found = resources()
        num = self._num_workers or max(1, int(found.get("CPU", 0.0)) // self._threads)
        if self._use_gpus:
            self._gpus_each = min(1.0, found.get("GPU", 0.0) / num)
        return [self.add(1.0) for _ in range(num)]

    def add(self, share: float) -> int:
        """As `Executor.add`."""
        import ray

        made: Any = ray.remote(StudyWorker)
        remote = made.options(
            max_restarts=0, max_task_retries=0, num_cpus=self._threads, num_gpus=self._gpus_each
        )
        number, self._next = self._next, self._next + 1
        nonce = _Nonce(self._root, number)
        seat = _Seat(remote.remote(**self._make(share), has_own_process=True), nonce)
        seat.ref = seat.actor.hello.remote(nonce.question, nonce.answer)
        seat.until = time.monotonic() + JOIN_TIMEOUT_S
        self._seats[number] = seat
        return number

    def submit(self, worker: int, taken: Taken, target_s: float) -> None:
        """As `Executor.submit`; its model is made ready before."""
        seat = self._seats[worker]
        seat.taken, seat.target_s = taken, target_s
        if taken.lane < 0 or seat.lane == taken.lane:
            self.proceed(worker)
            return
        seat.is_loading = seat.is_preparing = True
        seat.ref = seat.actor.load.remote(taken)
        seat.until = time.monotonic() + self._load_timeout_s

    def proceed(self, worker: int) -> None:
        """As `Executor.proceed`."""
        seat = self._seats[worker]
        assert seat.taken is not None
        stage = find_stage(seat.taken.stage)
        seat.is_preparing = stage.is_preparation
        usual = self._slice_timeout_s or max(SLICE_TIMEOUT_S, SLICE_TIMEOUT_TARGETS * seat.target_s)
        seat.ref = seat.actor.run.remote(seat.taken, seat.target_s, worker)
        seat.until = time.monotonic() + (stage.timeout_s or usual)

    def retire(self, worker: int) -> None:
        """As `Executor.retire`."""
        self._drop(worker)

    def wait(self, timeout_s: float) -> list[Event]:
        """As `Executor.wait`.

        Raises:
            RunError: no worker came up, or one cannot do any work here.
        """
        import ray

        if (fallen := self._ray.fallen()) is not None:
            return self._restart(fallen)
        busy = {seat.ref: number for number, seat in self._seats.items() if seat.ref is not None}
        if not busy:
            return []
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=timeout_s)
        if ready:
            # What else has come in by now is committed together with it.
            ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        events = [event for ref in ready for event in self._events(busy[ref])]
        return events + self._overdue()

    def abandon(self) -> list[int]:
        """As `Executor.abandon`."""
        preparing = [number for number, seat in self._seats.items() if seat.is_preparing]
        for number in preparing:
            self._drop(number)
        return preparing

    def close(self) -> None:
        """As `Executor.close`: our own Ray is shut down, of an existing one we only leave."""
        for number in list(self._seats):
            self._drop(number)
        self._ray.stop()

    def _events(self, number: int) -> list[Event]:
        """Events that a call which ended means."""
        import ray

        seat = self._seats[number]
        ref, seat.ref = seat.ref, None
        try:
            found = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            cause = cause_of(error)
            if isinstance(cause, SwapyardError):
                raise type(cause)(str(cause)) from None
            # What a call left behind in its process is not known: a fresh one takes its place.
            return [self._died(number, last_line(error))]
        except ray.exceptions.RayError as error:
            self._refuse_never_started(error)
            # Died or unreachable: either way nobody knows what became of the slice.
            return [self._died(number, last_line(error).partition(". ")[0])]
        if not seat.has_joined:
            seat.nonce.check(found)
            seat.has_joined = self._has_joined = True
            if self._ray.is_own:
                # It may be gone already: then its next call says so.
                with suppress(psutil.Error):
                    seat.process = psutil.Process(found.pid)
            return [Joined(number)]
        taken = seat.taken
        assert taken is not None
        if seat.is_loading:
            seat.is_loading = seat.is_preparing = False
            seat.lane = taken.lane
            if found is not None:
                return [Ready(number, taken, found)]
            self.proceed(number)
            return []
        seat.taken, seat.is_preparing = None, False
        return [Finished(number, taken, found)]

    def _refuse_never_started(self, error: Exception) -> None:
        """One that dies before it comes up may have been killed; several show that none can."""
        self._num_stillborn += not self._has_joined
        if not self._has_joined and self._num_stillborn >= MOST_STILLBORN:
            raise RunError(f"workers could not start: {last_line(error)}") from error

    def _overdue(self) -> list[Event]:
        """End the workers whose call takes too long."""
        now = time.monotonic()
        late = [n for n, seat in self._seats.items() if seat.ref is not None and now > seat.until]
        return [self._died(number, self._too_long(self._seats[number])) for number in late]

    def _too_long(self, seat: _Seat) -> str:
        """Text of what took too long.

        Raises:
            RunError: no worker has ever come up.
        """
        if seat.has_joined:
            if seat.is_preparing:
                return "its model and its fits were not ready in time"
            return "its slice took too long"
        if not self._has_joined:
            raise RunError(
                f"no worker came up in {JOIN_TIMEOUT_S:.0f} s; ask for fewer with --workers, or look at what"
                " `ray status` says of the cluster"
            )
        return f"it did not come up in {JOIN_TIMEOUT_S:.0f} s"

    def _restart(self, fallen: str) -> list[Event]:
        """Our own Ray lost one of its processes, and with it all workers: start it again."""
        gone: list[Event] = [
            self._died(n, f"Ray's {fallen} is gone", is_guilty=False) for n in list(self._seats)
        ]
        self._ray.stop()
        self._ray.start()
        return gone

    def _died(self, number: int, message: str, *, is_guilty: bool = True) -> Died:
        seat = self._seats[number]
        taken, was_running = seat.taken, seat.taken is not None and not seat.is_preparing
        self._drop(number)
        trial = Trial(self._root, self._epoch, number)
        job = trial.job if was_running else None
        trial.clear()
        return Died(number, taken, message, is_guilty=is_guilty and was_running, job=job)

    def _drop(self, number: int) -> None:
        """End a worker. Out of reach is not dead: what may still hold cores must not keep them."""
        import ray

        seat = self._seats.pop(number)
        seat.nonce.remove()
        with suppress(Exception):
            ray.kill(seat.actor)
        # A stopped process does not hear of it.
        if seat.process is not None:
            with suppress(psutil.Error):
                seat.process.kill()


@dataclass(slots=True)
class _Nonce:
    """Tries that a worker and the driver see one folder: it reads a word there and writes it back."""

    root: Path
    worker: int
    word: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        path = self.root / self.question
        with explained(path):
            path.write_text(self.word)

    @property
    def question(self) -> str:
        """The file that the worker reads."""
        return f".hello-{self.word}"

    @property
    def answer(self) -> str:
        """The file that it writes."""
        return f"{self.question}-{self.worker}"

    def remove(self) -> None:
        """Leave nothing behind."""
        for name in (self.question, self.answer):
            with suppress(OSError):
                (self.root / name).unlink(missing_ok=True)

    def check(self, hello: Hello) -> None:
        """Accept what a worker said, and remove the files.

        Raises:
            ClusterError: it sees another folder, or runs another version.
        """
        path = self.root / self.answer
        answered = hello.nonce == self.word and path.exists() and path.read_text() == self.word
        self.remove()
        if not answered:
            raise ClusterError(
                f"node {hello.host} does not see the study's folder {self.root}; put studies on storage that"
                " all nodes mount at the same path, with --store"
            )
        if hello.version != version("swapyard"):
            raise ClusterError(
                f"node {hello.host} runs swapyard {hello.version}, this is {version('swapyard')};"
                " install the same on all nodes"
            )
