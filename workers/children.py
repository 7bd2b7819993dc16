"""Child processes that end with the process that started them, however that ends.

A child holds the reading end of a pipe whose writing end only its parent has, and no other child inherits.
When the parent ends, killed or not, the system closes it: a thread of the child sees that and ends the
child, in any process group or session. Native code may keep that thread from running for minutes, so on
Linux the system itself kills the child at that moment. (It could also do so when the parent's *thread*
ends, which is too early for who plans in a thread of a pool.)

As a program: ``python -m workers.children DESCRIPTOR MODULE [ARGUMENT]...`` runs a module so.
"""

__all__ = ["run", "start"]

import os
import runpy
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def start(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
) -> "subprocess.Popen[Any]":
    """Child that runs ``python -m module``, and ends with this process.

    It also ends once nobody holds what is returned.
    It imports what this process would: never a module that happens to lie in the current folder.

    Args:
        module: what is run, with `arguments` as its command line.
        env: variables to add to this process's, or to put in their place.
        options: of `subprocess.Popen`.
    """
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-P", "-m", __name__, str(reading), module, *arguments]
        path = os.pathsep.join(_search_path())
        child: subprocess.Popen[Any] = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path, **(env or {})}, pass_fds=(reading,), **options
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    _ENDS.add(writing)
    weakref.finalize(child, _close, writing)
    return child


def run(
    module: str,
    *arguments: str,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """As `start`, to the child's end, with what it said; an interrupted caller leaves no child behind."""
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    piped = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(module, *arguments, env=env, text=True, **piped) as child:
        try:
            out, err = child.communicate(input, timeout=timeout_s)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def _search_path() -> list[str]:
    """Folders that this process imports from, but for the folder that it stands in and that of a user's
    script: their modules are nobody's but the user's, unless this package lies there."""
    root = Path(__file__).resolve().parents[1]
    script = Path(sys.argv[0]).resolve().parent if sys.argv and sys.argv[0] else root
    theirs = {Path.cwd().resolve(), script} - {root}
    found = {path: Path(path or os.curdir).resolve() for path in sys.path}
    # What is no file is a hook of an editable install, which a child makes for itself.
    return [
        path if Path(path).is_absolute() else str(folder)
        for path, folder in found.items()
        if folder not in theirs and folder.exists()
    ]


_ENDS: set[int] = set()
"""Writing ends of this process, by which its children know that it lives."""


def _close(writing: int) -> None:
    if writing in _ENDS:
        _ENDS.discard(writing)
        os.close(writing)


def _close_all() -> None:
    """A copy of this process that runs no other program would keep the children of the first alive."""
    for writing in list(_ENDS):
        with suppress(OSError):
            _close(writing)


os.register_at_fork(after_in_child=_close_all)


def _watch(descriptor: int) -> None:
    """End this process once nobody holds the other end of the pipe."""
    os.set_inheritable(descriptor, False)
    if sys.platform == "linux":
        import fcntl

        # The system sends it when the last writer is gone, whatever our threads are at.
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    # Also for a parent that was gone before that.
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()


def _end_with(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
