"""How fast a sweep is beside other libraries: ``python -m benchmarks.peers``.

One unit for all: *interventions for the time of one plain batched forward* of the same pairs that gives their
last tokens' logits. Same model, pairs and cells; every library runs in its own process and waits while
another is measured; in each round everything runs once, in another order, on pairs that nobody has seen.

Ours runs the whole sweep each time, captures included. The others do each cell by a whole forward, whichever
it is, so they run a sample of the same cells, spread over layers, sites and positions; the runs of sources
that they keep are charged by the sample's share of the sweep. All give the same numbers, or nothing is told.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import arguments, figure, num_rounds, spread, table, write, written
from benchmarks.setting import (
    SMOLLM2,
    Setting,
    Where,
    bases_of,
    load_folder,
    model_folder,
    plain_forward,
    random_pairs,
    run_sweep,
    sweep,
    timed,
)
from orchestrator.machine import num_cores
from workers.engine.engine import Engine
from workers.metrics import METRIC_FAMILIES
from workers.model.loading import LoadedModel
from workers.vocabulary import Pair

ROOT = Path(__file__).parents[1]
KINDS = ("pyvene", "nnsight", "transformer_lens", "hooks")
SETTINGS = tuple(
    Setting(model, *shape)
    for model in ("gpt2-small", SMOLLM2)
    for shape in (
        (5, 64, (0, 1, 2, 3, 4)),
        (24, 32, (2, 12, 23)),
        (128, 8, (16, 64, 127), 3),
    )
)
QUICK = (Setting("gpt2-tiny", 6, 5, (1, 5)), Setting("llama-tiny", 6, 5, (1, 5)))
COLUMNS = ("label_logit", "base_label_logit", "logsumexp")
CAPTURE_BYTES = 2 << 30
SAMPLE_S = 4.0
"""About how long a peer is measured in a round."""
PLAIN_FORWARDS = 3
TOLERANCE = 1e-3
"""Of the largest absolute value: how far a peer's numbers may be from ours.

On some random prompts rounding alone moves SmolLM2's logits by 3e-4 of the largest: so far is the library's
own forward of 64 prompts from one in double precision, and from one of each prompt alone.
"""

Scores = NDArray[np.float32]


@dataclass(kw_only=True)
class Measured:
    """What was found of one way of doing cells: ours, or one of a peer's."""

    name: str
    num_cells: int = 0
    """How many it does in a round."""
    rates: list[float] = field(default_factory=list)
    """Interventions for the time of one plain batched forward, by round."""
    per_second: list[float] = field(default_factory=list)
    difference: float = 0.0
    """Of its numbers and ours: the largest, of the largest absolute value."""


@dataclass(kw_only=True)
class Way(Measured):
    """One that can be run."""

    run: Callable[[list[Where]], tuple[float, Scores]]
    """Seconds, and the scores [cells, P, 3]."""
    capture: Callable[[], float] | None = None
    """What it does once for the whole sweep: the seconds of that."""
    runs_all: bool = False
    """Whether it does the whole sweep in each round: what it takes depends on the cell."""


class Process:
    """A peer in a process of its own."""

    def __init__(self, python: str, kind: str) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peer", kind],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kind = kind

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Its answer; nobody else runs meanwhile."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer {self.kind} ended at {do!r}; what it said stands above")
        return dict(json.loads(answer))

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def main() -> None:
    """Print a table for each setting."""
    parser = arguments("How fast a sweep is beside other libraries.", rounds=5)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which peers [default: all]")
    parser.add_argument(
        "--python", help="of the environment of benchmarks/peers.txt [default: .peers/bin/python]"
    )
    parser.add_argument("--only", help="settings whose name has this in it")
    options = parser.parse_args()
    python = options.python or str(ROOT / ".peers" / "bin" / "python")
    if not Path(python).exists():
        sys.exit(f"{python} is not there: make it with `sh benchmarks/peers.sh`, or name one with --python")
    found = {}
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        for setting in QUICK if options.quick else SETTINGS:
            if options.only and options.only not in setting.name:
                continue
            ways = compare(setting, Path(scratch), python, options.kinds.split(","), options)
            found[setting.name] = ways
            print(f"\n{setting.name}, {setting.num_pairs} pairs\n\n{shown(ways)}", flush=True)
            if options.write:
                _write(found)


def _write(found: Mapping[str, Sequence[Measured]]) -> None:
    """Put these settings into the page; what this machine measured of others before stays."""
    settings: dict[str, list[dict[str, Any]]] = written("peers").get("settings", {})
    known = {name: [_measured(one) for one in ways] for name, ways in settings.items()} | dict(found)
    every = {one.name: known[one.name] for one in SETTINGS if one.name in known}
    text = "\n\n".join(f"**{name}**\n\n{shown(ways)}" for name, ways in every.items())
    numbers = {name: [_numbers(way) for way in ways] for name, ways in every.items()}
    write("peers", {"settings": numbers}, text, lambda path: draw(every, path))


