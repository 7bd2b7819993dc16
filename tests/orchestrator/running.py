"""What the tests of running share: studies of the tiny model, real `swapyard` processes, rows to compare."""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.api import open_results
from orchestrator.store import StudyStore
from tests.forks import Fork, can_fork

SWAPYARD = Path(sys.executable).with_name("swapyard")
CAPITALS = {"Spain": "Madrid", "Italy": "Rome", "France": "Paris", "Peru": "Lima"}
SITES = ("mlp_output", "attention_input", "block_output")
FLOATS = ("label_logit", "base_label_logit", "label_logprob", "margin", "kl_base")
DISCRETE = ("pred_id", "iia", "changed")
SLOW = 2000.0
"""Tokens a second, of which the tiny model does fifty times as many."""
TOLERANCE = 1e-5
"""Of the largest absolute logit: what sharing a forward with other jobs may change."""


def capital_pairs() -> list[dict[str, str]]:
    """Every ordered pair of the four countries that the tiny model has words for."""
    return [
        {
            "base": f"The capital of {base} is",
            "source": f"The capital of {source} is",
            "base_label": f" {CAPITALS[base]}",
            "label": f" {CAPITALS[source]}",
        }
        for base, source in itertools.permutations(CAPITALS, 2)
    ]


def long_pairs(num_pairs: int, num_tokens: int) -> list[dict[str, str]]:
    """Pairs of long random prompts: seconds of work even for the tiny model."""
    draw = random.Random(0)
    words = ("the", "capital", "of", "a", "is", *CAPITALS, *CAPITALS.values())

    def prompt() -> str:
        return " ".join(["The", *(draw.choice(words) for _ in range(num_tokens - 1))])

    labels = {"base_label": " Madrid", "label": " Rome"}
    return [{"base": prompt(), "source": prompt(), **labels} for _ in range(num_pairs)]


def write_study(
    folder: Path, name: str, model: Path, pairs: Iterable[Mapping[str, Any]], **keys: Any
) -> Path:
    """A study file: every layer × three sites × every position, unless `keys` say otherwise."""
    sweep = [{"sites": SITES, "layers": "all", "positions": "all"}]
    content = {"study": name, "model": str(model), "pairs": list(pairs), "sweep": sweep, **keys}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def start(
    *arguments: object, cwd: Path, cache: Path, num_cores: int | None = 1, **options: Any
) -> "subprocess.Popen[str]":
    """A real `swapyard` in the folder `cwd`, on so many cores (None: all), in a session of its own."""
    cores = sorted(os.sched_getaffinity(0))[:num_cores]
    defaults = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment(cache),
        "preexec_fn": lambda: os.sched_setaffinity(0, cores),
    }
    command = [str(SWAPYARD), *map(str, arguments)]
    chosen = {**defaults, **options}
    env = chosen["env"] = chosen["env"] or dict(os.environ)
    if "preexec_fn" not in options and can_fork(env, options):
        del chosen["preexec_fn"]
        return Fork(SWAPYARD, command[1:], cores, cwd=cwd, text=True, **chosen)
    return subprocess.Popen(command, cwd=cwd, text=True, start_new_session=True, **{**defaults, **options})


def environment(cache: Path, **more: str) -> dict[str, str]:
    """This process's, with `swapyard` on the path and a cache of its own."""
    path = f"{SWAPYARD.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SWAPYARD_CACHE": str(cache), **more}


def swapyard(
    *arguments: object, cwd: Path, cache: Path, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """As `start`, to its end."""
    process = start(*arguments, cwd=cwd, cache=cache, **options)
    try:
        out, err = process.communicate(timeout=120)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def in_shell(command: str, *, cwd: Path, cache: Path) -> "subprocess.CompletedProcess[str]":
    """What happens when `command` is pasted into a shell, on one core."""
    core = min(os.sched_getaffinity(0))
    return subprocess.run(
        ["sh", "-c", command],
        cwd=cwd,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )


def to_go_on(err: str) -> str:
    """The command that an interrupted run ends with."""
    last = err.strip().splitlines()[-1]
    assert last.startswith("to go on: "), err
    return last.removeprefix("to go on: ")


def forget_speed(cache: Path) -> None:
    """Make the next run believe that this machine is slow: its first part is small and comes at once."""
    path = cache / "rates.json"
    known = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(dict.fromkeys(known, SLOW)), "utf-8")


def num_parts(study: Path) -> int:
    """Parts that are committed in the folder of a study."""
    store = StudyStore(study)
    return len(store.state().live) if store.exists() else 0


def wait_until(
    true: Callable[[], bool], process: "subprocess.Popen[str] | None" = None, *, timeout_s: float = 60
) -> None:
    """Wait for something to become true while `process` runs."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended too early: {process.communicate()}")
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def rows(store: Path, study: str) -> pa.Table:
    """The results of a study, by job."""
    columns = ", ".join(("job_id", *FLOATS, *DISCRETE, "tier"))
    found = open_results(study, store=store).sql(f"SELECT {columns} FROM results ORDER BY job_id")
    return found.to_arrow_table()


def assert_same_rows(found: pa.Table, expected: pa.Table) -> None:
    """The same jobs, each once, with the same values as far as floats allow."""
    assert found["job_id"].to_pylist() == expected["job_id"].to_pylist()
    assert len(set(found["job_id"].to_pylist())) == found.num_rows
    scale = max(np.abs(values(expected, name)).max() for name in ("label_logit", "base_label_logit"))
    for name in FLOATS:
        np.testing.assert_allclose(
            values(found, name), values(expected, name), rtol=0, atol=TOLERANCE * scale
        )
    clear = values(expected, "margin") > 2 * TOLERANCE * scale
    assert clear.mean() > 0.9
    for name in DISCRETE:
        np.testing.assert_array_equal(values(found, name)[clear], values(expected, name)[clear])


def values(table: pa.Table, name: str) -> np.ndarray:
    """A column as floats."""
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
