"""How soon there is something to see: ``python -m benchmarks.start``.

Whole commands, from the shell's point of view, in turns: ``--help``, ``plan``, ``status`` and ``query`` of
the demo study; and from ``swapyard run`` to its first committed rows, in one process and on Ray. The model is
fetched already; the study that ``status`` and ``query`` look at is the demo, run to its end before.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import arguments, figure, num_rounds, spread, table, write
from benchmarks.setting import SMOLLM2, model_folder, random_pairs
from benchmarks.studies import swapyard, write_study
from orchestrator.store import StudyStore
from workers.errors import StoreError

DEMO = "capitals"
QUICK_SWEEP = {"sites": ["mlp_output", "attention_input"], "layers": "all", "positions": "all"}
POLL_S = 0.02


def main() -> None:
    """Print a table of all commands."""
    parser = arguments("How soon there is something to see.", rounds=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        seconds = measure(Path(scratch), options)
    rows = [[f"`{name}`", spread(values)] for name, values in seconds.items()]
    text = table(("seconds", "median (least to most)"), rows)
    print(f"\n{text}")
    if options.write:
        write("start", {"seconds": seconds}, text, lambda path: draw(seconds, path))


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each command, by round; the first round is a warm-up."""
    study: str | Path = DEMO
    if options.quick:
        pairs = random_pairs(4, 6, 499, seed=0)
        study = write_study(scratch, "quick", str(model_folder("gpt2-tiny", scratch)), pairs, QUICK_SWEEP)
    else:
        model_folder(SMOLLM2, scratch)
    done = scratch / "done"
    command(["run", study, "--store", done, "--no-plots"])
    name = Path(study).stem
    asked: Mapping[str, Sequence[object]] = {
        "swapyard --help": ["--help"],
        f"swapyard plan {name}": ["plan", study, "--store", done],
        f"swapyard status {name}": ["status", name, "--store", done],
        "swapyard query 'SELECT …'": [
            "query",
            "SELECT layer, site, avg(iia) FROM results GROUP BY ALL",
            *("--study", name, "--store", done),
        ],
    }
    seconds: dict[str, list[float]] = {}
    for number in range(num_rounds(options) + 1):
        took = {shown: command(words) for shown, words in asked.items()}
        for executor in ("inline", "ray"):
            key = f"swapyard run {name}, first committed rows, {executor}"
            took[key] = first_rows(study, scratch / f"{executor}-{number}", executor)
        if number:
            for key, value in took.items():
                seconds.setdefault(key, []).append(value)
        print(f"start: round {number}", file=sys.stderr, flush=True)
    return seconds


def command(words: Sequence[object]) -> float:
    """The seconds of a whole command.

    Raises:
        RuntimeError: it ended otherwise than well.
    """
    began = time.perf_counter()
    process = swapyard(words)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"swapyard {' '.join(map(str, words))} ended with {process.returncode}: {said}")
    return time.perf_counter() - began


def first_rows(study: str | Path, store: Path, executor: str) -> float:
    """Seconds from the start of a run to the first commit that has rows; the run is ended then."""
    began = time.perf_counter()
    process = swapyard(
        ["run", study, "--store", store, "--no-plots", "--executor", executor], stderr=subprocess.DEVNULL
    )
    folder = store / Path(study).stem
    while not _has_rows(folder):
        if process.poll() is not None and not _has_rows(folder):
            raise RuntimeError(f"swapyard run {study} ended with {process.returncode}, without a row")
        time.sleep(POLL_S)
    seconds = time.perf_counter() - began
    process.terminate()
    process.wait()
    return seconds


def _has_rows(folder: Path) -> bool:
    try:
        return bool(StudyStore(folder).state().live)
    except StoreError:  # Not there yet.
        return False


def draw(seconds: Mapping[str, list[float]], path: Path) -> None:
    """Bars of medians."""
    picture = figure(8, 2.4)
    axes = picture.subplots()
    axes.barh(list(seconds), [statistics.median(values) for values in seconds.values()])
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.set_xlabel("seconds")
    picture.savefig(path)


if __name__ == "__main__":
    main()