def compare(
    setting: Setting, scratch: Path, python: str, kinds: Sequence[str], options: argparse.Namespace
) -> list[Way]:
    """Everything in one setting, round by round."""
    threads = 1 if options.quick else num_cores()
    torch.set_num_threads(threads)
    folder = model_folder(setting.model, scratch)
    model = load_folder(folder, options.device)
    with ExitStack() as stack:
        peers = [stack.enter_context(Process(python, kind)) for kind in kinds]
        asked = {"folder": str(folder), "threads": threads, "device": options.device}
        told = {peer.kind: peer.ask("load", **asked) for peer in peers}
        round_ = Round(model, setting, peers)
        ways = [*round_.ours(), *(way for peer in peers for way in round_.theirs(peer, told[peer.kind]))]
        order = random.Random(0)
        for number in range(1 + num_rounds(options)):
            round_.begin(number)
            if number == 0:  # Warm-up: pages, pools and caches; and how many cells fit into a round.
                for way in ways:
                    _warm(way, round_)
                continue
            order.shuffle(shuffled := list(ways))
            found = {way.name: _measure(way, round_, number) for way in shuffled}
            ours = found[ways[0].name]
            _check_effect(ours)
            for way in ways:
                _compare(way, found[way.name], ours)
            print(f"{setting.name}: round {number}", file=sys.stderr, flush=True)
    return ways


class Round:
    """The pairs of a round, and everybody's way of running cells on them."""

    def __init__(self, model: LoadedModel, setting: Setting, peers: Sequence[Process]) -> None:
        self._model, self._setting, self._peers = model, setting, peers
        self.cells = sweep(setting, model.facts.num_layers)
        self.layers = list(setting.layers(model.facts.num_layers))
        self._pairs: list[Pair] = []

    @property
    def num_pairs(self) -> int:
        return self._setting.num_pairs

    def begin(self, number: int) -> None:
        """Pairs that nobody has seen."""
        vocab_size = self._model.facts.vocab_size
        assert vocab_size is not None
        self._pairs = random_pairs(self.num_pairs, self._setting.num_tokens, vocab_size, seed=number)
        given = {
            "bases": [pair.tokens["base"] for pair in self._pairs],
            "sources": [pair.tokens["source"] for pair in self._pairs],
            "labels": [[*pair.label_ids, *pair.base_label_ids] for pair in self._pairs],
        }
        for peer in self._peers:
            peer.ask("begin", **given)

    def plain_s(self) -> float:
        """Of a plain forward of all pairs."""
        forward = plain_forward(self._model, bases_of(self._pairs, self._model.device))
        return statistics.median(timed(forward)[0] for _ in range(PLAIN_FORWARDS))

    def ours(self) -> Iterator[Way]:
        """Our engine, which finds its group sizes in the first round and keeps them."""
        yield self._way("swapyard", ("logits",))
        if "labels" in METRIC_FAMILIES:
            yield self._way("swapyard, logits of labels only", ("labels",))
        yield self._way("swapyard, hooked tier", ("logits",), resume=False)

    def _way(self, name: str, families: tuple[str, ...], *, resume: bool = True) -> Way:
        engine = Engine(self._model, capture_budget_bytes=CAPTURE_BYTES, shortcut=False, resume=resume)
        return Way(name=name, run=lambda cells: self._run(engine, cells, families), runs_all=resume)

    def _run(self, engine: Engine, wheres: list[Where], families: tuple[str, ...]) -> tuple[float, Scores]:
        """Some cells on our engine; captures are charged by their share of the sweep."""
        seconds, outcome = run_sweep(engine, self._setting, wheres, self._pairs, families)
        found = [outcome.columns[name] for name in COLUMNS if name in outcome.columns]
        scores = np.stack(found, axis=1).reshape(len(wheres), self.num_pairs, -1)
        return seconds - outcome.capture_s * (1 - len(wheres) / len(self.cells)), scores

    def theirs(self, peer: Process, told: dict[str, Any]) -> Iterator[Way]:
        """A peer, as its documentation does it and at its best."""
        for way in told["ways"]:
            yield Way(
                name=f"{peer.kind}, {way}",
                run=lambda cells, way=way: _asked(peer, way, cells),
                capture=(lambda way=way: float(peer.ask("capture", way=way, layers=self.layers)["seconds"]))
                if way in told["once"]
                else None,
            )


def _asked(peer: Process, way: str, cells: list[Where]) -> tuple[float, Scores]:
    answer = peer.ask("run", way=way, cells=cells)
    return float(answer["seconds"]), np.array(answer["scores"], np.float32)


