"""Promise: what the system refuses (memory, room, links, writing) ends a command with one line that says it.

Each is the real refusal of a real system, but for hard links, which no file system here lacks.
"""

import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from running import SWAPYARD, capital_pairs, environment, rows, swapyard, write_study

from orchestrator.faults import VARIABLE
from orchestrator.machine import need_bytes

pytestmark = pytest.mark.kills


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a study file, and with its results in `runs`, made with just the memory that it takes."""
    folder = tmp_path_factory.mktemp("limits")
    write_study(folder, "capitals", tiny_folder, capital_pairs())
    run = in_memory(need_bytes("run"), folder, "run", "capitals.yaml", "--executor", "inline")
    assert run.returncode == 0, run.stderr
    assert "memory" not in run.stderr and "drew runs/capitals/plots/heatmap.png" in run.stderr
    return folder


def in_memory(size_bytes: int | None, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A `swapyard` that may take so much address space."""
    assert size_bytes is not None
    limit = (size_bytes, size_bytes)
    return swapyard(
        *arguments,
        cwd=folder,
        cache=folder / "cache",
        num_cores=None,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )


def in_mounts(script: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A `swapyard` that finds below `folder` what `script` mounts there; skipped where no user may mount."""
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{script} && exec "$0" "$@"')
    options: dict[str, Any] = {"cwd": folder, "env": environment(folder / "cache"), "text": True}
    try:
        probe = subprocess.run([*prefix, "true"], capture_output=True, check=False, **options)
    except FileNotFoundError:
        pytest.skip("this machine has no unshare")
    if probe.returncode:
        pytest.skip("this machine does not let a user mount in a namespace")
    return subprocess.run(
        [*prefix, str(SWAPYARD), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        **options,
    )


COMMANDS = {
    "status": ("status",),
    "logs": ("logs", "capitals"),
    "query": ("query", "SELECT site, layer, count(*) FROM results GROUP BY ALL"),
    "plot": ("plot", "heatmap", "capitals"),
    "doctor": ("doctor", "capitals"),
    "plan": ("plan", "capitals.yaml"),
    "run": ("run", "capitals.yaml"),
    "export": ("export", "capitals"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_too_little_memory_is_told_with_what_is_needed(done: Path, command: str) -> None:
    found = in_memory(250 * 10**6, done, *COMMANDS[command])
    assert found.returncode == 1
    needed = need_bytes(command)
    assert needed is not None
    assert found.stderr.splitlines()[0] == (
        f"Error: swapyard {command} needs {needed / 1e6:,.0f} MB of address space here, and ulimit -v allows"
        f" 250 MB; allow more, such as: ulimit -v {-(-needed // 1024)}"
    )
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["query", "plot"])
def test_what_is_said_to_be_needed_is_enough(done: Path, command: str) -> None:
    found = in_memory(need_bytes(command), done, *COMMANDS[command])
    assert found.returncode == 0, found.stderr
    assert "memory" not in found.stderr


def as_somebody(command: str) -> "tuple[str, ...]":
    """What a shell runs as a user who has no other process; skipped where this user may not become one."""
    if os.getuid() != 0:
        pytest.skip("only root can become a user who has no other process")
    if shutil.which("setpriv") is None:
        pytest.skip("this machine has no setpriv")
    user, may = str(60_000 + os.getpid() % 5_000), "+dac_override,+dac_read_search"
    caps = ("--inh-caps", may, "--ambient-caps", may)
    return ("setpriv", "--reuid", user, "--regid", user, "--clear-groups", *caps, "bash", "-c", command)


@pytest.mark.parametrize(("limit", "is_enough"), [(3, False), (11 + 4 * len(os.sched_getaffinity(0)), True)])
def test_too_few_threads_are_told_with_what_is_needed(done: Path, limit: int, is_enough: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as everybodys:
        store = Path(everybodys) / "runs"
        Path(everybodys).chmod(0o755)
        shutil.copytree(done / "runs", store)
        command = shlex.join([str(SWAPYARD), *COMMANDS["query"], "--store", str(store)])
        found = subprocess.run(
            as_somebody(f"ulimit -u {limit} && exec {command}"),
            cwd=everybodys,
            env=environment(done / "cache"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (found.returncode == 0) == is_enough, found.stderr
    if not is_enough:
        assert (
            found.stderr.startswith("Error: swapyard query starts up to ") and found.stderr.count("\n") == 1
        )
        assert "and ulimit -u allows this user 3 in all, of which 1 are taken; end other" in found.stderr


def test_a_ray_that_cannot_open_enough_files_is_refused_at_once() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "from orchestrator.machine import refuse_ray; refuse_ray(2)"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)),
    )
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        "workers.errors.RunError: a local Ray with 2 workers needs 64 open files at a time, and ulimit -n"
        " allows 48; allow more, such as: ulimit -n 4096, or run without Ray: --executor inline"
    )


def test_a_folder_without_hard_links_is_named_and_nothing_is_lost(done: Path) -> None:
    before = rows(done / "runs", "capitals")
    given = environment(done / "cache", **{VARIABLE: "create.link.before=eperm"})
    found = swapyard("run", "capitals.yaml", cwd=done, cache=done / "cache", env=given)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
    assert "the file system of runs/capitals/commits has no working hard links, which keep a" in found.stderr
    assert rows(done / "runs", "capitals").equals(before)
    assert not list((done / "runs").rglob(".tmp-*"))


def test_a_read_only_store_is_read_and_named_where_it_is_written(done: Path) -> None:
    read_only = "mount --bind runs runs && mount -o remount,ro,bind runs"
    assert in_mounts(read_only, done, *COMMANDS["query"]).returncode == 0
    found = in_mounts(read_only, done, *COMMANDS["plot"])
    assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
    assert "runs/capitals/plots/heatmap.png cannot be written (read-only file system)" in found.stderr
    found = in_mounts(read_only, done, *COMMANDS["run"])
    assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
    assert "runs/capitals/.lock may not be read or written (read-only file system)" in found.stderr


def test_a_full_disk_is_named_and_leaves_what_was_there(done: Path) -> None:
    full = (
        "mkdir -p full && mount -t tmpfs -o size=1m full full && cp -r runs/capitals full &&"
        " mount --bind full runs && { cat /dev/zero > runs/filler 2> /dev/null || true; }"
    )
    found = in_mounts(full, done, *COMMANDS["plot"])
    assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
    assert "runs/capitals/plots/heatmap.png cannot be written (no space left on device)" in found.stderr
    found = in_mounts(full, done, *COMMANDS["run"])
    assert found.returncode == 4
    assert found.stderr.startswith("Error: no room is left to write runs/capitals/commits/"), found.stderr
    assert found.stderr.count("\n") == 2 and found.stderr.splitlines()[1].startswith("to go on: ")


def test_an_answer_that_cannot_be_written_is_an_error(done: Path) -> None:
    with Path("/dev/full").open("w") as full:
        found = swapyard(*COMMANDS["status"], cwd=done, cache=done / "cache", stdout=full)
    assert found.returncode == 4
    assert (
        found.stderr.startswith("Error: the answer cannot be written: No space left on device")
        and found.stderr.count("\n") == 1
    )
