"""How well a run tells the time that it still takes: ``python -m benchmarks.eta``.

Studies of uneven cost, each run from the command line, in one process and on Ray's workers:

- ``sweep``: a resumed sweep over all layers and positions. Pairs share their first tokens, so that the cells
  of the first positions need no run, and those after them cost the more the earlier they begin.
- ``fits``: rotations are trained at several layers, then a short sweep in their coordinates.
- ``heads``: every head of every layer, on prompts of 6 to 48 tokens.
- ``training``: networks are trained, then swept head by head.

While a run goes on, its own note of the time that is left (what ``swapyard status`` shows) is read twice a
second; once it has ended, each is divided by what was really left. Of the last 3 s nothing is said: what is
left then is less than a process takes to end.
"""

import argparse
import bisect
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.report import arguments, figure, num_rounds, table, write
from benchmarks.setting import model_folder, random_pairs
from benchmarks.studies import swapyard, write_study
from orchestrator.run.left import read_left
from workers.vocabulary import Pair, Prompt

EXECUTORS = ("inline", "ray")
READ_EVERY_S = 0.5
FROM, UNTIL_S = 0.1, 3.0
"""What counts: from this share of a run on, until so many seconds before its end."""
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
SITES = ("mlp_output", "attention_input")


@dataclass(frozen=True, slots=True)
class Size:
    """How large the studies are."""

    model: str
    vocab_size: int
    num_tokens: int
    num_pairs: int
    num_fits: int
    num_fit_steps: int
    lengths: tuple[int, ...]
    num_train_steps: int
    num_test: int


LARGE = Size("gpt2-12x256", 8192, 24, 256, 8, 150, (6, 12, 24, 48), 1200, 1500)
SMALL = Size("gpt2-tiny", 499, 8, 8, 2, 20, (4, 6), 30, 20)


@dataclass(frozen=True, slots=True)
class Told:
    """What one run said."""

    study: str
    executor: str
    seconds: float
    """Of the run, from its start until it said that it was done."""
    said: tuple[tuple[float, float], ...]
    """When, since its start, and how many seconds it said were left."""

    @property
    def ratios(self) -> list[tuple[float, float]]:
        """When, as a share of the run, and the predicted time over the true one."""
        counted = [(at, left) for at, left in self.said if at <= self.seconds - UNTIL_S]
        return [(at / self.seconds, left / (self.seconds - at)) for at, left in counted]

    @property
    def first(self) -> float | None:
        """The share of the run at which it said a time first; None where it never did."""
        return self.ratios[0][0] if self.ratios else None

    @property
    def counted(self) -> list[float]:
        """The ratios that count."""
        return [ratio for share, ratio in self.ratios if share >= FROM]

    def at(self, share: float) -> float | None:
        """The ratio at a share of the run: what was said last by then."""
        number = bisect.bisect_right([at for at, _ in self.ratios], share)
        return self.ratios[number - 1][1] if number else None


