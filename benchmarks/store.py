"""How soon a driver knows what remains of a study with 10,000 commits: ``python -m benchmarks.store``.

And how soon a log of 100,000 commits is read, with its checkpoint (target: 3 s from the start of the process)
and without; and what it costs to check files of rows by their hashes: ``python -m benchmarks.store log``.
What questions cost at scale: ``python -m benchmarks.store read`` (see `benchmarks.reading`).

Target: under 3 s of CPU and 200 MB, for a million jobs, from the start of the process on. The commits are
made by a real driver; the parts that they name are not, as nobody opens a part to know what is done. The
study lies in memory (/dev/shm) where there is such a place: reading is measured, not the disk.
"""

import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.plan import VOCABULARY, Shape, prepared
from orchestrator.plan.baseline_runs import COLUMNS, runs_table
from orchestrator.plan.remaining import counts_of
from orchestrator.plan.tables import Lane, Plan, encode_plan, read_plan
from orchestrator.stages.sweep.work import open_work
from orchestrator.store import CommitLog, Holder, Manifest, State, StudyStore
from orchestrator.store.storage import LocalStorage
from orchestrator.store.verify import damaged_files
from workers.vocabulary import CleanRun

NUM_ROUNDS = 5
NUM_COMMITS = 10_000
LONG = 100_000
"""Commits of the long log."""
BYTES_A_ROW = 13.8
NUM_WORKERS = 8
SHAPE = Shape(
    "{sites: [mlp_output, attention_input, block_output], layers: all, positions: all}", num_pairs=463
)
SHOWN = ("commits s", "plan s", "counts s", "work s", "wall s", "CPU s", "peak MB")
MEMORY = Path("/dev/shm")


def main() -> None:
    """Build the study, then print a line a round, and the median and the worst of all."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-", dir=place) as scratch:
        folder = Path(scratch) / "study"
        began = time.perf_counter()
        build(folder)
        print(f"built {folder} in {time.perf_counter() - began:.0f} s")
        rounds = [_in_child(folder) for _ in range(NUM_ROUNDS)]
    first = rounds[0]
    print(
        f"{first['num_jobs']:,} jobs, {first['num_done']:,} done; {first['num_commits']:,} commits,"
        f" {first['num_parts']:,} parts, {first['num_tiles']:,} tiles with work"
    )
    print("".join(f"{name:>12}" for name in ("", *SHOWN)))
    for name, choose in (("median", statistics.median), ("worst", max)):
        values = [choose([one[column] for one in rounds]) for column in SHOWN]
        print(f"{name:>12}" + "".join(f"{value:>12.2f}" for value in values))
    print(f"{NUM_ROUNDS} fresh processes; wall, CPU and peak from their start, libraries included")


def measure_log() -> None:
    """Print how long a log of `LONG` commits takes, and how long hashes do."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-", dir=place) as scratch:
        storage = LocalStorage(Path(scratch) / "study")
        log = CommitLog(storage)
        epoch = log.open_epoch(Holder.this_process())
        log.append(epoch, "add", add=(_one(epoch, 0),))
        for number in range(1, LONG - 1):
            log.append(epoch, "add", add=(_one(epoch, number),))
        for words in (("checkpoint", ""), ("every commit", "all")):
            times = [_log_in_child(storage.root, words[1]) for _ in range(3)]
            print(f"{LONG:,} commits by {words[0]}: {statistics.median(times):.2f} s of CPU, start included")
    for num_rows in (10**6, 10**8):
        _measure_hashes(num_rows, place)


