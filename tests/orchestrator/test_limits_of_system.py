"""Promise: what the system refuses (memory, room, links, writing) ends a command with one line that says it.

Each is the real refusal of a real system, but for hard links, which no file system here lacks.
"""

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import SWAPYARD, capital_pairs, environment, rows, swapyard, write_study

from orchestrator.faults import VARIABLE
from orchestrator.needs import NEEDS, need_bytes

pytestmark = pytest.mark.kills


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a study file, and with its results in `runs`."""
    folder = tmp_path_factory.mktemp("limits")
    write_study(folder, "capitals", tiny_folder, capital_pairs())
    run = swapyard("run", "capitals.yaml", "--no-plots", cwd=folder, cache=folder / "cache")
    assert run.returncode == 0, run.stderr
    return folder


def confined(size_bytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))


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
}


@pytest.mark.parametrize("command", NEEDS)
def test_too_little_memory_is_told_with_what_is_needed(done: Path, command: str) -> None:
    found = swapyard(
        *COMMANDS[command], cwd=done, cache=done / "cache", num_cores=None, preexec_fn=confined(250 * 10**6)
    )
    assert found.returncode == 1
    needed = need_bytes(command)
    assert needed is not None
    assert found.stderr.splitlines()[0] == (
        f"Error: swapyard {command} needs {needed / 1e6:,.0f} MB of address space here, and ulimit -v allows"
        f" 250 MB; allow more, such as: ulimit -v {-(-needed // 1024)}"
    )
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "query", "plot", "run"])
def test_what_is_said_to_be_needed_is_enough(done: Path, tmp_path: Path, command: str) -> None:
    needed = need_bytes(command)
    assert needed is not None
    store = ("--store", tmp_path, "--executor", "inline") if command == "run" else ()
    found = swapyard(
        *COMMANDS[command],
        *store,
        cwd=done,
        cache=done / "cache",
        num_cores=None,
        preexec_fn=confined(needed),
    )
    assert found.returncode == 0, found.stderr
    assert "memory" not in found.stderr
    if command == "run":
        assert rows(tmp_path, "capitals").num_rows == rows(done / "runs", "capitals").num_rows


def test_a_folder_without_hard_links_is_named_and_nothing_is_lost(done: Path) -> None:
    before = rows(done / "runs", "capitals")
    given = environment(done / "cache", **{VARIABLE: "create.link.before=eperm"})
    (done / "new.yaml").write_text((done / "capitals.yaml").read_text().replace('"capitals"', '"new"'))
    for study in ("capitals", "new"):
        found = swapyard("run", f"{study}.yaml", cwd=done, cache=done / "cache", env=given)
        assert found.returncode == 1
        assert found.stderr.count("\n") == 1, found.stderr
        assert f"runs/{study}" in found.stderr and "has no working hard links, which keep a" in found.stderr
    assert rows(done / "runs", "capitals").equals(before)
    assert not list((done / "runs").rglob(".tmp-*"))


@pytest.fixture
def readers(done: Path) -> Iterator[dict[str, tuple[str, ...]]]:
    """Commands that write what they found, by what cannot be written."""
    yield {
        "runs/capitals/plots/heatmap.png": COMMANDS["plot"],
        "runs/x.csv": ("query", "FROM results", "-o", "runs/x.csv"),
    }
    assert not (done / "runs" / "x.csv").exists()


def test_a_read_only_store_is_read_and_named_where_it_is_written(
    done: Path, readers: dict[str, tuple[str, ...]]
) -> None:
    read_only = "mount --bind runs runs && mount -o remount,ro,bind runs"
    for name, command in readers.items():
        found = in_mounts(read_only, done, *command)
        assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
        assert f"{name} cannot be written" in found.stderr and "read-only file system" in found.stderr.lower()
    found = in_mounts(read_only, done, *COMMANDS["run"])
    assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
    assert "runs/capitals/.lock may not be read or written (read-only file system)" in found.stderr
    assert in_mounts(read_only, done, *COMMANDS["query"]).returncode == 0


def test_a_full_disk_is_named_and_leaves_what_was_there(
    done: Path, readers: dict[str, tuple[str, ...]]
) -> None:
    full = (
        "mkdir -p full && mount -t tmpfs -o size=1m full full && cp -r runs/capitals full &&"
        " mount --bind full runs && { cat /dev/zero > runs/filler 2> /dev/null || true; }"
    )
    for name, command in readers.items():
        found = in_mounts(full, done, *command)
        assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
        assert (
            f"{name} cannot be written" in found.stderr and "no space left on device" in found.stderr.lower()
        )
    found = in_mounts(full, done, *COMMANDS["run"])
    assert found.returncode == 4
    assert found.stderr.startswith("Error: no room is left to write runs/capitals/commits/"), found.stderr
    assert found.stderr.count("\n") == 2 and found.stderr.splitlines()[1].startswith("to go on: ")


def test_an_answer_that_cannot_be_written_is_an_error(done: Path) -> None:
    with Path("/dev/full").open("w") as full:
        for command in ("query", "status"):
            found = swapyard(*COMMANDS[command], cwd=done, cache=done / "cache", stdout=full)
            assert found.returncode == 4
            assert (
                found.stderr.startswith("Error: no room is left on the disk")
                and found.stderr.count("\n") == 1
            )
