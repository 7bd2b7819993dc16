"""Which processes a run has started, however deep, and also after it died.

They are found by the session that the run was started in: Ray's processes stay in it, and it outlives the
run. Descendants that left the session are found as long as their parents live. Names only tell apart what
was found so.
"""

__all__ = ["Role", "end_all", "members", "role_of", "wait_gone"]

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from typing import Literal

import psutil

Role = Literal["driver", "worker", "ray", "agent", "other"]
"""``ray`` are the two processes that Ray cannot be without, ``agent`` those that outlive a killed run."""

_RAY = ("raylet", "gcs_server")


def members(sessions: Collection[int]) -> list[psutil.Process]:
    """The living processes that began in one of the sessions; a session bears its driver's number."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in sessions:
                found[process.pid] = process
                if process.pid in sessions:
                    found |= {child.pid: child for child in process.children(recursive=True)}
    return [process for process in found.values() if _lives(process)]


def role_of(process: psutil.Process, sessions: Collection[int]) -> Role:
    """What a process of ours is."""
    with contextlib.suppress(psutil.Error):
        name = process.name()
        if process.pid in sessions:
            return "driver"
        if name in _RAY:
            return "ray"
        if name.startswith("ray::"):
            return "agent" if name.endswith("Agent") else "other" if "IDLE" in name else "worker"
    return "other"


def end_all(sessions: Collection[int]) -> None:
    """Kill every process of the sessions at once, and what they start meanwhile."""
    while found := members(sessions):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # A killed driver stays a zombie until whoever started it asks for its code; that is no member.
        time.sleep(0.02)


def wait_gone(
    sessions: Collection[int], *, timeout_s: float, but: Iterable[Role] = ()
) -> list[psutil.Process]:
    """Wait until no process of the sessions is left but those of the roles `but`; what is left in the end."""
    deadline, spared = time.monotonic() + timeout_s, set(but)
    while left := [p for p in members(sessions) if role_of(p, sessions) not in spared]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
