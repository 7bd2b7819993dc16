"""How fast this machine was, by model and device: what a run is estimated from before it starts."""

__all__ = ["estimate_rate", "remember_rate"]

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.plan.tables import Lane
from workers.model.cache import cache_folder

FLOPS_PER_CORE = 4e10
"""What a core is taken to do until it was measured."""


def estimate_rate(lane: Lane, threads: int) -> float:
    """Tokens per second that one worker runs through the lane's model."""
    known = _read().get(_key(lane, threads))
    if isinstance(known, int | float) and 0 < known < float("inf"):
        return float(known)
    return threads * FLOPS_PER_CORE / (2.0 * max(1, lane.num_parameters))


def remember_rate(lane: Lane, threads: int, rate: float) -> None:
    """Keep what was measured; a cache that cannot be written only costs the next estimate."""
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            fresh.write_text(json.dumps({**_read(), _key(lane, threads): rate}), "utf-8")
            fresh.replace(path)
    except OSError:
        return


def _key(lane: Lane, threads: int) -> str:
    return f"{lane.spec.revision} {lane.spec.dtype} {lane.spec.device} {os.uname().nodename} x{threads}"


def _path() -> Path:
    return cache_folder() / "rates.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
