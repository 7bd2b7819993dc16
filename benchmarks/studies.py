"""Studies that benchmarks run by the command line, and when their work began and ended."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store import Manifest, StudyStore
from workers.vocabulary import Pair

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Ran:
    """One `swapyard run`."""

    wall_s: float
    """Of the whole command."""
    work_s: float
    """From the start of the first batch to the last commit."""
    num_jobs: int
    tiers: Mapping[str, int]


def write_study(
    folder: Path, name: str, model: str | Mapping[str, Any], pairs: Sequence[Pair], sweep: Any, **more: Any
) -> Path:
    """A study of pairs of token ids, with the metrics of one forward's logits."""
    given = folder / f"{name}.jsonl"
    given.write_text("".join(json.dumps(_row(pair)) + "\n" for pair in pairs), "utf-8")
    content = {
        "study": name,
        "model": model,
        "pairs": given.name,
        "metrics": ["prob", "logit_diff"],
        "sweep": [sweep],
        **more,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content), "utf-8")
    return path


def _row(pair: Pair) -> dict[str, Any]:
    return {
        "base_ids": pair.tokens["base"],
        "source_ids": pair.tokens["source"],
        "label": pair.label_ids[0],
        "base_label": pair.base_label_ids[0],
    }


def swapyard(
    arguments: Iterable[object], *, cores: int | None = None, **options: Any
) -> "subprocess.Popen[str]":
    """A real `swapyard`, on so many of the cores (None: all)."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        text=True,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
    )


def run_study(study: Path, store: Path, *arguments: object, cores: int | None = None) -> Ran:
    """Run a study that is not there yet, to its end.

    Raises:
        RuntimeError: it ended otherwise than done.
    """
    began = time.perf_counter()
    process = swapyard(["run", study, "--store", store, "--no-plots", *arguments], cores=cores)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"swapyard run {study.name} ended with code {process.returncode}: {said}")
    return ran(store / study.stem, time.perf_counter() - began)


def ran(folder: Path, wall_s: float) -> Ran:
    """What a finished run says of itself."""
    store = StudyStore(folder)
    parts = list(store.state().live.values())
    tiers: dict[str, int] = {}
    for part in parts:
        for tier, rows in part.tiers.items():
            tiers[tier] = tiers.get(tier, 0) + rows
    if any(part.failed for part in parts):
        raise RuntimeError(f"jobs of {folder.name} failed")
    return Ran(
        wall_s=wall_s,
        work_s=_last_commit(folder) - min(_begun(folder, part) for part in parts),
        num_jobs=sum(part.rows for part in parts),
        tiers=tiers,
    )


def _begun(folder: Path, part: Manifest) -> float:
    """When the batch began: its file was written last, `total_s` later."""
    path = folder / part.path
    return path.stat().st_mtime - part.timings["total_s"] if path.exists() else float("inf")


def _last_commit(folder: Path) -> float:
    commits = (json.loads(path.read_bytes()) for path in (folder / "commits").iterdir())
    return max(float(commit["time_s"]) for commit in commits if commit["kind"] == "add")
