"""How long a step of a fit takes, beside a loop written by hand: ``python -m benchmarks.fits``.

Distributed alignment search (DAS) at the last of 5 tokens, batches of 32 pairs. The loop by hand runs the
source and the base whole at each step, with a hook that exchanges the coordinates, the same rotation and
optimiser: what one writes without a library. Both are timed in turns, over the same number of steps; a step
is what more steps cost, so that starting costs nothing on either side.
"""

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import arguments, num_rounds, spread, table
from benchmarks.setting import SMOLLM2, load_folder, model_folder, random_pairs, timed
from orchestrator.machine import num_cores
from workers.fits.units import fit
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.subspaces import LowRankRotation
from workers.intervene.units import Unit
from workers.model.families import family_of
from workers.model.loading import LoadedModel
from workers.vocabulary import Pair

NUM_TOKENS, NUM_PAIRS, BATCH = 5, 128, 32
RANKS = (1, 16)
FEW, MANY = 2, 22
"""Steps of the two runs whose difference is timed."""


@dataclass(frozen=True, slots=True)
class Found:
    """One place and rank: seconds of a step, by round."""

    name: str
    ours: list[float]
    by_hand: list[float]


def main() -> None:
    """Print a table: milliseconds of a step, ours and by hand, and their ratio."""
    parser = arguments("How long a step of a fit takes, beside a loop written by hand.", rounds=3)
    options = parser.parse_args()
    torch.set_num_threads(num_cores())
    names = ("gpt2-tiny",) if options.quick else ("gpt2-small", SMOLLM2)
    with tempfile.TemporaryDirectory(prefix="swapyard-bench-") as scratch:
        for name in names:
            try:
                model = load_folder(model_folder(name, Path(scratch)), options.device)
            except Exception as error:
                print(f"{name}: left out ({error})", flush=True)
                continue
            steps = FEW + 2 if options.quick else MANY
            print(f"\n{shown(measure(name, model, num_rounds(options), steps))}", flush=True)


def measure(name: str, model: LoadedModel, rounds: int, steps: int) -> Sequence[Found]:
    """Every place and rank."""
    last = model.facts.num_layers - 1
    layers = sorted({last // 6, last // 2, last - last // 6})
    return [_place(name, model, layer, rank, rounds, steps) for layer in layers for rank in RANKS]


def _place(name: str, model: LoadedModel, layer: int, rank: int, rounds: int, steps: int) -> Found:
    assert model.facts.vocab_size is not None
    pairs = random_pairs(NUM_PAIRS, NUM_TOKENS, model.facts.vocab_size, seed=0)
    ways: dict[str, Callable[[int], None]] = {
        "ours": lambda steps: _ours(model, pairs, layer, rank, steps),
        "by_hand": lambda steps: _by_hand(model, pairs, layer, rank, steps),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    order = random.Random(layer)
    for number in range(rounds + 1):
        order.shuffle(turns := list(ways))
        for way in turns:
            few, _ = timed(lambda way=way: ways[way](FEW))
            many, _ = timed(lambda way=way: ways[way](steps))
            if number:  # The first round warms up.
                seconds[way].append((many - few) / (steps - FEW))
    return Found(f"{name}, block_output {layer}, rank {rank}", seconds["ours"], seconds["by_hand"])


def _ours(model: LoadedModel, pairs: Sequence[Pair], layer: int, rank: int, num_steps: int) -> None:
    net = IntervenableModel(model.module)
    given = {
        "base": _ids(pairs, "base"),
        "source": _ids(pairs, "source"),
        "label": [pair.label_ids[0] for pair in pairs],
    }
    unit = Unit("block_output", layer=layer, position=NUM_TOKENS - 1)
    fit(net, unit, given, method="das", rank=rank, num_steps=num_steps, batch_size=BATCH)


def _by_hand(model: LoadedModel, pairs: Sequence[Pair], layer: int, rank: int, num_steps: int) -> None:
    module: Any = model.module
    block = module.get_submodule(f"{family_of(model.facts.model_type).blocks}.{layer}")
    bases, sources = (_ids(pairs, run).to(model.device) for run in ("base", "source"))
    labels = torch.tensor([pair.label_ids[0] for pair in pairs], device=model.device)
    rotation = LowRankRotation(model.facts.width, rank, seed=0).to(model.device)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=5e-3)
    kept: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        kept[:] = [(output if isinstance(output, Tensor) else output[0])[:, -1].detach().clone()]

    def swap(_: Any, __: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        base, weight = hidden[:, -1], rotation.weight
        changed = base + (kept[0] @ weight - base @ weight) @ weight.mT
        hidden = torch.cat([hidden[:, :-1], changed[:, None]], 1)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    for step in range(num_steps):
        rows = (torch.arange(BATCH, device=model.device) + step * BATCH) % len(pairs)
        _hooked(block, keep, lambda rows=rows: _without_gradients(module, sources[rows]))
        logits = _hooked(block, swap, lambda rows=rows: module(input_ids=bases[rows], use_cache=False).logits)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits[:, -1], labels[rows]).backward()
        optimiser.step()


def _without_gradients(module: Any, prompts: Tensor) -> None:
    with torch.no_grad():
        module(input_ids=prompts, use_cache=False)


def _hooked(block: Any, hook: Any, run: Callable[[], Any]) -> Any:
    handle = block.register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()


def _ids(pairs: Sequence[Pair], run: str) -> Tensor:
    return torch.tensor([pair.tokens[run] for pair in pairs])


def shown(found: Sequence[Found]) -> str:
    """Medians, in brackets the least and the most of the rounds."""
    rows = [
        [
            one.name,
            spread([1e3 * seconds for seconds in one.ours], ".1f"),
            spread([1e3 * seconds for seconds in one.by_hand], ".1f"),
            f"{statistics.median(one.by_hand) / statistics.median(one.ours):.2f}",
        ]
        for one in found
    ]
    return table(("DAS", "ours, ms a step", "by hand, ms a step", "swapyard is faster by"), rows)


if __name__ == "__main__":
    main()
