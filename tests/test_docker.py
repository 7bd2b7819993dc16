"""Promise: the image and the services of ``docker/`` work for any user, with study files of one's own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.night
def test_the_steps_of_the_containers_work_without_an_engine() -> None:
    command = [ROOT / "docker" / "try", Path(sys.executable).with_name("swapyard"), "--ray"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout and done.stdout.count("ok  ") >= 7


def test_a_program_gets_a_home_a_name_and_a_cache(tmp_path: Path) -> None:
    (cache := tmp_path / "cache").mkdir()
    shown = subprocess.run(
        [ROOT / "docker" / "start", "sh", "-c", 'echo "$HOME|$LOGNAME|$SWAPYARD_CACHE|$1"', "sh", "a b"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "gone"), "TMPDIR": str(tmp_path)}
        | {"SWAPYARD_CACHE": str(cache), "LOGNAME": "somebody"},
        capture_output=True,
        text=True,
        check=True,
    )
    home, name, found, argument = shown.stdout.strip().split("|")
    assert (name, found, argument, shown.stderr) == ("somebody", str(cache), "a b", "")
    assert Path(home).is_dir() and Path(home).parent == tmp_path
