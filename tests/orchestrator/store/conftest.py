"""What the store's tests share: manifests with little to say, and real child processes."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.store import Manifest, StudyStore

_CODE_ROOT = Path(orchestrator.__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return StudyStore(tmp_path / "study")


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    return make_manifest


@pytest.fixture
def spawn() -> Callable[..., "subprocess.Popen[str]"]:
    """Start a Python child on a piece of code; its arguments are in ``sys.argv[1:]``."""

    def start(code: str, *args: object, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*prefix, sys.executable, "-c", code, *map(str, args)],
            env={**os.environ, "PYTHONPATH": str(_CODE_ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def make_manifest(epoch: int = 1, **changes: Any) -> Manifest:
    content: dict[str, Any] = {
        "path": f"data/{epoch}/lane/{uuid.uuid4().hex}.parquet",
        "size_bytes": 1000,
        "sha256": "0" * 64,
        "families": ("logits",),
        "lane": "lane",
        "tile": 0,
        "k_lo": 0,
        "k_hi": 4,
        "rows": 8,
        "failed": 0,
        "tiers": {"hooked": 8},
        "timings": {"run": 0.5},
        "worker": "worker-0",
        "host": "here",
    }
    return Manifest(**{**content, **changes})