def main() -> None:
    """Print a table of all studies."""
    parser = arguments("How well a run tells the time that it still takes.", rounds=1)
    parser.add_argument("--study", choices=list(STUDIES), action="append", help="only this (repeatable)")
    parser.add_argument("--executor", choices=EXECUTORS, action="append", help="only this (repeatable)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        told = measure(Path(scratch), options)
    text = shown(told)
    print(f"\n{text}")
    if options.write:
        write("eta", {"told": [asdict(one) for one in told]}, text, lambda path: draw(told, path))


def measure(scratch: Path, options: argparse.Namespace) -> list[Told]:
    """Run each study in each way, as often as there are rounds."""
    size = SMALL if options.quick else LARGE
    told = []
    for number in range(num_rounds(options)):
        for name in options.study or STUDIES:
            for executor in options.executor or EXECUTORS:
                study = STUDIES[name](scratch, size)
                told.append(watched(study, scratch / f"runs-{number}-{executor}", name, executor))
                print(f"eta: {name}, {executor}: {told[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    return told


def watched(study: Path, store: Path, name: str, executor: str) -> Told:
    """Run a study to its end, and keep what it said meanwhile.

    Raises:
        RuntimeError: it ended otherwise than done.
    """
    began = time.monotonic()
    process = swapyard(["run", study, "--store", store, "--no-plots", "--executor", executor])
    lines: list[tuple[float, str]] = []

    def listen() -> None:
        assert process.stderr is not None
        lines.extend((time.monotonic() - began, line) for line in process.stderr)

    listening = threading.Thread(target=listen)
    listening.start()
    said: list[tuple[float, float]] = []
    while process.poll() is None:
        left_s = _left_s(store / study.stem)
        if left_s is not None:
            said.append((time.monotonic() - began, left_s))
        time.sleep(READ_EVERY_S)
    listening.join()
    if process.returncode:
        raise RuntimeError(f"swapyard run {study.name} ended with {process.returncode}: {lines}")
    ended = next(at for at, line in lines if line.startswith(f"{study.stem}: "))
    return Told(name, executor, ended, tuple(said))


def _left_s(folder: Path) -> float | None:
    """What the run says by now."""
    epochs = sorted((folder / "logs").glob("[0-9]*"), key=lambda path: int(path.name))
    return read_left(epochs[-1]) if epochs else None


def shown(told: Sequence[Told]) -> str:
    """Predicted over true, at shares of each run, and the least and the most of all that count."""
    header = ("predicted over true at", *(f"{share:.0%}" for share in SHARES), "least", "most", "said from")
    return table((*header, "run s"), [_row(one) for one in told])


def _row(one: Told) -> list[str]:
    counted = one.counted
    return [
        f"{one.study}, {one.executor}",
        *(_ratio(one.at(share)) for share in SHARES),
        _ratio(min(counted, default=None)),
        _ratio(max(counted, default=None)),
        "never" if one.first is None else f"{one.first:.0%}",
        f"{one.seconds:.0f}",
    ]


def _ratio(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def draw(told: Sequence[Told], path: Path) -> None:
    """Lines of the ratio as runs go on, and where it is to lie."""
    picture = figure(8, 3.2)
    axes = picture.subplots()
    for one in told:
        shares, ratios = zip(*one.ratios, strict=True) if one.ratios else ((), ())
        axes.plot(shares, ratios, label=f"{one.study}, {one.executor}", linewidth=1.2)
    axes.axhspan(0.5, 2.0, alpha=0.1)
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.2, 5.0)
    axes.set_xlabel("share of the run")
    axes.set_ylabel("predicted over true")
    axes.legend(fontsize=7, ncols=2)
    picture.savefig(path)


def _sweep(scratch: Path, size: Size) -> Path:
    """Half of each prompt is the base's in its source, too."""
    pairs = random_pairs(size.num_pairs, size.num_tokens, size.vocab_size, seed=1)
    half = size.num_tokens // 2
    alike = [replace(pair, tokens=_alike(pair, half)) for pair in pairs]
    return _study(scratch, size, "sweep", alike, {"sites": SITES, "layers": "all", "positions": "all"})


def _alike(pair: Pair, num_tokens: int) -> dict[str, Prompt]:
    base, source = pair.tokens["base"], pair.tokens["source"]
    assert isinstance(base, tuple) and isinstance(source, tuple)
    return {"base": base, "source": (*base[:num_tokens], *source[num_tokens:])}


def _fits(scratch: Path, size: Size) -> Path:
    pairs = random_pairs(size.num_pairs // 2, size.num_tokens, size.vocab_size, seed=2)
    das = {"method": "das", "rank": 8, "num_steps": size.num_fit_steps, "batch_size": 16, "lr": 1e-2}
    layers = list(range(size.num_fits))
    sweep = {"site": "block_output", "layers": layers, "positions": [-1], "subspaces": ["das", "all"]}
    return _study(scratch, size, "fits", pairs, sweep, fits={"das": {**das, "seed": 0}})


def _heads(scratch: Path, size: Size) -> Path:
    each = max(1, size.num_pairs // len(size.lengths))
    pairs = [
        pair
        for number, length in enumerate(size.lengths)
        for pair in random_pairs(each, length, size.vocab_size, seed=3 + number)
    ]
    sweep = {"site": "attention_value_output", "layers": "all", "heads": "all", "positions": [0, 2, -1]}
    return _study(scratch, size, "heads", pairs, sweep)


def _training(scratch: Path, size: Size) -> Path:
    """Two networks, one after the other or side by side, then each head at each token."""
    iit = {
        "seeds": [0, 1],
        "model": {
            **{"ref": "zoo:gpt", "vocab_size": 20, "max_tokens": 3, "width": 64},
            **{"num_layers": 3, "num_heads": 4, "outputs": 58},
        },
        "losses": [{"task": "logits"}, {"interchange": "logits", "draw": ["S"]}],
        "optimizer": {"name": "AdamW", "lr": 3e-3},
        "num_steps": size.num_train_steps,
        "batch_size": 128,
        "measure_every": max(1, size.num_train_steps // 4),
    }
    content: Mapping[str, Any] = {
        "task": {"name": "digit_sum", "values": 20, "num_train": 4000, "num_test": size.num_test, "seed": 0},
        "alignment": {"S": {"site": "block_output", "layer": 1, "position": 1}},
        "train": {"iit": iit},
        "sweep": [
            {
                **{"model": "iit", "variable": "S", "site": "attention_value_output", "layers": "all"},
                **{"heads": "all", "positions": "all", "where": "split = 'test'"},
            }
        ],
    }
    path = scratch / "training.yaml"
    path.write_text(json.dumps({"study": "training", **content}), "utf-8")
    return path


def _study(scratch: Path, size: Size, name: str, pairs: Sequence[Pair], sweep: Any, **more: Any) -> Path:
    return write_study(scratch, name, str(model_folder(size.model, scratch)), pairs, sweep, **more)


STUDIES: Mapping[str, Callable[[Path, Size], Path]] = {
    **{"sweep": _sweep, "fits": _fits, "heads": _heads, "training": _training}
}


if __name__ == "__main__":
    main()
