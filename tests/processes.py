"""What tests of processes share: finding a child of one at its work, and waiting for its end."""

import time
from pathlib import Path

import psutil


def child_at_work(parent: int, word: str, *, timeout_s: float = 30) -> psutil.Process:
    """The process below `parent` whose command line has `word` in it, as soon as it has loaded torch.

    It is stopped then, so that it cannot end by itself before it is looked for.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for child in psutil.Process(parent).children(recursive=True):
            try:
                if word in child.cmdline() and "libtorch_cpu" in Path(f"/proc/{child.pid}/maps").read_text():
                    child.suspend()
                    return child
            except (psutil.Error, OSError):
                continue
        time.sleep(0.02)
    raise AssertionError(f"no process below {parent} has {word!r} in its command line, and torch")


def wait_until_gone(*processes: psutil.Process, timeout_s: float = 10) -> None:
    """Wait for the end of processes; one of which only the exit status is left has ended."""
    deadline = time.monotonic() + timeout_s
    while alive := [process for process in processes if not is_gone(process)]:
        if time.monotonic() > deadline:
            for process in alive:
                process.kill()
            raise AssertionError(f"still there after {timeout_s:.0f} s: {alive}")
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
