"""How near a sweep is to what its operations cost: ``python -m benchmarks.count``.

The *count* is what the changed part needs (`benchmarks.setting.Operations`): for each job the blocks from
that of its site on, for the tokens from its position on, and the head at the one token that is read; for each
pair its base's run and its source's once. The *machine* is what a plain batched forward of the same pairs
does: its own count, divided by its time, in the same round. A sweep's share is its count, divided by its
time, divided by that: 1 would be a sweep that computes only what changes, as fast as a plain forward.

So that it is known what is lost where, torch counts the operations that the engine does: a share of the count
below 1 is lost partly in operations that were not needed, and for the rest in doing them slower than a plain
forward does, in small matrix products, copies and Python.

An MLP's output leaves its own block as it was, so that strictly even less is needed: that share is beside it.
Three ways: the engine alone, with captures; and `swapyard run` from the start of the first batch to the last
commit, parts and commits included, in one process with all threads, and on Ray's one-thread workers.
"""

import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import arguments, figure, num_rounds, spread, table, write
from benchmarks.setting import (
    SITES,
    SMOLLM2,
    Operations,
    Setting,
    Where,
    bases_of,
    load_folder,
    model_folder,
    operations_done,
    plain_forward,
    random_pairs,
    run_sweep,
    sweep,
    timed,
)
from benchmarks.studies import run_study, write_study
from orchestrator.machine import num_cores
from workers.engine.engine import Engine
from workers.model.loading import LoadedModel
from workers.vocabulary import Pair

SETTINGS = (
    Setting("gpt2-small", 5, 64, (0, 1, 2, 3, 4)),
    Setting("gpt2-small", 24, 32, (2, 12, 23)),
    Setting(SMOLLM2, 5, 64, (0, 1, 2, 3, 4)),
    Setting(SMOLLM2, 24, 32, (2, 12, 23)),
)
QUICK = (Setting("gpt2-tiny", 6, 8, (1, 5)), Setting("llama-tiny", 6, 8, (1, 5)))
CAPTURE_BYTES = 2 << 30
PLAIN_FORWARDS = 5
ENGINE = "engine alone"
RUNS = {"swapyard run, inline": "inline", "swapyard run, Ray": "ray"}


@dataclass
class Found:
    """One setting: everything by round."""

    setting: Setting
    allows: float
    """Interventions for the time of one plain forward, if only the count cost time."""
    done: float
    """Operations that the engine did, for each that the count has; attention to masked keys included."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of the sweep, by way."""
    share: dict[str, list[float]] = field(default_factory=dict)
    """Of the count."""
    least: dict[str, list[float]] = field(default_factory=dict)
    """Of what is needed strictly."""
    achieved: dict[str, list[float]] = field(default_factory=dict)
    """Interventions for the time of one plain forward."""
    plain_s: list[float] = field(default_factory=list)
    large_s: list[float] = field(default_factory=list)
    """Of a plain forward of four times as many pairs, a quarter of it."""


def main() -> None:
    """Print a table of all settings."""
    parser = arguments("How near a sweep is to what its operations cost.", rounds=3)
    parser.add_argument("--only", help="settings whose name has this in it")
    parser.add_argument("--engine", action="store_true", help="the engine alone")
    options = parser.parse_args()
    settings = QUICK if options.quick else SETTINGS
    ways = [ENGINE] if options.engine else [ENGINE, *RUNS]
    found = []
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        for setting in settings:
            if options.only is None or options.only in setting.name:
                found.append(measure(setting, Path(scratch), ways, num_rounds(options)))
                print(f"\n{shown(found[-1:])}", flush=True)
    if options.write:
        numbers = {one.setting.name: _numbers(one) for one in found}
        write("count", {"settings": numbers}, shown(found), lambda path: draw(found, path))


