"""Address space, threads and open files that commands need, for where they are limited (``ulimit``).

A little below these figures native libraries do not say what ran out: they crash, take it for an
interrupt, print a page each, or wait for a minute. So a command that cannot work is refused before it
loads any. What is needed was measured: `tests/orchestrator/test_limits_of_system.py` runs commands with
just that.
"""

__all__ = ["NEEDS", "Need", "need_bytes", "refuse", "refuse_ray"]

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workers.errors import RunError

_MB = 10**6
_MANY_THREADS = 4096
"""A limit on threads from which on nobody counts those that run."""


@dataclass(frozen=True, slots=True)
class Need:
    """Address space that a process takes, most of which is never used as memory."""

    base_mb: int
    core_mb: int
    """For each core: stacks and buffers of the threads that libraries start there."""
    core_threads: int = 4
    """Threads for each core, beside a few."""


NEEDS: Mapping[str, Need] = {
    "plan": Need(500, 75),
    "run": Need(2300, 100, core_threads=8),
    "status": Need(450, 75),
    "logs": Need(250, 75),
    "query": Need(1300, 100),
    "plot": Need(1400, 100),
    "doctor": Need(500, 75),
    "mv": Need(500, 75),
    "cp": Need(500, 75),
    "rm": Need(500, 75),
    "export": Need(1300, 100),
    "import": Need(500, 75),
}
"""Of the commands that load such libraries, for small studies and models."""


def need_bytes(command: str) -> int | None:
    """Address space of a command on this machine, in bytes; None where it is not worth a check."""
    need = NEEDS.get(command)
    return None if need is None else _MB * (need.base_mb + need.core_mb * _num_cores())


def refuse(command: str) -> None:
    """Refuse a command for which this process may not take enough address space, or start enough threads.

    Raises:
        RunError: with what it needs and what it has.
    """
    needed = need_bytes(command)
    if needed is None:
        return
    limit = _soft(resource.RLIMIT_AS)
    if limit is not None:
        # Arrow would keep a gigabyte for itself at once.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        if limit < needed:
            raise RunError(
                f"swapyard {command} needs {needed / _MB:,.0f} MB of address space here, and ulimit -v allows"
                f" {limit / _MB:,.0f} MB; allow more, such as: ulimit -v {-(-needed // 1024)}"
            )
    _refuse_threads(f"swapyard {command}", 10 + NEEDS[command].core_threads * _num_cores())


def refuse_ray(num_cpus: int) -> None:
    """Refuse a Ray of our own for which this process may not open enough files, or start enough threads.

    Raises:
        RunError: with what it needs and what it has.
    """
    needed = 48 + 8 * num_cpus
    limit = _soft(resource.RLIMIT_NOFILE)
    if limit is not None and limit < needed:
        raise RunError(
            f"a local Ray with {num_cpus} workers needs {needed} open files at a time, and ulimit -n allows"
            f" {limit}; allow more, such as: ulimit -n 4096, or run without Ray: --executor inline"
        )
    _refuse_threads(f"a local Ray with {num_cpus} workers", 150 + 50 * num_cpus)


def _refuse_threads(who: str, needed: int) -> None:
    limit = _soft(resource.RLIMIT_NPROC)
    if limit is None or limit >= _MANY_THREADS or os.getuid() == 0:
        return
    num = _num_threads(os.getuid())
    if num + needed > limit:
        raise RunError(
            f"{who} starts up to {needed} threads here, and ulimit -u allows this user {limit} in all, of"
            f" which {num} are taken; end other programs, or allow more: ulimit -u {num + 2 * needed}"
        )


def _num_threads(user: int) -> int:
    """Threads of all processes of a user that this process sees."""
    found = 0
    for file in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, KeyError, ValueError):
            said = dict(line.split(":", 1) for line in file.read_text().splitlines())
            found += int(said["Threads"]) if int(said["Uid"].split()[0]) == user else 0
    return found


def _num_cores() -> int:
    """Cores by which libraries choose their numbers of threads, whatever the control group's share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _soft(number: int) -> int | None:
    """The limit that holds now; None where there is none."""
    limit = resource.getrlimit(number)[0]
    return None if limit == resource.RLIM_INFINITY else limit
