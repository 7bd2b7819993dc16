"""This machine: its cores, memory and GPUs, as far as this process may use them, and whether they will do.

Address space, threads and open files may be limited (``ulimit``). A little below what a command needs native
libraries do not say what ran out: they crash, take it for an interrupt, print a page each, or wait for a
minute. So a command that cannot work is refused before it loads any. What is needed was measured:
`tests/orchestrator/test_limits_of_system.py` runs commands with just that.
"""

__all__ = [
    "NEEDS",
    "AddressSpace",
    "cores_text",
    "memory_bytes",
    "need_bytes",
    "num_cores",
    "num_gpus",
    "refuse",
    "refuse_ray",
    "resident_bytes",
]

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workers.errors import RunError

_CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Folder in which Linux says what a container may use, in files of two generations."""

_OWN_GROUP = Path("/proc/self/cgroup")
"""File in which Linux says which group this process is in."""

_MB = 10**6
_MANY_THREADS = 4096
"""A limit on threads from which on nobody counts those that run."""


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """Address space that a process takes, most of which is never used as memory."""

    base_mb: int
    core_mb: int
    """For each core: stacks and buffers of the threads that libraries start there."""
    core_threads: int = 4
    """Threads for each core, beside a few."""


NEEDS: Mapping[str, AddressSpace] = {
    "plan": AddressSpace(500, 75),
    "run": AddressSpace(2300, 100, core_threads=8),
    "status": AddressSpace(450, 75),
    "logs": AddressSpace(250, 75),
    "query": AddressSpace(1300, 100),
    "plot": AddressSpace(1400, 100),
    "doctor": AddressSpace(500, 75),
    "mv": AddressSpace(500, 75),
    "cp": AddressSpace(500, 75),
    "rm": AddressSpace(500, 75),
    "export": AddressSpace(1300, 100),
    "import": AddressSpace(500, 75),
}
"""Of the commands that load such libraries, for small studies and models."""


def num_cores(limits: Path = _CONTROL_GROUP) -> int:
    """Cores that this process may run on, or the control group's share of them where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, _cpu_share(limits))))


def cores_text(limits: Path = _CONTROL_GROUP) -> str:
    """The cores that this process may use, in words, and what keeps it from the others."""
    cores, there = num_cores(limits), os.cpu_count() or 1
    number = f"{cores} core{'s' * (cores > 1)}"
    if cores >= there:
        return number
    pinned = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) <= cores
    return f"{number} (of {there}, by the {'CPU affinity' if pinned else 'control group'})"


def memory_bytes(limits: Path = _CONTROL_GROUP) -> int:
    """Memory of the machine, or of the control group where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        total = min([total, *_numbers(limits / name)])
    return total


def resident_bytes(status: Path = Path("/proc/self/statm")) -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    pages = _numbers(status)
    return pages[1] * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def num_gpus(devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs that this process may use; found without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = sum(path.name.removeprefix("nvidia").isdigit() for path in devices.glob("nvidia[0-9]*"))
    return (
        there if visible is None else min(there, len([name for name in visible.split(",") if name.strip()]))
    )


def _cpu_share(limits: Path) -> float:
    """Seconds of computing that the control group gives out in a second; infinity where there is no limit."""
    return min(_share_of(folder) for folder in (limits, *_own_groups(limits)))


def _own_groups(limits: Path) -> list[Path]:
    """The folders of this process' own group and of those that it is part of, below the outermost one."""
    lines = _OWN_GROUP.read_text().split() if limits == _CONTROL_GROUP and _OWN_GROUP.exists() else []
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/") and ".." not in line]
    return [
        folder
        for name in own
        if name
        for folder in (limits / name, *list((limits / name).parents))
        if folder.is_relative_to(limits) and folder != limits
    ]


def _share_of(limits: Path) -> float:
    """The share of one folder of a control group."""
    allowed = _numbers(limits / "cpu.max")
    if not allowed:
        allowed = [n for name in ("quota", "period") for n in _numbers(limits / f"cpu/cpu.cfs_{name}_us")]
    return allowed[0] / allowed[1] if len(allowed) == 2 else float("inf")


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file, all or none: ``max`` and ``-1`` stand for no limit."""
    words = path.read_text().split() if path.exists() else []
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []


def need_bytes(command: str) -> int | None:
    """Address space of a command on this machine, in bytes; None where it is not worth a check."""
    need = NEEDS.get(command)
    return None if need is None else _MB * (need.base_mb + need.core_mb * _library_cores())


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
    _refuse_threads(f"swapyard {command}", 10 + NEEDS[command].core_threads * _library_cores())


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


def _library_cores() -> int:
    """Cores by which libraries choose their numbers of threads, whatever the control group's share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _soft(number: int) -> int | None:
    """The limit that holds now; None where there is none."""
    limit = resource.getrlimit(number)[0]
    return None if limit == resource.RLIM_INFINITY else limit