def _warm(way: Way, round_: Round) -> None:
    """Run it once, and set how many cells it does in a round."""
    if way.runs_all:
        way.num_cells = len(round_.cells)
        way.run(round_.cells)
        return
    if way.capture is not None:
        way.capture()
    way.run(round_.cells[:1])
    seconds, _ = way.run(round_.cells[-1:])
    way.num_cells = max(2, min(len(round_.cells), round(SAMPLE_S / seconds)))


def _measure(way: Way, round_: Round, number: int) -> dict[Where, Scores]:
    """One way in one round, between two plain forwards; its scores [P, 3] by cell."""
    plain = [round_.plain_s()]
    capture_s = way.capture() / len(round_.cells) if way.capture is not None else 0.0
    cells = sample(round_.cells, way.num_cells, number)
    seconds, scores = way.run(cells)
    plain.append(round_.plain_s())
    cell_s = seconds / len(cells) + capture_s
    way.rates.append(statistics.mean(plain) / cell_s)
    way.per_second.append(round_.num_pairs / cell_s)
    return dict(zip(cells, scores, strict=True))


def _check_effect(ours: dict[Where, Scores]) -> None:
    """Refuse numbers that hardly depend on the cell: then it would say little that others have them, too."""
    scores = np.stack(list(ours.values()))
    if np.ptp(scores, axis=0).max() < 10 * TOLERANCE * np.abs(scores).max():
        raise RuntimeError("the interventions hardly change anything: nothing can be compared")


def _compare(way: Way, scores: dict[Where, Scores], ours: dict[Where, Scores]) -> None:
    """Note how far its numbers are from ours.

    Raises:
        RuntimeError: they are other numbers.
    """
    expected = np.stack([ours[cell] for cell in scores])
    found = np.stack(list(scores.values()))
    kept = expected[..., : found.shape[-1]]
    difference = float(np.abs(found - kept).max() / np.abs(expected).max())
    way.difference = max(way.difference, difference)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{way.name} has other numbers: {difference:.1e} of the largest; allowed: {TOLERANCE}"
        )


def sample(cells: Sequence[Where], count: int, number: int) -> list[Where]:
    """So many cells, one of each stretch of the sweep; others in another round."""
    draw_from = random.Random(number)
    edges = [n * len(cells) // count for n in range(count + 1)]
    return [cells[draw_from.randrange(lo, hi)] for lo, hi in pairwise(edges)]


def shown(ways: Sequence[Measured]) -> str:
    """The table of one setting: medians, in brackets the least and the most of the rounds."""
    ours = ways[0]
    rows = []
    for way in ways:
        times = [one / other for one, other in zip(ours.rates, way.rates, strict=True)]
        rows.append(
            [
                way.name.replace("_", " "),
                spread(way.rates),
                spread(way.per_second, ".0f"),
                "" if way is ours else spread(times, ".1f"),
                "" if way is ours else f"{way.difference:.0e}",
                str(way.num_cells),
            ]
        )
    header = (
        *("", "interventions per plain forward", "interventions/s", "swapyard is faster by"),
        *("largest difference", "cells a round"),
    )
    return table(header, rows)


def draw(found: Mapping[str, Sequence[Measured]], path: Path) -> None:
    """Bars of interventions per plain forward, a panel a setting."""
    picture = figure(11, 2.6 * ((len(found) + 1) // 2))
    panels = picture.subplots((len(found) + 1) // 2, 2, squeeze=False).flat
    for panel, (name, ways) in zip(panels, found.items(), strict=False):
        names = [way.name.replace("_", " ") for way in ways]
        middle = [statistics.median(way.rates) for way in ways]
        around = [
            [m - min(way.rates) for m, way in zip(middle, ways, strict=True)],
            [max(way.rates) - m for m, way in zip(middle, ways, strict=True)],
        ]
        colors = ["#2c6fbb" if way.name.startswith("swapyard") else "#b8b8b8" for way in ways]
        panel.barh(names, middle, xerr=around, color=colors)
        panel.axvline(1, color="black", linewidth=0.6)
        panel.invert_yaxis()
        panel.tick_params(labelsize=6)
        panel.set_title(name, fontsize=8)
    picture.supxlabel("interventions for the time of one plain batched forward", fontsize=8)
    picture.savefig(path)


def _measured(numbers: dict[str, Any]) -> Measured:
    """`_numbers`, back."""
    return Measured(
        name=numbers["way"],
        num_cells=numbers["cells_a_round"],
        rates=numbers["per_plain_forward"],
        per_second=numbers["per_second"],
        difference=numbers["largest_difference"],
    )


def _numbers(way: Measured) -> dict[str, Any]:
    return {
        "way": way.name,
        "per_plain_forward": way.rates,
        "per_second": way.per_second,
        "largest_difference": way.difference,
        "cells_a_round": way.num_cells,
    }


if __name__ == "__main__":
    main()
