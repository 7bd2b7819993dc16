"""Promise: a fault happens at the named point and turn, and nowhere else; a misspelt one is an error."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from orchestrator import faults
from orchestrator.faults import ACTIONS, POINTS, VARIABLE, around, reach
from workers.errors import RunError


@pytest.fixture(autouse=True)
def read_again() -> Iterator[None]:
    faults._points.cache_clear()
    yield
    faults._points.cache_clear()


def wish(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)


def failed_turns(name: str, num_turns: int) -> list[int]:
    """The turns at which the point failed, and nothing but EIO."""
    failed = []
    for turn in range(1, num_turns + 1):
        try:
            reach(name)
        except OSError as error:
            assert error.errno == errno.EIO
            failed.append(turn)
    return failed


def test_nothing_happens_where_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in POINTS:
        reach(name)


@pytest.mark.parametrize(("when", "turns"), [("", [1, 2, 3, 4, 5]), ("@3", [3]), ("@3+", [3, 4, 5])])
def test_a_fault_happens_at_its_turns(monkeypatch: pytest.MonkeyPatch, when: str, turns: list[int]) -> None:
    wish(monkeypatch, f"put.write=eio{when}")
    assert failed_turns("put.folder.before", 5) == []
    assert failed_turns("put.write", 5) == turns


def test_faults_at_one_point_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wish(monkeypatch, "put.write=eio@2,put.sync.after=enospc,put.write=eio@4")
    assert failed_turns("put.write", 5) == [2, 4]
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        reach("put.sync.after")


def test_a_step_has_a_point_on_either_side_and_no_after_where_it_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wish(monkeypatch, "put.sync.before=eio@3,put.sync.after=eio@1")
    with pytest.raises(OSError), around("put.sync"):
        pass
    with pytest.raises(ZeroDivisionError), around("put.sync"):
        raise ZeroDivisionError
    done = False
    with pytest.raises(OSError), around("put.sync"):
        done = True
    assert not done


def start(action: str) -> "subprocess.Popen[str]":
    """A process that says ``on``, reaches a point with this fault, and says ``past``."""
    program = (
        "from orchestrator.faults import reach; print('on', flush=True); reach('worker.slice'); print('past')"
    )
    environment = {**os.environ, VARIABLE: f"worker.slice={action}"}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("exit", 1)])
def test_a_process_really_ends_there(action: str, code: int) -> None:
    child = start(action)
    assert child.communicate(timeout=30)[0] == "on\n"
    assert child.returncode == code


def test_a_process_really_stops_there_until_it_is_woken() -> None:
    with start("stop") as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        child.send_signal(signal.SIGCONT)
        assert child.communicate(timeout=30)[0] == "on\npast\n"


def test_a_delay_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wish(monkeypatch, "driver.commit.before=delay:0.05")
    started = time.monotonic()
    reach("driver.commit.before")
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("put.wrte=kill", "there is no point 'put.wrte'; did you mean 'put.write'"),
        ("elsewhere=kill", "there is no point 'elsewhere'; there are folder.make.before, "),
        ("put.write=burn", f"an action is one of {', '.join(ACTIONS)} or delay:SECONDS"),
        ("put.write=delay", "an action is one of"),
        ("put.write=kill:3", "an action is one of"),
        ("put.write", "a fault is NAME=ACTION, "),
        ("put.write=kill@0", "a fault is NAME=ACTION, "),
        ("worker.slice=eio", "worker.slice is no call to the operating system, so that eio cannot happen"),
    ],
)
def test_what_cannot_be_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    wish(monkeypatch, f"put.sync.before=eio,{text}")
    with pytest.raises(RunError) as error:
        reach("driver.plan")
    said = str(error.value)
    assert said.startswith(f"the environment variable {VARIABLE} says '{text}': ")
    assert message in said
    assert said.endswith("; correct it, or unset it")


def test_a_point_that_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        reach("nowhere")
