"""Threads of torch in each worker: as asked for, or else what the cores allow, and why."""

__all__ = ["Threads", "check_threads", "threads_here", "threads_of"]

import os
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.machine import cores_text, num_cores
from workers.errors import RunError

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the environment: what says how many threads a process has, the first that is set."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Number of threads of each worker, and who said it."""

    asked: int | None
    """None where nobody said."""
    why: str
    """Source of the number, and its reason, in words."""
    is_given: bool = False
    """Whether it was said for this run: then there are so many, cores or not."""

    def of(self, num_workers: int, cores: int) -> int:
        """Threads of each of so many workers."""
        room = max(1, cores // num_workers)
        if self.is_given:
            return self.asked or room
        return min(self.asked or room, room)

    def most_workers(self, cores: int) -> int:
        """Workers for which there are cores."""
        return max(1, cores // (self.asked or 1))


def check_threads(threads: int | None) -> None:
    """Accept a number of threads.

    Raises:
        RunError: it is none.
    """
    if threads is not None and threads < 1:
        raise RunError(f"--threads {threads}: each worker has 1 thread or more")


def threads_of(given: int | None, environment: Mapping[str, str] = os.environ) -> Threads:
    """Threads that were asked for: by `given`, or by the environment, which may mean another machine."""
    cores, here = num_cores(), cores_text()
    check_threads(given)
    if given is not None:
        more = f", more than the {here}" if given > cores else f" of {here}"
        return Threads(given, f"--threads {given}{more}", is_given=True)
    for name in VARIABLES:
        # OpenMP takes one number for each level of nesting.
        said = environment.get(name, "").split(",")[0].strip()
        if not said:
            continue
        if not said.isdecimal() or int(said) < 1:
            return Threads(None, f"{here}; {name}={said!r} is no number of threads")
        if int(said) > cores:
            return Threads(cores, f"{name}={said} is more than the {here}")
        return Threads(int(said), f"{name}={said} of {here}")
    return Threads(None, here)


def threads_here(given: int | None = None) -> int:
    """Threads of a process that is alone at work on this machine."""
    return threads_of(given).of(1, num_cores())
