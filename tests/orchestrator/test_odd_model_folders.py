"""Promise: no folder, however odd its config, tokeniser or weights are, ends planning or loading in a
traceback or takes much time or memory. The same seed and number give the same folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.night

SEED = os.environ.get("SWAPYARD_FUZZ_SEED", "0")


@pytest.mark.parametrize(("what", "num"), [("plan", 400), ("load", 200)])
def test_odd_folders_are_taken_or_refused_with_a_message(what: str, num: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.model_folders", what, "--seed", SEED, "--num", str(num)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == [f"{what}: {num} folders, 0 faults"], done.stdout + done.stderr
    assert done.returncode == 0
