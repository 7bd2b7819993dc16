"""The fuzzer as tests call it: in a process of its own, which forks for each file."""

__all__ = ["COUNT", "SEED", "fuzz"]

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SEED = int(os.environ.get("SWAPYARD_FUZZ_SEED", "0"))
COUNT = int(os.environ.get("SWAPYARD_FUZZ_NUM", "1500"))
"""How many files of each kind a night tries."""


def fuzz(kind: str, *options: object, keep: Path) -> dict[str, Any]:
    """What came of it; files with faults are kept in `keep`."""
    command = [sys.executable, "-m", "tests.fuzz", kind, "--json", "--keep", str(keep), *map(str, options)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
