"""Throughput of this machine, by model and device: what a run begins with instead of guesses.

In the cache `rates.json` has the cost units per second of one worker (see `orchestrator.plan.costs`), and
`paces.json` how much one forward took. A memory that is damaged or cannot be written only costs time.
"""

__all__ = ["estimate_rate", "known_pace", "known_rate", "remember_pace", "remember_rate"]

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.plan.tables import Lane
from workers.model.cache import cache_folder

FLOPS_PER_CORE = 4e10
"""Operations per second that a core is taken to do until it was measured."""
_RATES, _PACES = "rates.json", "paces.json"


def known_rate(lane: Lane, threads: int) -> float | None:
    """Cost units per second that one worker did on the lane's model; None where none did on this machine."""
    known = _read(_RATES).get(_rate_key(lane, threads))
    return float(known) if isinstance(known, int | float) and 0 < known < float("inf") else None


def estimate_rate(lane: Lane, threads: int) -> float:
    """Cost units per second that one worker does on the lane's model."""
    if (known := known_rate(lane, threads)) is not None:
        return known
    return threads * FLOPS_PER_CORE / (2.0 * max(1, lane.num_parameters))


def remember_rate(lane: Lane, threads: int, rate: float) -> None:
    """Keep what was measured."""
    _remember(_RATES, _rate_key(lane, threads), rate)


def known_pace(lane: Lane, device: str, threads: int) -> dict[str, int]:
    """Sizes of forwards that `remember_pace` kept, as far as it can be used; empty where nothing was."""
    known = _read(_PACES).get(_key(lane, device, threads))
    if not isinstance(known, dict):
        return {}
    return {name: size for name, size in known.items() if type(size) is int and size > 0}


def remember_pace(lane: Lane, device: str, threads: int, pace: Mapping[str, int]) -> None:
    """Keep the sizes of forwards that were found best for the model on a device of this name."""
    _remember(_PACES, _key(lane, device, threads), dict(pace))


def _rate_key(lane: Lane, threads: int) -> str:
    # Earlier versions counted jobs that need no run like others.
    return f"{_key(lane, lane.spec.device, threads)}, of what runs"


def _key(lane: Lane, device: str, threads: int) -> str:
    return f"{lane.spec.revision} {lane.spec.dtype} {device} {os.uname().nodename} x{threads}, by changes"


def _remember(name: str, key: str, value: Any) -> None:
    path = cache_folder() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            fresh.write_text(json.dumps({**_read(name), key: value}), "utf-8")
            fresh.replace(path)
    except OSError:
        return


def _read(name: str) -> dict[str, Any]:
    try:
        found = json.loads((cache_folder() / name).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
