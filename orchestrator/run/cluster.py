"""Ray: a quiet local one of our own, or an existing cluster, with an actor for each worker."""

__all__ = ["RayExecutor"]

import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.run.executors import Died, Event, Failed, Finished
from orchestrator.run.schedule import Slice
from orchestrator.run.worker import Hello, StudyWorker
from workers.errors import ClusterError, RunError, SwapyardError

START_TIMEOUT_S = 300.0
"""How long workers may take to come up and find the study."""
CONNECT_TIMEOUT_S = 5.0
"""How long an existing cluster's address may take to answer; Ray itself would try for minutes."""
MIB = 2**20
_TOKEN = secrets.token_hex(32)
"""One for each driver process, as Ray's client remembers the first that it was given."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Binds every port to the loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


class RayExecutor:
    """Slices on Ray actors. Death is ours to handle: Ray restarts nothing and calls nothing twice."""

    def __init__(
        self,
        make: Mapping[str, Any],
        *,
        num_workers: int | None,
        threads: int,
        address: str | None,
        use_gpus: bool = False,
    ) -> None:
        """Workers are made with the arguments `make`, `threads` cores each.

        `address` is an existing cluster's; without it a Ray of our own is started on the loopback. With
        `use_gpus` the GPUs that Ray finds are shared out among the workers.
        """
        self._make = dict(make)
        self._num_workers = num_workers
        self._threads = threads
        self._address = address
        self._use_gpus = use_gpus
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, tuple[int, Slice]] = {}
        self._next = 0
        self._connected = False
        self._environment: dict[str, str | None] = {}
        self._gpus_each = 0.0

    def start(self) -> Sequence[int]:
        """As `Executor.start`; must be called from a thread that lives as long as the driver.

        Raises:
            RunError: Ray or a worker did not start, or a worker does not see the study's folder.
        """
        self._environment = start_ray(self._address, num_cpus=(self._num_workers or 1) * self._threads)
        self._connected = True
        found = _resources()
        num = self._num_workers or max(1, int(found.get("CPU", 0.0)) // self._threads)
        if self._use_gpus:
            self._gpus_each = min(1.0, found.get("GPU", 0.0) / num)
        return self._add(num)

    def submit(self, worker: int, taken: Slice, target_s: float) -> None:
        """As `Executor.submit`."""
        self._running[self._actors[worker].run.remote(taken, target_s)] = (worker, taken)

    def wait(self, timeout_s: float) -> list[Event]:
        """As `Executor.wait`."""
        import ray

        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        return [self._event(ref) for ref in ready]

    def replace(self, worker: int) -> int:
        """As `Executor.replace`."""
        import ray

        # Out of reach is not dead: what may still hold cores must not keep them from its replacement.
        ray.kill(self._actors.pop(worker))
        return self._add(1)[0]

    def close(self) -> None:
        """As `Executor.close`: our own Ray is shut down, of an existing one we only leave."""
        if not self._connected:
            # Whoever else uses Ray in this process keeps it.
            return
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        ray.shutdown()
        _restore(self._environment)
        self._connected = False

    def _add(self, num: int) -> list[int]:
        """Start workers side by side, and return when each has found the study."""
        import ray

        made: Any = ray.remote(StudyWorker)
        remote = made.options(
            max_restarts=0, max_task_retries=0, num_cpus=self._threads, num_gpus=self._gpus_each
        )
        actors = [remote.remote(**self._make) for _ in range(num)]
        with _Nonce(self._make["root"]) as nonce:
            asked = [actor.hello.remote(nonce.question, nonce.answer(n)) for n, actor in enumerate(actors)]
            try:
                for n, hello in enumerate(ray.get(asked, timeout=START_TIMEOUT_S)):
                    nonce.check(n, hello)
            except ray.exceptions.GetTimeoutError as error:
                raise RunError(
                    f"no {num} workers came up in {START_TIMEOUT_S:.0f} s; ask for fewer with --workers,"
                    " or look at what `ray status` says of the cluster"
                ) from error
            except ray.exceptions.RayError as error:
                raise RunError(f"a worker could not start: {_plain(error)}") from error
        numbers = list(range(self._next, self._next + num))
        self._next += num
        self._actors |= zip(numbers, actors, strict=True)
        return numbers

    def _event(self, ref: Any) -> Event:
        import ray

        worker, taken = self._running.pop(ref)
        try:
            return Finished(worker, taken, ray.get(ref))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SwapyardError):
                raise type(error.cause)(str(error.cause)) from None
            return Failed(worker, taken, _plain(error))
        except ray.exceptions.RayError as error:
            # Died or unreachable: either way nobody knows what became of the slice.
            return Died(worker, taken, _plain(error).partition(". ")[0])


class _Nonce:
    """Tries that workers and driver see one folder: each reads a word there and writes it back."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._word = secrets.token_hex(16)
        self.question = f".hello-{self._word}"

    def answer(self, worker: int) -> str:
        """The file that a worker writes."""
        return f"{self.question}-{worker}"

    def __enter__(self) -> Self:
        (self._root / self.question).write_text(self._word)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._root.glob(f"{self.question}*"):
            path.unlink(missing_ok=True)

    def check(self, worker: int, hello: Hello) -> None:
        """Accept what a worker said.

        Raises:
            ClusterError: it sees another folder, or runs another version.
        """
        path = self._root / self.answer(worker)
        if hello.nonce != self._word or not path.exists() or path.read_text() != self._word:
            raise ClusterError(
                f"node {hello.host} does not see the study's folder {self._root}; put studies on storage that"
                " all nodes mount at the same path, with --store"
            )
        if hello.version != version("swapyard"):
            raise ClusterError(
                f"node {hello.host} runs swapyard {hello.version}, this is {version('swapyard')};"
                " install the same on all nodes"
            )


def start_ray(address: str | None, *, num_cpus: int) -> dict[str, str | None]:
    """Connect to the cluster at `address`, or start a Ray of our own that only this user can reach.

    Returns:
        The environment variables that were changed, as they were before.

    Raises:
        RunError: Ray did not start, or the cluster cannot be reached.
    """
    environment: dict[str, str | None] = {}
    if address is None:
        ours = {**_QUIET, "RAY_AUTH_TOKEN": _TOKEN}
        environment = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        # Without it Ray would join any cluster that it finds.
        options: dict[str, Any] = {
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": 80 * MIB,
            "include_dashboard": False,
        }
    else:
        _knock(address)
        options = {"address": address}
    with warnings.catch_warnings(), _own_sigterm():
        warnings.simplefilter("ignore", FutureWarning)
        import ray

        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            _restore(environment)
            where = f"the Ray cluster at {address}" if address else "a local Ray"
            raise RunError(
                f"{where} did not answer: {_plain(error).rstrip('.')}; --executor inline runs without Ray"
            ) from error
    return environment


def _resources() -> dict[str, float]:
    """What the cluster has in all, by Ray's names."""
    import ray

    count: Any = ray.cluster_resources
    return dict(count())


def _restore(environment: Mapping[str, str | None]) -> None:
    """Set variables back to what they were: another cluster has another token."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _knock(address: str) -> None:
    """Accept an address where something listens, or a word such as ``auto`` that Ray looks up.

    Raises:
        RunError: nothing listens there.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"no Ray cluster answers at {address} ({reason}); correct --address, or leave it out to run here"
        ) from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps the handler of SIGTERM, for which Ray would put one that ends the driver at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _plain(error: BaseException) -> str:
    """The error's own words: the last line of a trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
