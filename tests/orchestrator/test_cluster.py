"""Promise: under Ray a study gives the rows that it gives without, through deaths, Ctrl-C and kills.

A Ray of our own is private and quiet; an existing cluster is used as it is and left running.
"""

import fcntl
import os
import pty
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from heads import free_port, hide, start_head
from running import (
    assert_same_rows,
    environment,
    forget_speed,
    in_shell,
    long_pairs,
    num_parts,
    rows,
    start,
    swapyard,
    to_go_on,
    wait_until,
    write_study,
)

from orchestrator.run.cluster import RayExecutor, _Nonce
from orchestrator.run.worker import StudyWorker
from orchestrator.store import PlanRef, StudyStore
from workers.errors import ClusterError, RunError

pytestmark = pytest.mark.kills

NUM_PAIRS, NUM_TOKENS = 256, 20
NUM_JOBS = NUM_PAIRS * NUM_TOKENS * 3 * 3
HIDDEN = "hidden"
"""A folder that the cluster's node sees, but not with the same content."""


@dataclass(frozen=True)
class World:
    """A study of some seconds, its results without Ray, and an existing Ray cluster."""

    folder: Path
    study: Path
    address: str
    environment: dict[str, str]
    head: "subprocess.Popen[bytes]"
    hides: bool

    @property
    def expected(self) -> pa.Table:
        return rows(self.folder / "inline", "long")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def command(self, store: Path) -> tuple[object, ...]:
        return ("run", self.study, "--executor", "ray", "--no-plots", "--store", store)

    def on_cluster(self, store: Path) -> str:
        """As a line for a shell, on the existing cluster."""
        arguments = map(str, (*self.command(store), "--address", self.address))
        return f"exec {shlex.join(['swapyard', *arguments])}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / HIDDEN).mkdir()
    study = write_study(folder, "long", tiny_folder, long_pairs(NUM_PAIRS, NUM_TOKENS))
    given = environment(
        folder / "cache",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    )
    hiding = hide(folder / HIDDEN)
    head, port = start_head(hiding, given, folder / "head.log")
    try:
        inline = ("run", study, "--executor", "inline", "--no-plots", "--store", folder / "inline")
        done = swapyard(*inline, cwd=folder, cache=folder / "cache")
        assert done.returncode == 0, done.stderr
        yield World(folder, study, f"127.0.0.1:{port}", given, head, bool(hiding))
    finally:
        head.terminate()
        head.wait(timeout=60)


