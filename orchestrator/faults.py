"""Places where a test may kill, stop or fail this process, by name; in a real run nothing happens there.

``SWAPYARD_FAULTS="put.sync.before=kill@3,create.link.after=eio"`` kills this process the third time that it
is about to sync a part, and lets every link to a commit fail once it is made. A fault is ``NAME=ACTION`` for
every time, ``NAME=ACTION@N`` for the Nth time in this process, or ``NAME=ACTION@N+`` from then on. The names
are those of `POINTS`, the actions those of `ACTIONS` and ``delay:SECONDS``.
"""

__all__ = ["ACTIONS", "POINTS", "VARIABLE", "around", "reach"]

import contextlib
import errno
import functools
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from workers.errors import RunError, nearest

VARIABLE = "SWAPYARD_FAULTS"
"""The environment variable that names the faults; read once, when the first point is reached."""

_CALLS = {
    "folder.make": "making a folder of a study",
    "folder.sync": "syncing the folder that holds a new folder",
    "create.write": "writing the temporary file of a commit",
    "create.sync": "syncing the temporary file of a commit",
    "create.link": "linking a commit's temporary file to its name",
    "create.unlink": "removing a commit's temporary file",
    "create.folder": "syncing the folder of a commit",
    "put.write": "writing a part or a plan's file",
    "put.sync": "syncing a part or a plan's file",
    "put.folder": "syncing the folder of a part or a plan's file",
    "remove.unlink": "removing a file",
    "remove.folder": "syncing the folder of a removed file",
}
_HALVES = {
    "create.write": "half of a commit's temporary file is written",
    "put.write": "half of a part or a plan's file is written",
}
_STEPS = {
    "commit.open": "appending a commit that opens the study",
    "commit.plan": "appending a commit that names a plan",
    "commit.add": "appending a commit that adds parts",
    "commit.compact": "appending a commit that merges parts",
    "commit.adopt": "appending a commit that adds what a killed driver left",
    "commit.drop": "appending a commit that drops files that are lost",
    "commit.rebuild": "appending a commit that makes the log again",
    "driver.commit": "the driver's committing what workers reported",
}
_PLACES = {
    "driver.plan": "the driver is about to write its plan",
    "driver.report": "the driver received a worker's report",
    "merge.written": "a merged file is durable and not committed",
    "sweep.remove": "the driver is about to clear a file",
    "training.checkpoint": "half of a training's checkpoint is durable",
    "training.slice": "a worker trained for a while, and kept nothing of it yet",
    "training.artifact": "a trained model is durable, and nothing says that its training is done",
    "worker.slice": "a worker has taken a slice",
    "worker.written": "a worker's part is durable and not reported",
    "worker.report": "a worker is about to report a part",
}


def _both_sides(steps: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{name}.{side}": f"{side} {what}" for name, what in steps.items() for side in ("before", "after")
    }


POINTS: Mapping[str, str] = MappingProxyType(
    {**_both_sides(_CALLS), **_HALVES, **_both_sides(_STEPS), **_PLACES}
)
"""Every point, and where it is."""

_FALLIBLE = frozenset({**_both_sides(_CALLS), **_HALVES})
"""The points at a call to the operating system, which alone may say that it failed."""


def reach(name: str) -> None:
    """Do what the environment asks for at the point `name`: nothing, unless a test wants a fault there.

    Raises:
        OSError: the fault says that the operating system refused.
        RunError: the environment's faults cannot be read.
    """
    assert name in POINTS, name
    if (point := _points().get(name)) is None:
        return
    turn = next(point.turns)
    for fault in point.faults:
        if turn in fault.turns:
            fault.act()


@contextlib.contextmanager
def around(name: str) -> Iterator[None]:
    """The points ``NAME.before`` and ``NAME.after`` of one step; a step that fails has no after."""
    reach(f"{name}.before")
    yield
    reach(f"{name}.after")


class _Fault(NamedTuple):
    act: Callable[[], None]
    turns: range
    """Turns at which it happens, counted from 1."""


class _Point(NamedTuple):
    turns: Iterator[int]
    """Counts how often it was reached, in all threads."""
    faults: list[_Fault]


def _signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


ACTIONS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {
        "kill": functools.partial(_signal, signal.SIGKILL),
        "stop": functools.partial(_signal, signal.SIGSTOP),
        "exit": functools.partial(os._exit, 1),
        "eio": functools.partial(_fail, errno.EIO),
        "enospc": functools.partial(_fail, errno.ENOSPC),
        "eperm": functools.partial(_fail, errno.EPERM),
        "emfile": functools.partial(_fail, errno.EMFILE),
    }
)
"""Actions at a point, besides ``delay:SECONDS``."""
_REFUSALS = ("eio", "enospc", "eperm", "emfile")
"""Actions that only a call to the operating system can show."""

_ALWAYS = 2**62
_FORM = re.compile(
    r"(?P<name>[a-z.]+)=(?P<action>[a-z]+)(:(?P<seconds>\d+(\.\d+)?))?(@(?P<turn>[1-9]\d*)(?P<on>\+)?)?"
)


@functools.cache
def _points() -> Mapping[str, _Point]:
    found: dict[str, _Point] = {}
    for text in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, fault = _parse(text)
        found.setdefault(name, _Point(itertools.count(1), [])).faults.append(fault)
    return found


def _parse(text: str) -> tuple[str, _Fault]:
    match = _FORM.fullmatch(text)
    if match is None:
        raise _unreadable(text, "a fault is NAME=ACTION, NAME=ACTION@N or NAME=ACTION@N+, joined by commas")
    name = match["name"]
    if name not in POINTS:
        others = f"; there are {', '.join(POINTS)}"
        raise _unreadable(text, f"there is no point {name!r}{nearest(name, POINTS) or others}")
    first = int(match["turn"] or 1)
    last = first if match["turn"] and not match["on"] else _ALWAYS
    return name, _Fault(_action(text, match), range(first, last + 1))


def _action(text: str, match: re.Match[str]) -> Callable[[], None]:
    action, seconds = match["action"], match["seconds"]
    if (action not in ACTIONS and action != "delay") or (action == "delay") != (seconds is not None):
        raise _unreadable(text, f"an action is one of {', '.join(ACTIONS)} or delay:SECONDS")
    if action in _REFUSALS and match["name"] not in _FALLIBLE:
        raise _unreadable(
            text, f"{match['name']} is no call to the operating system, so that {action} cannot happen there"
        )
    return functools.partial(time.sleep, float(seconds)) if action == "delay" else ACTIONS[action]


def _unreadable(text: str, why: str) -> RunError:
    return RunError(f"the environment variable {VARIABLE} says {text!r}: {why}; correct it, or unset it")
