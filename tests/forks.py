"""Processes of ``swapyard`` that need not import anew what each of them imports: forks of one that has.

A *nursery* imports torch, transformers and all of ours once, starts no thread, and forks for every command
that a test asks for: half of what a short command costs is imports. A fork is a process with its own folder,
environment, cores, session and streams, which ends as a program ends; whoever asks holds it as a
`subprocess.Popen`. Where what is imported hangs on the environment, or there are no such forks, the program
itself is started instead.
"""

__all__ = ["Fork", "can_fork"]

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_AT_IMPORT = (
    *("CUDA", "GOMP", "HF_", "KMP", "LANG", "LC_", "LD_", "MKL", "NUMEXPR", "OMP", "OPENBLAS", "PYTHON"),
    *("PYTORCH", "TORCH", "TRANSFORMERS"),
)
"""Beginnings of the names of variables that are looked at when something is imported."""
_MOST_BYTES = 1 << 20


def can_fork(env: Mapping[str, str], options: Iterable[str]) -> bool:
    """Whether a fork would do as the program does that starts with `env` and these options of `Popen`."""
    if not (sys.platform == "linux" and {*options} <= {"stdin", "stdout", "stderr", "cwd", "text", "env"}):
        return False
    here = os.environ
    differing = {name for name in {*env, *here} if env.get(name) != here.get(name)}
    differing |= {name for name in {*here, *_FIRST} if here.get(name) != _FIRST.get(name)}
    return not any(name.startswith(_AT_IMPORT) for name in differing)


_FIRST = dict(os.environ)
"""The environment of the nursery."""
_THEIR_PATH = _FIRST.get("PYTHONPATH", "")


class Fork(subprocess.Popen[str]):
    """``swapyard ARGUMENTS`` as a fork of the nursery, in a session of its own, on these cores."""

    def __init__(self, program: Path, arguments: Iterable[str], cores: Iterable[int], **options: Any) -> None:
        self._cores = list(cores)
        super().__init__([str(program), *arguments], start_new_session=True, **options)

    def _execute_child(self, args: Any, *others: Any) -> None:  # type: ignore[override]
        _, _, _, _, cwd, env, _, _, _, *ends = others[:16]
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = ends[:6]
        asked = {"argv": args, "cwd": str(cwd), "env": dict(env), "cores": self._cores}
        streams = [own if fd == -1 else fd for own, fd in ((0, p2cread), (1, c2pwrite), (2, errwrite))]
        self.pid = _nursery().fork(asked, streams)
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        )

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            self.returncode = _nursery().ended(self.pid, 0.0)  # type: ignore[assignment]
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self._internal_poll() is None:
            left = 60.0 if until is None else until - time.monotonic()
            if left <= 0:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = _nursery().ended(self.pid, min(left, 60.0))  # type: ignore[assignment]
        return self.returncode


class _Nursery:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.forks", str(theirs.fileno())],
                env={**_FIRST, "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), _THEIR_PATH)))},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._codes: dict[int, int] = {}
        self._started: list[int] = []
        self._lock = threading.Lock()

    def fork(self, asked: Mapping[str, Any], streams: list[int]) -> int:
        """The process id of a new fork with these three streams."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], streams)
            while not self._started:
                self._take()
            return self._started.pop()

    def ended(self, pid: int, timeout_s: float) -> int | None:
        """The exit code of a fork, waited for so long; None where it lives."""
        until = time.monotonic() + timeout_s
        while True:
            with self._lock:
                while select.select([self._socket], [], [], 0.0)[0]:
                    self._take()
                if pid in self._codes:
                    return self._codes[pid]
            if (left := until - time.monotonic()) <= 0:
                return None
            select.select([self._socket], [], [], min(left, 0.2))

    def _take(self) -> None:
        data = self._socket.recv(_MOST_BYTES)
        assert data, "the nursery of forks has ended"
        told = json.loads(data)
        if "code" in told:
            self._codes[told["pid"]] = told["code"]
        else:
            self._started.append(told["pid"])


@cache
def _nursery() -> _Nursery:
    return _Nursery()


def _serve(channel: socket.socket) -> list[str] | None:
    """Fork as asked until nobody asks any more; in a fork, its command line."""
    living: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel, *living], [], [])
        for descriptor in [one for one in ready if one is not channel]:
            pid = living.pop(descriptor)
            os.close(descriptor)
            _, status = os.waitpid(pid, 0)
            channel.send(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
        if channel not in ready:
            continue
        data, streams, _, _ = socket.recv_fds(channel, _MOST_BYTES, 3)
        if not data:
            return None
        asked = json.loads(data)
        pid = os.fork()
        if pid == 0:
            for descriptor in living:
                os.close(descriptor)
            channel.close()
            _become(asked, streams)
            command: list[str] = asked["argv"]
            return command
        for stream in streams:
            os.close(stream)
        living[os.pidfd_open(pid)] = pid
        channel.send(json.dumps({"pid": pid}).encode())


def _become(asked: Mapping[str, Any], streams: list[int]) -> None:
    """Take the place of a program that was just started."""
    os.setsid()
    os.sched_setaffinity(0, asked["cores"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])


def _import_all() -> None:
    """Import what commands import; nothing of it starts a thread."""
    import importlib
    import pkgutil

    import duckdb
    import pyarrow.parquet
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    del duckdb, pyarrow, torch
    for package in ("orchestrator", "studies", "workers"):
        for module in pkgutil.walk_packages([str(_ROOT / package)], f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def _main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    command = _serve(channel)
    if command is None:
        return
    sys.argv = command
    from orchestrator.cli import console

    console()


if __name__ == "__main__":
    _main()
