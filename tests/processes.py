"""What tests of processes share: finding a child of one, and waiting for its end."""

import time

import psutil


def child_of(parent: int, word: str, *, timeout_s: float = 30) -> psutil.Process:
    """The process below `parent` whose command line has `word` in it, as soon as it is there."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for child in psutil.Process(parent).children(recursive=True):
            try:
                if word in child.cmdline():
                    return child
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise AssertionError(f"no process below {parent} has {word!r} in its command line")


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
