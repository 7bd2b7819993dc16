"""One command in a fork of a warm process: what it said, how it ended, what it took and what it touched.

A fork costs a hundredth of a second and can neither hurt the next one nor hide what it took. An audit hook
sees every file that it opens for writing and every program that it starts, whoever asked for it.
"""

__all__ = ["End", "in_fork"]

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

MOST_WALL_S = 90.0
"""Machines are busy: what hangs is told from what waits for a core by far more than any refusal takes."""
_ESCAPED = 99
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SHELLS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


class End(NamedTuple):
    """How a command ended."""

    code: int
    """Its exit code; 99 for an exception that was not ours, below 0 for a signal."""
    said: str
    """Everything that it wrote to stdout and stderr."""
    cpu_s: float
    peak_mb: float
    touched: tuple[str, ...]
    """Files written outside its folders, and programs started that are not ours."""


def in_fork(work: Callable[[], None], folder: Path, allowed: tuple[Path, ...]) -> End:
    """Run `work` in a fork, in `folder`; it may write below `allowed` alone."""
    said, touched = folder.parent / f"{folder.name}.said", folder.parent / f"{folder.name}.touched"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child starts none of them
        child = os.fork()
    if child == 0:
        _be_child(work, folder, allowed, said, touched)
    status, used = _waited(child)
    code = os.waitstatus_to_exitcode(status)
    found = touched.read_text("utf-8", "replace").splitlines() if touched.exists() else []
    text = said.read_text("utf-8", "replace") if said.exists() else ""
    for path in (said, touched):
        path.unlink(missing_ok=True)
    cpu = used.ru_utime + used.ru_stime
    return End(code, text, cpu, used.ru_maxrss / 1024, tuple(dict.fromkeys(found)))


def _waited(child: int) -> tuple[int, resource.struct_rusage]:
    end = time.monotonic() + MOST_WALL_S
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return status, used
        if time.monotonic() > end:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            return status, used
        time.sleep(0.002)


def _be_child(
    work: Callable[[], None], folder: Path, allowed: tuple[Path, ...], said: Path, touched: Path
) -> None:
    code = _ESCAPED
    try:
        os.setpgid(0, 0)
        out = os.open(said, os.O_WRONLY | os.O_CREAT)
        log = os.open(touched, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(out, stream)
        # Whoever forked may have put streams of his own in their place.
        sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
        os.chdir(folder)
        _watch(log, [str(path) for path in (*allowed, Path("/dev"), Path("/proc"))])
        try:
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watch(log: int, allowed: list[str]) -> None:
    """Note what is written elsewhere and which programs are started, for as long as this process lives."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        text = None
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, flags = arguments
            writes = bool(flags & _WRITES) if isinstance(flags, int) else str(mode or "r")[0] in "wax"
            text = f"wrote {os.fsdecode(path)}" if writes and not _is_below(path, allowed) else None
        elif event in (
            "os.mkdir",
            "os.remove",
            "os.rmdir",
            "os.rename",
            "os.link",
            "os.symlink",
            "os.truncate",
        ):
            outside = [
                path for path in arguments[:2] if isinstance(path, str) and not _is_below(path, allowed)
            ]
            if event == "os.mkdir":  # of a folder that is there already it makes nothing
                outside = [path for path in outside if not Path(path).is_dir()]
            text = f"{event} {outside[0]}" if outside else None
        elif event in _SHELLS and _program(event, arguments) != sys.executable:
            text = f"started {_program(event, arguments)}"
        if text is not None:
            os.write(log, (repr(text)[1:-1] + "\n").encode("utf-8", "replace"))

    sys.addaudithook(hook)


def _is_below(path: str | bytes | os.PathLike[Any], allowed: list[str]) -> bool:
    whole = str(Path(os.fsdecode(path)).absolute())
    return any(whole == folder or whole.startswith(f"{folder}/") for folder in allowed)


def _program(event: str, arguments: tuple[Any, ...]) -> str:
    first = arguments[0]
    if event == "subprocess.Popen" and isinstance(arguments[1], list | tuple):
        first = arguments[1][0]
    return os.fsdecode(first) if isinstance(first, str | bytes | os.PathLike) else repr(first)