@dataclass
class Terminal:
    """A `swapyard` in the foreground of a terminal of its own, as if somebody sat there."""

    arguments: tuple[object, ...]
    cwd: Path
    cache: Path
    _read: list[bytes] = field(default_factory=list)

    def __enter__(self) -> "Terminal":
        self._keyboard, theirs = pty.openpty()
        self.process = start(
            *self.arguments,
            cwd=self.cwd,
            cache=self.cache,
            num_cores=None,
            stdin=theirs,
            stderr=theirs,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._screen = threading.Thread(target=self._watch, daemon=True)
        self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._screen.join(timeout=5)

    def type(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def close(self) -> None:
        """As when somebody closes the window, or a connection breaks."""
        os.close(self._keyboard)

    def end(self) -> int:
        """Wait for the end; everything is on the screen then."""
        code = self.process.wait(timeout=60)
        self._screen.join(timeout=5)
        return code

    @property
    def text(self) -> str:
        """What was on the screen, without colours and cursor moves."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", b"".join(self._read).decode())

    def _watch(self) -> None:
        # Reading fails when the last process of the terminal has gone.
        try:
            while data := os.read(self._keyboard, 4096):
                self._read.append(data)
        except OSError:
            return


@pytest.fixture
def in_the_middle(world: World) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command in a shell and wait for the next part of the study."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: str, *, store: Path, **options: Any) -> "subprocess.Popen[str]":
        forget_speed(world.cache)
        before = num_parts(store / "long")
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            ["sh", "-c", command], text=True, start_new_session=True, **piped, **options
        )
        started.append(process)
        wait_until(lambda: num_parts(store / "long") > before, process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.versions
def test_ctrl_c_drains_a_kill_loses_nothing_and_the_printed_command_completes(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    forget_speed(world.cache)
    with Terminal(world.command(tmp_path), world.folder, world.cache) as terminal:
        wait_until(lambda: num_parts(tmp_path / "long") > 0, terminal.process)
        listening, secret = listeners(terminal.process.pid), secret_of(terminal.process.pid)
        terminal.type(b"\x03")
        assert terminal.end() == 130
    assert listening and all(address.is_loopback for address in listening), listening
    assert secret, "Ray was started without a token"
    assert "stopping: what runs is finished and committed" in terminal.text
    assert "all of them kept" in terminal.text
    assert "died" not in terminal.text, "Ray's processes were interrupted too"

    command = to_go_on(terminal.text)
    process = in_the_middle(f"exec {command}", store=tmp_path, cwd=tmp_path, env=environment(world.cache))
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = rows(tmp_path, "long").num_rows
    assert 0 < kept < NUM_JOBS
    done = in_shell(command, cwd=tmp_path, cache=world.cache)
    assert done.returncode == 0, done.stderr
    assert_same_rows(rows(tmp_path, "long"), world.expected)
    lines = done.stderr.splitlines()
    # What the killed driver had written and not committed is the first news, where there is any.
    added = re.match(r"([\d,]+) rows in [\d,]+ parts? (is|are) added", lines[0])
    kept += int(added[1].replace(",", "")) if added else 0
    first, *_, last = lines[1:] if added else lines
    assert first.startswith("running on ") and "raylet" not in done.stderr, "Ray has printed something"
    assert last.startswith(f"long: {NUM_JOBS:,} jobs done, {NUM_JOBS - kept:,} of them in these")


@pytest.mark.night
def test_a_closed_terminal_drains(world: World, tmp_path: Path) -> None:
    forget_speed(world.cache)
    with Terminal(world.command(tmp_path), world.folder, world.cache) as terminal:
        wait_until(lambda: num_parts(tmp_path / "long") > 0, terminal.process)
        before = num_parts(tmp_path / "long")
        terminal.close()
        assert terminal.process.wait(timeout=60) == 130
    assert num_parts(tmp_path / "long") > before, "what ran was not committed"
    (log,) = (tmp_path / "long").glob("logs/*/driver.log")
    assert "stopping" in log.read_text() and "died" not in log.read_text()
    done = in_shell(
        f"swapyard {shlex.join(map(str, world.command(tmp_path)))}", cwd=tmp_path, cache=world.cache
    )
    assert done.returncode == 0, done.stderr
    assert_same_rows(rows(tmp_path, "long"), world.expected)


@pytest.mark.versions
def test_a_worker_that_is_killed_is_replaced(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = in_the_middle(world.on_cluster(tmp_path), store=tmp_path, cwd=tmp_path, env=world.environment)
    (part, *_) = StudyStore(tmp_path / "long").state().live.values()
    # Ray's own default, which nobody else is to change.
    assert os.getpriority(os.PRIO_PROCESS, int(part.worker)) == min(19, niceness_of(world.head) + 15)
    os.kill(int(part.worker), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert re.search(
        r"^worker \d died and is replaced: The actor is dead because .* has died; logs lie in",
        err,
        re.MULTILINE,
    )
    assert "died" not in out
    assert_same_rows(rows(tmp_path, "long"), world.expected)
    assert world.head.poll() is None, "the cluster was shut down"


def test_sigterm_drains_on_a_cluster(
    world: World, tmp_path: Path, in_the_middle: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = in_the_middle(world.on_cluster(tmp_path), store=tmp_path, cwd=tmp_path, env=world.environment)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted at" in err and to_go_on(err).endswith(f"--address {world.address}")
    assert world.head.poll() is None, "the cluster was shut down"


def test_a_node_that_does_not_see_the_studys_folder_is_named(world: World) -> None:
    if not world.hides:
        pytest.skip("this machine does not let a user mount a tmpfs in a namespace")
    store = world.folder / HIDDEN
    refused = subprocess.run(
        ["sh", "-c", world.on_cluster(store)],
        env=world.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert f"node {socket.gethostname()} does not see the study's folder {store / 'long'}" in refused.stderr
    assert "put studies on storage that all nodes mount at the same path" in refused.stderr
    assert "Traceback" not in refused.stderr and "to go on" not in refused.stderr
    assert not list((store / "long").glob(".hello*"))


def test_a_worker_of_another_folder_or_version_is_refused(tmp_path: Path) -> None:
    def hello(root: Path, nonce: _Nonce) -> Any:
        plan = PlanRef(id="0" * 32, files={})
        return StudyWorker(root, plan, epoch=1, engines=None).hello(nonce.question, nonce.answer)  # type: ignore[arg-type]

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    nonce = _Nonce(ours, 0)
    with pytest.raises(ClusterError, match=rf"does not see the study's folder {ours}; put studies") as caught:
        nonce.check(hello(theirs, nonce))
    assert caught.value.exit_code == 2
    assert list(theirs.iterdir()) == [], "a folder that is no study's was written to"
    nonce = _Nonce(ours, 0)
    nonce.check(hello(ours, nonce))
    nonce = _Nonce(ours, 0)
    said = hello(ours, nonce)
    with pytest.raises(ClusterError, match=r"runs swapyard 0\.0, this is .*; install the same on all nodes"):
        nonce.check(replace(said, version="0.0"))
    assert not list(ours.glob(".hello*")), "the words of greeting stayed behind"


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    executor = RayExecutor(
        lambda share: {}, root=tmp_path, epoch=1, num_workers=1, threads=1, address=address
    )
    with pytest.raises(
        RunError, match=r"no Ray cluster answers at 127.0.0.1:\d+ \(Connection refused\); correct --ad"
    ):
        executor.start()
    executor.close()


def niceness_of(process: "subprocess.Popen[bytes]") -> int:
    return os.getpriority(os.PRIO_PROCESS, process.pid)


def processes_of(session: int) -> list[int]:
    """The processes that `session` started, however deep."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def listeners(session: int) -> set[IPv4Address | IPv6Address]:
    """The address of every TCP socket on which a process of the session listens."""
    inodes = set()
    for pid in processes_of(session):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(handle.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(_address(fields[1].partition(":")[0]))
    return found


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address of /proc/net: words of 32 bits in the machine's own order."""
    words = [bytes.fromhex(text[i : i + 8]) for i in range(0, len(text), 8)]
    found = ip_address(b"".join(word[::-1] if sys.byteorder == "little" else word for word in words))
    return getattr(found, "ipv4_mapped", None) or found


def secret_of(session: int) -> str | None:
    """The token that the session's Ray asks for."""
    for pid in processes_of(session):
        if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            given = dict(variable.split("=", 1) for variable in variables if "=" in variable)
            assert given["RAY_AUTH_MODE"] == "token"
            return given.get("RAY_AUTH_TOKEN")
    raise AssertionError("no Ray runs in this session")
