"""Promise: a full or read-only disk is one clear error, nothing is lost, and the run can go on.

The disk is a real one: a small tmpfs in a mount namespace of its own.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Spawn = Callable[..., "subprocess.Popen[str]"]

FILL = """
import sys
from pathlib import Path
from orchestrator.store import Manifest, StudyStore
from workers.errors import StorageFullError
root = Path(sys.argv[1])
filler = root / "filler"
store = StudyStore(root / "study")
with store.open_driver() as driver:
    filler.write_bytes(b"x" * 60_000)
    committed, held_back = 0, None
    try:
        while True:
            part = store.write_part(driver.epoch, "lane", b"x" * 20_000)
            held_back = Manifest(
                **part._asdict(), families=("kl",), lane="lane", tile=0, k_lo=committed, k_hi=committed + 1,
                rows=1, failed=0, tiers={}, timings={}, worker="w", host="h",
            )
            driver.commit([held_back])
            committed += 1
    except StorageFullError as error:
        assert error.exit_code == 4
        print(error)
    files = [path for path in (root / "study" / "data").rglob("*") if path.is_file()]
    assert all(path.stat().st_size == 20_000 for path in files), "a torn part stayed behind"
    assert not list((root / "study").rglob(".tmp-*")), "a temporary file stayed behind"
    assert committed > 2 and len(store.state().live) == committed
    filler.unlink()
    part = store.write_part(driver.epoch, "lane", b"x" * 20_000)
    assert held_back is not None
    driver.commit([held_back])
    assert len(store.state().done("kl", 0)) >= committed
"""

READ_ONLY = """
import sys
from pathlib import Path
from orchestrator.store import StudyStore
from workers.errors import StoreError
try:
    StudyStore(Path(sys.argv[1]) / "study").open_driver()
except StoreError as error:
    print(error)
"""


def in_tmpfs(folder: Path, options: str) -> tuple[str, ...]:
    mount = f'mount -t tmpfs -o {options} swapyard "{folder}" && exec "$0" "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount)
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine does not let a user mount a tmpfs in a namespace")
    return prefix


def test_a_full_disk_stops_the_writer_and_it_goes_on_when_there_is_room(tmp_path: Path, spawn: Spawn) -> None:
    child = spawn(FILL, tmp_path, prefix=in_tmpfs(tmp_path, "size=256k"))
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "no room is left to write" in out
    assert "nothing that was committed is lost" in out


def test_a_read_only_disk_is_named(tmp_path: Path, spawn: Spawn) -> None:
    child = spawn(READ_ONLY, tmp_path, prefix=in_tmpfs(tmp_path, "ro"))
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "may not be read or written (read-only file system)" in out
