"""A quiet Ray of our own that only this user can reach, or a connection to an existing cluster."""

__all__ = ["LocalRay", "is_from_environment", "resources"]

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.machine import refuse_ray
from workers.errors import RunError
from workers.libraries.ray import connect, environment, last_line, own_options, reachable, servers
from workers.limits import allowed

CONNECT_TIMEOUT_S = 5.0
"""Time that an existing cluster's address may take to answer; Ray itself would try for minutes."""
STOP_S = 10.0
"""Time that Ray may take to stop before its processes are killed."""
ATTEMPTS = 2
"""Of starting a Ray of our own: one of its processes may be killed meanwhile, or a hidden option be gone."""
_TOKEN = secrets.token_hex(32)
"""One for each driver process, as Ray's client remembers the first that it was given."""
_logger = logging.getLogger("swapyard.ray")

_VARIABLE = "RAY_ADDRESS"
_FROM_ENVIRONMENT = f"the address is that of the environment variable {_VARIABLE}"
_FOLDER = "swapyard"
_MOST_PATH = 17
"""Ray puts sockets into its folder, and the path of a socket has 107 bytes at most."""
_LEFT_S = 120.0
"""Ray's own processes may outlive a killed driver by a minute; its folder is left to them as long."""


class LocalRay:
    """Ray for one driver: started and stopped, and started again where its processes were killed."""

    def __init__(self, address: str | None, *, num_cpus: int) -> None:
        """`address` is an existing cluster's, of which we only leave; without it `num_cpus` are our own."""
        self._address = address
        self._num_cpus = num_cpus
        self._environment: dict[str, str | None] = {}
        self._servers: dict[str, psutil.Process] = {}
        self._folder: Path | None = None
        self._is_up = False

    @property
    def is_own(self) -> bool:
        """Whether it is a Ray of our own."""
        return self._address is None

    def start(self) -> None:
        """Connect to the cluster, or start a Ray of our own, from a thread that lives as long as the driver.

        Raises:
            RunError: Ray did not start, or may not do here what it needs, or the cluster cannot be reached.
        """
        if self.is_own:
            refuse_ray(self._num_cpus)
        for attempt in range(1, ATTEMPTS + 1):
            options = self._options(is_plain=attempt > 1)
            self._is_up = True
            try:
                with _own_signals():
                    connect(options)
                break
            except Exception as error:
                self.stop()
                if self.is_own and attempt < ATTEMPTS:
                    continue
                raise RunError(self._did_not_start(error)) from error
        if self.is_own:
            self._watch()

    def _watch(self) -> None:
        """Find the processes that Ray cannot go on without, and tell of what is not as it should be."""
        children = psutil.Process().children()
        self._servers = servers(children)
        if not self._servers:
            _logger.warning("Ray's processes are not known by their names: one that ends is noticed late")
        if ports := reachable(children):
            _logger.warning(
                "Ray listens at %s, where other machines may reach it; its token guards it", ", ".join(ports)
            )

    def _options(self, *, is_plain: bool) -> dict[str, Any]:
        """Arguments to connect to Ray or start it; for one of our own the environment is set, too."""
        if self._address is not None:
            _knock(self._address)
            return {"address": self._address}
        self._folder = _make_folder()
        settings = environment(_TOKEN, self._folder)
        self._environment = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        return own_options(self._folder, self._num_cpus, is_plain=is_plain)

    def _did_not_start(self, error: Exception) -> str:
        if self.is_own:
            # Its own words name a log that is gone by now.
            limits = f"; limits here: {found}" if (found := allowed()) else ""
            why = f"a local Ray did not start ({type(error).__name__}{limits})"
        else:
            assert self._address is not None
            why = f"the Ray cluster at {self._address} did not answer: {last_line(error).rstrip('.')}"
            if is_from_environment(self._address):
                why += f"; {_FROM_ENVIRONMENT}: unset it to run on a Ray of our own"
        return f"{why}; --executor inline runs without Ray"

    def fallen(self) -> str | None:
        """Name of our own Ray's process that is gone, or None; of an existing cluster nobody here knows."""
        return next((name for name, server in self._servers.items() if not _is_alive(server)), None)

    def stop(self) -> None:
        """Stop our own Ray and remove its folder, or leave the cluster; twice does no harm."""
        if not self._is_up:
            # Whoever else uses Ray in this process keeps it.
            return
        import ray

        self._is_up = False
        servers, self._servers = list(self._servers.values()), {}
        # Shutting down waits for these for ever, also where somebody has stopped them.
        patience = threading.Timer(STOP_S, _kill, [servers])
        patience.start()
        _resume(servers)
        ray.shutdown()
        patience.cancel()
        _restore(self._environment)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _resume(servers: Sequence[psutil.Process]) -> None:
    for server in servers:
        with suppress(psutil.Error):
            server.resume()


def _kill(servers: Sequence[psutil.Process]) -> None:
    for server in servers:
        with suppress(psutil.Error):
            server.kill()


def resources() -> dict[str, float]:
    """Resources of the whole cluster, by Ray's names."""
    import ray

    count: Any = ray.cluster_resources
    return dict(count())


def _is_alive(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_STOPPED:
            # Nobody needs it stopped while the driver runs, and all that asks it would wait for ever.
            process.resume()
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _make_folder() -> Path:
    """A folder for Ray's sockets and logs, named after this process; those of dead ones are removed."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _MOST_PATH:
        base = Path("/tmp")
    for old in base.glob(f"{_FOLDER}-[0-9]*-*"):
        _remove_left(old)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}-{os.getpid()}-", dir=base))


def _remove_left(folder: Path) -> None:
    """Remove what a driver that was killed some time ago has left; other users' cannot be."""
    pid = folder.name.split("-")[1]
    with suppress(OSError):
        is_old = time.time() - folder.stat().st_mtime > _LEFT_S
        if is_old and pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


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
        remedy = "correct --address, or leave it out to run here"
        if is_from_environment(address):
            remedy = f"{_FROM_ENVIRONMENT}: correct it, or unset it to run here"
        raise RunError(f"no Ray cluster answers at {address} ({reason}); {remedy}") from None


def is_from_environment(address: str) -> bool:
    """Whether a cluster's address is the one that the environment names."""
    return os.environ.get(_VARIABLE) == address


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps our handlers while Ray starts.

    Ray would put one for SIGTERM that ends the driver at once. Its processes must not end with the terminal
    either, before what runs on them is committed: what is ignored here they ignore, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
