"""Address space that commands need, for where it is limited (``ulimit -v``).

A little below these figures native libraries do not say that memory ran out: they crash, take it for an
interrupt, or print a page each. So a command that cannot work is refused before it loads any. What is
needed was measured: `tests/orchestrator/test_limits_of_system.py` runs each command with just that.
"""

__all__ = ["NEEDS", "Need", "need_bytes", "refuse"]

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.machine import num_cores
from workers.errors import RunError

_MB = 10**6


@dataclass(frozen=True, slots=True)
class Need:
    """Address space that a process takes, most of it never used memory."""

    base_mb: int
    core_mb: int
    """For each core: stacks and buffers of the threads that libraries start there."""


NEEDS: Mapping[str, Need] = {
    "plan": Need(500, 75),
    "run": Need(2300, 100),
    "status": Need(450, 75),
    "logs": Need(250, 75),
    "query": Need(1300, 100),
    "plot": Need(1400, 100),
    "doctor": Need(500, 75),
}
"""Of the commands that load such libraries, for small studies."""


def need_bytes(command: str) -> int | None:
    """Address space of a command on this machine, in bytes; None where it is not worth a check."""
    need = NEEDS.get(command)
    return None if need is None else _MB * (need.base_mb + need.core_mb * num_cores())


def refuse(command: str) -> None:
    """Refuse a command for which this process may not take enough address space.

    Raises:
        RunError: with what it needs and what it has.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    # Arrow would keep a gigabyte for itself at once.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    needed = need_bytes(command)
    if needed is not None and limit < needed:
        raise RunError(
            f"swapyard {command} needs {needed / _MB:,.0f} MB of address space here, and ulimit -v allows"
            f" {limit / _MB:,.0f} MB; allow more, such as: ulimit -v {-(-needed // 1024)}"
        )
