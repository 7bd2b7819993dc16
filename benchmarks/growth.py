"""What grows with a study, and what does not: ``python -m benchmarks.growth``.

Four parts, each also by itself (``--part NAME``):

- ``cost``: time a job, engine alone, as pairs, layers, positions and prompts grow, and its share of the
  operation count (see `benchmarks.count`): that is flat where nothing but the model's work grows.
- ``memory``: the driver's and the largest worker's peak as a study of real jobs grows; resident pages,
  sampled while it runs.
- ``noop``: jobs that need no run at all (tier ``unchanged``: the source is the base), from the start of the
  first batch to the last commit: plan, Ray, engine, Parquet and commit, without the model.
- ``workers``: two one-thread workers beside one, and beside what two plain forward processes gain over one.
  One worker has one core, which it shares with its driver.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.report import arguments, figure, num_rounds, spread, table, write, written
from benchmarks.setting import (
    SITES,
    Operations,
    Setting,
    bases_of,
    load_folder,
    model_folder,
    plain_forward,
    random_pairs,
    run_sweep,
    sweep,
    timed,
)
from benchmarks.studies import ROOT, Ran, ran, run_study, swapyard, write_study
from orchestrator.machine import num_cores
from workers.engine.engine import Engine
from workers.vocabulary import Pair

MIDDLE = Setting("gpt2-12x256", 24, 32, (2, 12, 23))
AXES: Mapping[str, Sequence[Setting]] = {
    "pairs": [replace(MIDDLE, num_pairs=count) for count in (8, 32, 128, 512)],
    "layers": [replace(MIDDLE, model=f"gpt2-{count}x256") for count in (3, 6, 12, 24)],
    "positions": [replace(MIDDLE, positions=tuple(range(0, 24, step)) or (0,)) for step in (12, 6, 3, 1)],
    "tokens": [
        replace(MIDDLE, num_tokens=count, positions=(count // 12, count // 2, count - 1))
        for count in (12, 24, 48, 96)
    ],
}
QUICK_AXES = {"pairs": [Setting("gpt2-tiny", 6, count, (1, 5)) for count in (2, 8)]}
CAPTURE_BYTES = 1 << 30
SMALL = {"ref": "zoo:gpt", "width": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 64, "seed": 0}
"""A model that costs next to nothing."""
SMALL_TOKENS = 16
SMALL_SWEEP = {
    **{"sites": ["mlp_output", "attention_input", "block_output"], "layer": 0, "positions": "all"},
    "subspaces": [f"{at}:{at + 1}" for at in range(16)],
}
"""In the first of two layers: what is changed there always reaches the token that is read."""
CELLS = 3 * SMALL_TOKENS * 16
SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (CELLS, 4 * CELLS)
SAMPLE_EVERY_S = 0.1
WORKERS = Setting("gpt2-12x256", 24, 128, (2, 12, 23))
QUICK_WORKERS = Setting("gpt2-tiny", 6, 8, (1, 5))
FORWARDS = 40
PARTS = ("cost", "memory", "noop", "workers")


@dataclass(frozen=True, slots=True)
class Part:
    """What one part found."""

    text: str
    numbers: Any


def main() -> None:
    """Print the parts that are asked for, one after the other."""
    parser = arguments("What grows with a study, and what does not.", rounds=3)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this (repeatable)")
    options = parser.parse_args()
    measure: Mapping[str, Callable[[Path, argparse.Namespace], Part]] = {
        **{"cost": cost, "memory": memory, "noop": noop, "workers": workers}
    }
    found = {}
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        for name in options.part or PARTS:
            found[name] = measure[name](Path(scratch), options)
            print(f"\n{found[name].text}", flush=True)
    if options.write:
        # What this machine measured of other parts before stays.
        known = {**written("growth").get("parts", {}), **{name: asdict(part) for name, part in found.items()}}
        parts = {name: known[name] for name in PARTS if name in known}
        text = "\n\n".join(part["text"] for part in parts.values())
        numbers = {name: part["numbers"] for name, part in parts.items()}
        write("growth", {"parts": parts}, text, lambda path: draw(numbers, path))


def cost(scratch: Path, options: argparse.Namespace) -> Part:
    """Time a job along each axis; rounds of all settings in turns."""
    torch.set_num_threads(num_cores())
    axes = QUICK_AXES if options.quick else AXES
    asked = [(axis, setting) for axis, settings in axes.items() for setting in settings]
    sweeps = [_Sweep(setting, scratch) for _, setting in asked]
    for number in range(num_rounds(options) + 1):
        for one in sweeps:
            one.round(number)
        print(f"cost: round {number}", file=sys.stderr, flush=True)
    rows = [
        [
            f"{axis}: {_along(axis, one.setting)}",
            f"{one.num_jobs:,}",
            spread(one.job_us, ".0f"),
            spread(one.share),
        ]
        for (axis, _), one in zip(asked, sweeps, strict=True)
    ]
    numbers = [
        {"axis": axis, "value": _along(axis, one.setting), "job_us": one.job_us, "share": one.share}
        for (axis, _), one in zip(asked, sweeps, strict=True)
    ]
    text = table(("engine alone", "jobs", "µs a job", "share of the count"), rows)
    return Part(text, numbers)


class _Sweep:
    """One setting of ``cost``."""

    def __init__(self, setting: Setting, scratch: Path) -> None:
        self.setting = setting
        self._model = load_folder(model_folder(setting.model, scratch))
        self._engine = Engine(self._model, capture_budget_bytes=CAPTURE_BYTES, shortcut=False)
        self._wheres = sweep(setting, self._model.facts.num_layers)
        self.num_jobs = len(self._wheres) * setting.num_pairs
        self.job_us: list[float] = []
        self.share: list[float] = []

    def round(self, number: int) -> None:
        """Once, on fresh pairs; the first is a warm-up."""
        setting, operations = self.setting, Operations.of(self._model)
        assert self._model.facts.vocab_size is not None
        pairs = random_pairs(setting.num_pairs, setting.num_tokens, self._model.facts.vocab_size, seed=number)
        forward = plain_forward(self._model, bases_of(pairs))
        plain_s = statistics.median(timed(forward)[0] for _ in range(5))
        seconds, _ = run_sweep(self._engine, setting, self._wheres, pairs, ("logits",))
        plain = operations.plain(setting.num_tokens)
        count = 2 * plain - operations.head
        count += sum(operations.changed(layer, at, setting.num_tokens) for _, layer, at in self._wheres)
        if number:
            self.job_us.append(1e6 * seconds / self.num_jobs)
            self.share.append(count * plain_s / plain / seconds)


def _along(axis: str, setting: Setting) -> int:
    values = {
        "pairs": setting.num_pairs,
        "tokens": setting.num_tokens,
        "positions": len(setting.positions),
        "layers": int(setting.model.split("-")[1].split("x")[0]) if "x" in setting.model else 0,
    }
    return values[axis]


def memory(scratch: Path, options: argparse.Namespace) -> Part:
    """Peaks of resident memory while studies of growing size run."""
    rows, numbers = [], []
    for size in QUICK_SIZES if options.quick else SIZES:
        study = _small_study(scratch, f"memory-{size}", size, is_noop=False)
        done, peaks = watched_run(study, scratch / "runs", "--executor", "ray", "--workers", num_cores())
        rows.append(
            [
                f"{done.num_jobs:,} jobs",
                f"{peaks['driver']:.0f}",
                f"{peaks['worker']:.0f}",
                f"{done.wall_s:.0f}",
            ]
        )
        numbers.append({"jobs": done.num_jobs, **peaks, "wall_s": done.wall_s})
        print(f"memory: {size:,}", file=sys.stderr, flush=True)
    return Part(table(("real jobs", "driver MB", "largest worker MB", "wall s"), rows), numbers)


def noop(scratch: Path, options: argparse.Namespace) -> Part:
    """Jobs a second that need no run."""
    size = QUICK_SIZES[-1] if options.quick else SIZES[-1]
    done: list[Ran] = []
    for number in range(num_rounds(options)):
        study = _small_study(scratch, f"noop-{number}", size, is_noop=True)
        done.append(run_study(study, scratch / "runs", "--executor", "ray", "--workers", num_cores()))
        if done[-1].tiers != {"unchanged": done[-1].num_jobs}:
            raise RuntimeError(f"some rows needed a run: {done[-1].tiers}")
        print(f"noop: round {number + 1}", file=sys.stderr, flush=True)
    rates = [one.num_jobs / one.work_s for one in done]
    walls = [one.wall_s for one in done]
    header = ("jobs that need no run", "jobs", "jobs/s, first batch to last commit", "wall s of the command")
    row = [f"{num_cores()} Ray workers", f"{done[0].num_jobs:,}", spread(rates, ",.0f"), spread(walls, ".1f")]
    return Part(table(header, [row]), {"jobs": done[0].num_jobs, "jobs_per_s": rates, "wall_s": walls})


def _small_study(scratch: Path, name: str, size: int, *, is_noop: bool) -> Path:
    """About `size` jobs of the small model."""
    pairs = random_pairs(max(1, round(size / CELLS)), SMALL_TOKENS, SMALL["vocab_size"], seed=1)
    if is_noop:
        pairs = [replace(pair, tokens={**pair.tokens, "source": pair.tokens["base"]}) for pair in pairs]
    options = {key: value for key, value in SMALL.items() if key != "ref"}
    return write_study(scratch, name, {"ref": SMALL["ref"], "options": options}, pairs, SMALL_SWEEP)


def watched_run(study: Path, store: Path, *arguments: object) -> tuple[Ran, dict[str, float]]:
    """A run, and the peaks (MB) of its driver and of its largest worker.

    Raises:
        RuntimeError: it ended otherwise than done.
    """
    began = time.perf_counter()
    process = swapyard(["run", study, "--store", store, "--no-plots", *arguments], stderr=subprocess.DEVNULL)
    driver = psutil.Process(process.pid)
    peaks = {"driver": 0.0, "worker": 0.0}
    while process.poll() is None:
        for kind, resident in _resident(driver):
            peaks[kind] = max(peaks[kind], resident / 1e6)
        time.sleep(SAMPLE_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"swapyard run {study.name} ended with code {process.returncode}")
    return ran(store / study.stem, time.perf_counter() - began), peaks


def _resident(driver: psutil.Process) -> Iterator[tuple[str, int]]:
    try:
        yield "driver", driver.memory_info().rss
        for child in driver.children(recursive=True):
            # Ray names a worker's process after the actor that it is.
            if "ray::" in " ".join(child.cmdline()[:1]):
                yield "worker", child.memory_info().rss
    except psutil.NoSuchProcess:
        return


def workers(scratch: Path, options: argparse.Namespace) -> Part:
    """What the second worker brings, and what a second plain forward process does."""
    setting = QUICK_WORKERS if options.quick else WORKERS
    folder = model_folder(setting.model, scratch)
    model = load_folder(folder)
    assert model.facts.vocab_size is not None
    gains: dict[str, list[float]] = {"workers": [], "plain": []}
    for number in range(num_rounds(options)):
        pairs = random_pairs(setting.num_pairs, setting.num_tokens, model.facts.vocab_size, seed=number)
        took = {count: _with_workers(scratch, folder, setting, pairs, count, number) for count in (1, 2)}
        gains["workers"].append(took[1] / took[2])
        one, two = (_plain_processes(folder, setting, count, options.quick) for count in (1, 2))
        gains["plain"].append(2 * one / two)
        print(f"workers: round {number + 1}", file=sys.stderr, flush=True)
    share = [ours / plain for ours, plain in zip(gains["workers"], gains["plain"], strict=True)]
    header = ("two one-thread processes beside one", "swapyard run's workers", "plain forwards", "of them")
    text = table(
        header,
        [["times as much in a second", spread(gains["workers"]), spread(gains["plain"]), spread(share)]],
    )
    return Part(text, {**gains, "share": share})


def _with_workers(
    scratch: Path, folder: Path, setting: Setting, pairs: Sequence[Pair], count: int, number: int
) -> float:
    swept = {"sites": list(SITES), "layers": "all", "positions": list(setting.positions)}
    study = write_study(scratch, f"workers-{number}-{count}", str(folder), pairs, swept)
    return run_study(
        study, scratch / "runs", "--executor", "ray", "--workers", count, cores=min(count, num_cores())
    ).work_s


def _plain_processes(folder: Path, setting: Setting, count: int, quick: bool) -> float:
    """Seconds that so many processes of one thread take for as many plain forwards each, side by side."""
    num_forwards = 2 if quick else FORWARDS
    command = [sys.executable, "-m", "benchmarks.growth", "forwards", str(folder)]
    command += [str(setting.num_pairs // 2), str(setting.num_tokens), str(num_forwards)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    return time.perf_counter() - began


def forwards(folder: str, num_pairs: str, num_tokens: str, num_forwards: str) -> None:
    """In a process of its own: load, warm up, and run once there is a line on stdin."""
    torch.set_num_threads(1)
    model = load_folder(Path(folder))
    assert model.facts.vocab_size is not None
    forward = plain_forward(
        model, bases_of(random_pairs(int(num_pairs), int(num_tokens), model.facts.vocab_size, seed=0))
    )
    forward()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(num_forwards)):
        forward()
    # Nothing of what ends a process belongs to the forwards.
    os._exit(0)


def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Time a job along each axis, and memory by size."""
    picture = figure(9, 3.2)
    left, right = picture.subplots(1, 2)
    for axis in dict.fromkeys(one["axis"] for one in numbers.get("cost", ())):
        points = [one for one in numbers["cost"] if one["axis"] == axis]
        shares = [statistics.median(one["share"]) for one in points]
        left.plot([one["value"] for one in points], shares, marker="o", label=axis)
    left.set_xscale("log", base=2)
    left.set_ylim(0, None)
    left.set_ylabel("share of the operation count")
    left.legend(fontsize=8)
    for kind in ("driver", "worker"):
        sizes = [one["jobs"] for one in numbers.get("memory", ())]
        right.plot(sizes, [one[kind] for one in numbers.get("memory", ())], marker="o", label=kind)
    right.set_xscale("log")
    right.set_ylim(0, None)
    right.set_xlabel("jobs")
    right.set_ylabel("MB at most")
    right.legend(fontsize=8)
    picture.savefig(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["forwards"]:
        forwards(*sys.argv[2:])
    else:
        main()