def measure(setting: Setting, scratch: Path, ways: Sequence[str], rounds: int) -> Found:
    """All ways in one setting, each once in every round, in turns."""
    torch.set_num_threads(num_cores())
    model = load_folder(model_folder(setting.model, scratch))
    operations = Operations.of(model)
    wheres = sweep(setting, model.facts.num_layers)
    engine = Engine(model, capture_budget_bytes=CAPTURE_BYTES, shortcut=False)
    length, plain = setting.num_tokens, operations.plain(setting.num_tokens)
    runs = 2 * plain - operations.head  # the base's, and the source's, which nobody reads
    count = runs + sum(operations.changed(layer, at, length) for _, layer, at in wheres)
    least = runs + sum(operations.least(*where, length) for where in wheres)
    idle = [where for where in wheres if _is_idle(where, model.facts.num_layers, length)]
    saved = sum(operations.changed(layer, at, length) for _, layer, at in idle)
    found = Found(setting, allows=len(wheres) * plain / count, done=_done(model, setting, wheres) / count)
    order = random.Random(0)
    for number in range(rounds + 1):
        assert model.facts.vocab_size is not None
        pairs = random_pairs(setting.num_pairs, length, model.facts.vocab_size, seed=number)
        forward = plain_forward(model, bases_of(pairs))
        large = plain_forward(model, bases_of(pairs).repeat(4, 1))
        doing: dict[str, Callable[[], float]] = {
            ENGINE: lambda pairs=pairs: run_sweep(engine, setting, wheres, pairs, ("logits",))[0]
        }
        for name, executor in RUNS.items():
            study = f"count-{RUNS[name]}-{number}"
            doing[name] = lambda study=study, executor=executor, pairs=pairs: _run(
                setting, scratch, study, executor, pairs, len(wheres), len(idle)
            )
        order.shuffle(turns := list(ways))
        for way in turns:
            before = statistics.median(timed(forward)[0] for _ in range(PLAIN_FORWARDS))
            seconds = doing[way]()
            plain_s = (before + statistics.median(timed(forward)[0] for _ in range(PLAIN_FORWARDS))) / 2
            if number == 0:
                continue  # Warm-up: pages, pools, group sizes.
            # What a run fills in from base runs is none of its merit here.
            spared = 0 if way == ENGINE else saved
            per_second = plain_s / plain / seconds
            for target, value in (
                (found.seconds, seconds),
                (found.share, (count - spared) * per_second),
                (found.least, (least - spared) * per_second),
                (found.achieved, len(wheres) * plain_s / seconds),
            ):
                target.setdefault(way, []).append(value)
            found.plain_s.append(plain_s)
        if number:
            found.large_s.append(timed(large)[0] / 4)
        print(f"{setting.name}: round {number}", file=sys.stderr, flush=True)
    return found


def _done(model: LoadedModel, setting: Setting, wheres: Sequence[Where]) -> float:
    """Operations of the whole sweep for one pair, as torch counts them."""
    assert model.facts.vocab_size is not None
    pairs = random_pairs(setting.num_pairs, setting.num_tokens, model.facts.vocab_size, seed=0)
    engine = Engine(model, capture_budget_bytes=CAPTURE_BYTES, shortcut=False)
    return operations_done(lambda: run_sweep(engine, setting, wheres, pairs, ("logits",))) / len(pairs)


def _run(
    setting: Setting,
    scratch: Path,
    study: str,
    executor: str,
    pairs: Sequence[Pair],
    num_cells: int,
    num_idle: int,
) -> float:
    model = str(model_folder(setting.model, scratch))
    name = f"{study}-{setting.model}-{setting.num_tokens}"
    swept = {"sites": list(SITES), "layers": "all", "positions": list(setting.positions)}
    path = write_study(scratch, name, model, pairs, swept)
    done = run_study(path, scratch / "runs", "--executor", executor)
    assert done.num_jobs == num_cells * len(pairs), done
    assert done.tiers.get("unchanged", 0) == num_idle * len(pairs), done
    return done.work_s


def _is_idle(where: Where, num_layers: int, num_tokens: int) -> bool:
    """Whether the change reaches no token that is read: runs fill such rows from base runs."""
    site, layer, position = where
    return site == "mlp_output" and layer == num_layers - 1 and position < num_tokens - 1


def shown(found: Sequence[Found]) -> str:
    """Medians, in brackets the least and the most of the rounds."""
    rows = [
        [
            f"{one.setting.name}, {one.setting.num_pairs} pairs: {way}",
            f"{one.allows:.2f}",
            f"{one.done:.3f}" if way == ENGINE else "",
            spread(one.achieved[way]),
            spread(one.share[way]),
            spread(one.least[way]),
            spread([share * ratio for share, ratio in zip(one.share[way], _ratios(one), strict=True)]),
        ]
        for one in found
        for way in (ENGINE, *RUNS)
        if way in one.seconds
    ]
    header = (
        *(
            "",
            "the count allows",
            "operations done / count",
            "interventions per plain forward",
            "share of the count",
        ),
        *("strictly", "beside a plain forward of 4 × the pairs"),
    )
    return table(header, rows)


def _ratios(one: Found) -> list[float]:
    """How much faster a larger plain forward is, for each round."""
    middle = statistics.median(one.plain_s)
    return [large / middle for large in one.large_s]


def draw(found: Sequence[Found], path: Path) -> None:
    """The share of the count, by setting and way."""
    picture = figure(9, 3.5)
    axes = picture.subplots()
    ways = [way for way in (ENGINE, *RUNS) if way in found[0].share]
    for offset, way in enumerate(ways):
        middle = [statistics.median(one.share[way]) for one in found]
        at = [number + 0.25 * offset for number in range(len(found))]
        axes.bar(at, middle, width=0.23, label=way)
    axes.set_xticks(
        [number + 0.25 for number in range(len(found))], [one.setting.name for one in found], fontsize=8
    )
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_ylabel("share of the operation count")
    axes.legend(fontsize=8, loc="lower right")
    picture.savefig(path)


def _numbers(one: Found) -> Mapping[str, Any]:
    names = ("allows", "done", "seconds", "share", "least", "achieved", "plain_s", "large_s")
    return {name: getattr(one, name) for name in names}


if __name__ == "__main__":
    main()