def _log_in_child(folder: Path, how: str) -> float:
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.store import CommitLog;"
        " from orchestrator.store.storage import LocalStorage;"
        " seen = CommitLog(LocalStorage(Path(sys.argv[1])), checkpoints=not sys.argv[2]).refresh();"
        f" assert seen.seq == {LONG} and len(seen.live) == {LONG - 1}; print(time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), how], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def _measure_hashes(num_rows: int, place: Path | None) -> None:
    """Print how long the hashes of files of a million rows take; of files that lie in memory."""
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-", dir=place) as scratch:
        state = State()
        data = random.Random(0).randbytes(int(10**6 * BYTES_A_ROW))
        digest = hashlib.sha256(data).hexdigest()
        for number in range(num_rows // 10**6):
            part = replace(_one(1, number), size_bytes=len(data), sha256=digest)
            path = Path(scratch) / part.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            state.put(part)
        began, cpu = time.perf_counter(), time.process_time()
        assert not damaged_files(Path(scratch), state)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(f"hashes of {num_rows:,} rows: {took:.2f} s, {cpu:.2f} s of CPU")


def _one(epoch: int, number: int) -> Manifest:
    return Manifest(
        path=f"data/{epoch}/0/{number:032x}.parquet",
        size_bytes=4096,
        sha256="0" * 64,
        families=("logits", "kl"),
        lane="0",
        tile=number // 50,
        k_lo=2 * (number % 50),
        k_hi=2 * (number % 50) + 2,
        rows=128,
        failed=0,
        tiers={"replayed": 64, "unchanged": 64},
        timings={"total_s": 2.0, "model_s": 1.5, "capture_s": 0.25},
        worker="4711",
        host="node-1.cluster.example",
        tier_reason="replay: checked against the whole model when it was loaded",
        capability='{"model": "' + "x" * 600 + '"}',
    )


def build(folder: Path) -> None:
    """A study with a plan and `NUM_COMMITS` commits of a part each, all but some of its jobs done."""
    plan = full_plan()
    draw = random.Random(0)
    with StudyStore(folder).open_driver() as driver:
        driver.write_plan(encode_plan(plan))
        for manifest in _manifests(plan, driver.epoch, draw):
            refused = driver.commit([manifest])
            assert not refused


def full_plan(shape: Shape = SHAPE, vocabulary: int = VOCABULARY) -> Plan:
    """The plan with what running its prompts adds: as many rows as there would be, all zeros."""
    plan = prepared(shape)()
    ids = pa.array(range(vocabulary), pa.int32())
    tokens = {
        "lane": pa.array(np.zeros(vocabulary, np.uint16)),
        "id": ids,
        "token": ids.cast(pa.string()),
    }
    tables = {**plan.tables, "runs": runs_table(plan, _Zeros()), "tokens": pa.table(tokens)}
    return Plan(head=plan.head, tables=tables)


class _Zeros:
    """Stands for the model where only the number of its answers counts."""

    def score(self, lane: Lane, requests: Sequence[CleanRun]) -> dict[str, np.ndarray]:
        dtypes = {"f": np.float32, "i": np.int32}
        return {name: np.zeros(len(requests), dtypes[code]) for name, code in COLUMNS}


def _manifests(plan: Plan, epoch: int, draw: random.Random) -> Iterator[Manifest]:
    """As workers of which each has its own tile would report them: one or two cells each."""
    waiting = list(plan.tiles.values())
    at_work = [(waiting.pop(0), 0) for _ in range(min(NUM_WORKERS, len(waiting)))]
    for _ in range(NUM_COMMITS):
        number = draw.randrange(len(at_work))
        tile, k_lo = at_work.pop(number)
        k_hi = min(k_lo + draw.choice((1, 2, 2)), tile.num_cells)
        rows = (k_hi - k_lo) * len(tile.pairs)
        yield _manifest(plan, epoch, tile.tile, (k_lo, k_hi), rows, str(number))
        if k_hi < tile.num_cells:
            at_work.insert(number, (tile, k_hi))
        elif waiting:
            at_work.insert(number, (waiting.pop(0), 0))


def _manifest(plan: Plan, epoch: int, tile: int, cells: tuple[int, int], rows: int, worker: str) -> Manifest:
    return Manifest(
        path=f"data/{epoch}/0/{uuid.uuid4().hex}.parquet",
        size_bytes=4096,
        sha256="0" * 64,
        families=plan.families,
        lane="0",
        tile=tile,
        k_lo=cells[0],
        k_hi=cells[1],
        rows=rows,
        failed=0,
        tiers={"hooked": rows // 2, "unchanged": rows - rows // 2},
        timings={"total_s": 2.0, "model_s": 1.5, "capture_s": 0.25},
        worker=worker,
        host="node-1.cluster.example",
    )


def _in_child(folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.store", str(folder)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {**found, "wall s": time.perf_counter() - began}


def measure(folder: Path) -> dict[str, float]:
    """Find out in this process what remains of the study in `folder`."""
    store = StudyStore(folder)
    times = [time.process_time()]
    state = store.state()
    times.append(time.process_time())
    assert state.plan is not None
    plan = read_plan(store, state.plan)
    times.append(time.process_time())
    counts = counts_of(plan, state)
    times.append(time.process_time())
    work = open_work(plan, state)
    times.append(time.process_time())
    steps = dict(zip(SHOWN, (after - before for before, after in pairwise(times)), strict=False))
    return {
        **steps,
        "CPU s": times[-1],
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "num_jobs": counts.num_jobs,
        "num_done": counts.num_done,
        "num_commits": state.seq,
        "num_parts": len(state.live),
        "num_tiles": len(work),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["log"]:
        measure_log()
    elif sys.argv[1:2] == ["read"]:
        # It makes its plans here.
        from benchmarks.reading import main as measure_reading

        measure_reading(sys.argv[2:])
    elif len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]))))
    else:
        main()
