"""What this machine has: cores, memory and GPUs, as far as this process may use them."""

__all__ = ["cores_text", "memory_bytes", "num_cores", "num_gpus", "resident_bytes"]

import os
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use, in files of two generations."""

_OWN_GROUP = Path("/proc/self/cgroup")
"""Where Linux says which group this process is in."""


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
