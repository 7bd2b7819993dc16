"""Promise: a child ends within seconds of its parent, in any session and whatever it is at."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import wait_until_gone
from workers import children

CHILD = """
import ctypes, fcntl, os, sys, time

if sys.argv[1] == "thread":  # Without the system's help.
    pipe = int(sys.orig_argv[4])
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) & ~os.O_ASYNC)
print(os.getpid(), flush=True)
if sys.argv[1] == "native":
    ctypes.PyDLL(None).sleep(60)  # Holds the lock of the interpreter, so that no thread of Python's runs.
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
from workers import children

first = children.start("endless", "native", stdout=subprocess.PIPE, start_new_session=True)
second = children.start("endless", "native", stdout=subprocess.PIPE)
third = children.start("endless", "thread", stdout=subprocess.PIPE, start_new_session=True)
copy = os.fork()
if copy == 0:
    time.sleep(60)
print(copy, *(int(child.stdout.readline()) for child in (first, second, third)), flush=True)
time.sleep(60)
"""


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module that runs for a minute."""
    (tmp_path / "endless.py").write_text(CHILD)
    (tmp_path / "echo.py").write_text(
        "import sys; print(sys.stdin.read() + sys.argv[1]); sys.exit('no more')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_children_of_a_killed_parent_end_with_it(endless: Path) -> None:
    """In a session of their own or not, in native code or not, beside others and a copy of the parent."""
    path = os.pathsep.join((str(endless), *sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent:
        copy, *found = [psutil.Process(int(word)) for word in parent.stdout.readline().split()]
        assert len(found) == 3
        parent.kill()
    try:
        wait_until_gone(*found, timeout_s=5)
        assert copy.is_running(), "the copy of the parent did not last, so that it proves nothing"
    finally:
        copy.kill()


def test_a_child_that_nobody_holds_ends(endless: Path) -> None:
    child = children.start("endless", "native", stdout=subprocess.PIPE)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.stdout.close()
    child.returncode = 0  # Else Python itself would complain.
    del child
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_a_child_says_what_it_was_asked_and_how_it_ended(endless: Path) -> None:
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    done = children.run("echo", "words", input="last ")
    assert (done.returncode, done.stdout, done.stderr) == (1, "last words\n", "no more\n")
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open


def test_a_child_that_takes_too_long_is_ended(endless: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        children.run("endless", "plain", timeout_s=0.5)
    assert not [one for one in psutil.Process().children() if "endless" in one.cmdline()]


def test_what_lies_in_the_current_folder_is_not_imported(
    endless: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "json.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert children.run("json.tool", input="[1]").stdout == "[\n    1\n]\n"
