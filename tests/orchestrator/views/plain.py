"""Interventions in plain torch: forward hooks written by hand, in float64; each job has a row of its own.

It imports torch only, so that it can be wrong in no way that the engine is. Cells are the plain data that the
view `cells` shows under ``units``, written by hand. Shapes: T tokens, W width of a tensor, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Tap = tuple[str, str]
"""Path of a module, and ``input`` or ``output``."""
Touch = Callable[[Tensor, Tensor], Tensor]
"""From what is at a tap and what its module was given, both [T, W], to what the run goes on with."""
Row = tuple[Sequence[int], Sequence[tuple[Tap, Touch]]]
"""A prompt, and what is changed in its run."""

SITES: Mapping[str, Mapping[str, Tap]] = {
    "llama": {
        "block_input": ("model.layers.{}", "input"),
        "block_output": ("model.layers.{}", "output"),
        "query_output": ("model.layers.{}.self_attn.q_proj", "output"),
        "attention_value_output": ("model.layers.{}.self_attn.o_proj", "input"),
        "attention_output": ("model.layers.{}.self_attn.o_proj", "output"),
        "mlp_activation": ("model.layers.{}.mlp.down_proj", "input"),
        "mlp_output": ("model.layers.{}.mlp", "output"),
    },
    "gpt2": {
        "block_input": ("transformer.h.{}", "input"),
        "block_output": ("transformer.h.{}", "output"),
        "query_output": ("transformer.h.{}.attn.c_attn", "output"),
        "attention_value_output": ("transformer.h.{}.attn.c_proj", "input"),
        "attention_output": ("transformer.h.{}.attn.c_proj", "output"),
        "mlp_activation": ("transformer.h.{}.mlp.c_proj", "input"),
        "mlp_output": ("transformer.h.{}.mlp", "output"),
    },
    "zoo:gpt": {
        "block_output": ("blocks.{}", "output"),
        "attention_value_output": ("blocks.{}.attention.project", "input"),
        "mlp_output": ("blocks.{}.mlp", "output"),
    },
}


@dataclass(frozen=True)
class Space:
    """Coordinates of a place, by hand: those of `encode`, and what a change of them adds by `decode`."""

    encode: Callable[[Tensor], Tensor]
    """[W] to [K]."""
    decode: Callable[[Tensor], Tensor]
    """[K] to [W], linear."""
    gates: Tensor | None = None
    """How much of each is exchanged [K]; None for all of all."""


@dataclass(frozen=True)
class Network:
    """A model, and where its sites are."""

    module: nn.Module
    family: str
    head_width: int
    dtype: str
    words: Sequence[str]
    """By id; fewer than there are ids, where some have no word."""
    spaces: dict[str, Space] = field(default_factory=dict)
    """By the identity of a fit."""
    vectors: dict[str, Tensor] = field(default_factory=dict)
    """[W] each."""
    known: dict[Any, Any] = field(default_factory=dict)
    """Clean runs and gradients that were made already."""

    def tap(self, site: str, layer: int) -> Tap:
        """Where a site of a layer is."""
        path, side = SITES[self.family][site]
        return path.format(layer), side

    def run(self, rows: Sequence[Row], *, keep: bool = False) -> list[tuple[Tensor, dict[Tap, Tensor]]]:
        """The logits [T, V] of each of some runs of equal length, side by side; and with `keep` what was at
        every site [T, W], after it was touched."""
        taps = [self.tap(site, layer) for site in SITES[self.family] for layer in range(self.num_layers)]
        touched = [tap for _, touches in rows for tap, _ in touches]
        kept: list[dict[Tap, Tensor]] = [{} for _ in rows]
        with ExitStack() as stack:
            for tap in dict.fromkeys([*touched, *(taps if keep else ())]):
                mine = [[touch for one, touch in touches if one == tap] for _, touches in rows]
                handle = _hook(self.module.get_submodule(tap[0]), tap, mine, kept)
                stack.callback(handle.remove)
            logits = self.module(input_ids=torch.tensor([list(tokens) for tokens, _ in rows])).logits
        # A classifier has one answer, whichever token is read.
        logits = logits.expand(-1, len(rows[0][0]), -1)
        return list(zip(logits, kept, strict=True))

    def clean(self, tokens: Sequence[int]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """The run of a prompt in which nothing is changed, made once."""
        if tuple(tokens) not in self.known:
            with torch.no_grad():
                (self.known[tuple(tokens)],) = self.run([(tokens, ())], keep=True)
        found: tuple[Tensor, dict[Tap, Tensor]] = self.known[tuple(tokens)]
        return found

    @property
    def num_layers(self) -> int:
        """How many blocks there are."""
        path = SITES[self.family]["mlp_output"][0].partition(".{}")[0]
        return len(list(self.module.get_submodule(path).children()))


def _hook(
    module: nn.Module, tap: Tap, touches: Sequence[Sequence[Touch]], kept: Sequence[dict[Tap, Tensor]]
) -> Any:
    """Touch each row of a batch by itself."""

    def changed(tensor: Tensor, given: Tensor) -> Tensor:
        values = list(tensor)
        for row, mine in enumerate(touches):
            for touch in mine:
                values[row] = touch(values[row], given[row])
            kept[row][tap] = values[row]
        return torch.stack(values)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = next(iter(kwargs), None) if not args else None
        given = kwargs[name] if name else args[0]
        new = changed(given, given)
        return (args, {**kwargs, name: new}) if name else ((new, *args[1:]), kwargs)

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (changed(output[0], args[0]), *output[1:])
        return changed(output, args[0])

    if tap[1] == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


@dataclass(frozen=True)
class Pair:
    """A base, its sources and its labels under one model."""

    row: Mapping[str, Any]
    """The pair as given."""
    tokens: Mapping[str, Sequence[int]]
    spans: Mapping[str, Mapping[str, list[int]]]
    label_ids: Sequence[int]
    base_label_ids: Sequence[int]


def located(position: Sequence[int | str], spans: Mapping[str, list[int]]) -> list[int]:
    """The tokens of a position: indices, ``NAME`` and ``NAME.last``."""
    found: list[int] = []
    for item in position:
        if isinstance(item, int):
            found.append(item)
            continue
        name, _, part = item.partition(".")
        whole = list(range(*spans[name]))
        found += whole[-1:] if part == "last" else whole
    return found


Cell = Mapping[str, Any]


def intervened(network: Network, jobs: Sequence[tuple[Pair, Cell]]) -> list[Tensor]:
    """For each job the logits [T, V] of its base, with all of its cell's units changed."""
    with torch.no_grad():
        made = [touches(network, pair, cell["units"], _held(network, pair, cell)) for pair, cell in jobs]
        found: dict[int, Tensor] = {}
        for rows in _groups(network, [pair for pair, _ in jobs]):
            runs = network.run([(jobs[row][0].tokens["base"], made[row]) for row in rows])
            found |= {row: logits for row, (logits, _) in zip(rows, runs, strict=True)}
    return [found[row] for row in range(len(jobs))]


def _held(network: Network, pair: Pair, cell: Cell) -> dict[str, Any]:
    """What each run holds that a cell may take values from: the pair's own, and those that the cell names."""
    held: dict[str, Any] = {run: network.clean(tokens)[1] for run, tokens in pair.tokens.items()}
    for name, units in cell.get("runs", ()):
        ((_, held[name]),) = network.run(
            [(pair.tokens["base"], touches(network, pair, units, held))], keep=True
        )
    return held


def _groups(network: Network, pairs: Sequence[Pair]) -> list[list[int]]:
    """Rows that can run together: of one length. In half precision each by itself, for how many share a
    forward changes the last digits."""
    if network.dtype != "float32":
        return [[row] for row in range(len(pairs))]
    by_length: dict[int, list[int]] = {}
    for row, pair in enumerate(pairs):
        by_length.setdefault(len(pair.tokens["base"]), []).append(row)
    return list(by_length.values())


def touches(
    network: Network, pair: Pair, units: Sequence[Mapping[str, Any]], held: Mapping[str, Any]
) -> list[tuple[Tap, Touch]]:
    """The changes of units, in their order."""

    def touch(unit: Mapping[str, Any]) -> Touch:
        return lambda value, given: changed(network, pair, unit, held, value, given)

    return [
        (network.tap(unit["place"]["site"], unit["place"]["layer"]), touch(unit))
        for unit in units
        if unit["operation"] != "collect"
    ]


def changed(
    network: Network,
    pair: Pair,
    unit: Mapping[str, Any],
    held: Mapping[str, Any],
    value: Tensor,
    given: Tensor,
) -> Tensor:
    """What a unit makes of what is at its place, [T, W]."""
    value, place = value.clone(), unit["place"]
    if "coordinates" in place:
        rows, columns = (slice(*map(int, part.split(":"))) for part in place["coordinates"].split(","))
        there = held[unit["run"]][network.tap(unit["origin"]["site"], unit["origin"]["layer"])]
        value[rows, columns] = there[rows, columns]
        return value
    for number, token in enumerate(located(place["position"], pair.spans.get("base", {}))):
        # In the coordinates of a fit the dimensions are those of its coordinates, and are looked at later.
        blocks = columns_of(network, place, None if "fit" in unit else unit["dims"], value.shape[-1])
        for block, columns in enumerate(blocks):
            old = value[token, columns]
            if unit["operation"] == "skip":
                value[token, columns] = given[token, columns]
                continue
            other = other_value(network, pair, unit, held, number, block, old)
            value[token, columns] = exchanged(network, unit, old, other)
    return value


def columns_of(
    network: Network, place: Mapping[str, Any], dims: Sequence[Sequence[int]] | None, width: int
) -> list[list[int]]:
    """The columns of a place, a list for each head."""
    fused = network.family == "gpt2" and place["site"] == "query_output"
    width = width // 3 if fused else width
    size = width if place["heads"] is None else network.head_width
    starts = [0] if place["heads"] is None else [head * size for head in place["heads"]]
    wanted = [[0, size]] if dims is None else dims
    return [[start + k for low, high in wanted for k in range(low, high)] for start in starts]


def other_value(
    network: Network,
    pair: Pair,
    unit: Mapping[str, Any],
    held: Mapping[str, Any],
    number: int,
    block: int,
    old: Tensor,
) -> Tensor:
    """What a unit writes at its `number`-th token, in one block of columns."""
    if unit["run"] == "zero":
        return torch.zeros_like(old)
    if unit["run"] == "fit":
        return network.vectors[unit["value_fit"]].to(old.dtype) * unit.get("scale", 1)
    origin = unit["origin"]
    there = held[unit["run"]][network.tap(origin["site"], origin["layer"])]
    prompt = unit["run"] if unit["run"] in pair.tokens else "base"
    at = located(origin["position"], pair.spans.get(prompt, {}))[number]
    columns = columns_of(network, origin, None if "fit" in unit else unit["dims"], there.shape[-1])[block]
    return there[at, columns]


def exchanged(network: Network, unit: Mapping[str, Any], old: Tensor, other: Tensor) -> Tensor:
    """`old` after the operation, in the coordinates of a fit where the unit names one."""
    if "fit" not in unit:
        return done(unit["operation"], old, other)
    space = network.spaces[unit["fit"]]
    before, given = space.encode(old), space.encode(other)
    change = done(unit["operation"], before, given) - before
    if space.gates is not None:
        change = change * space.gates
    if unit["dims"] is not None:
        inside = torch.zeros(len(change), dtype=torch.bool)
        for low, high in unit["dims"]:
            inside[low:high] = True
        change = change * inside
    return old + space.decode(change)


def done(operation: str, old: Tensor, other: Tensor) -> Tensor:
    """An operation on two values; the last is a study's own function, see `STEERING`."""
    if operation == "steering:limited":
        return old + (other - old).clamp(-0.25, 0.25)
    return {"vanilla": other, "add": old + other, "subtract": old - other}[operation]


STEERING = "def limited(old, other):\n    return old + (other - old).clamp(-0.25, 0.25)\n"


def answer(logits: Tensor, pair: Pair) -> Tensor | None:
    """What an estimate is of: the label's logit less the base label's, of logits [V]; None without labels."""
    label, base = (
        logits[list(ids)].logsumexp(0) if ids else None for ids in (pair.label_ids, pair.base_label_ids)
    )
    if label is None or base is None:
        return label if base is None else -base
    return label - base


def gradients(network: Network, pair: Pair, read: int) -> dict[Tap, Tensor]:
    """How the answer at a token of the clean base changes with what is at every site, [T, W] each."""
    with torch.enable_grad():
        for weight in network.module.parameters():
            weight.requires_grad_(True)
        ((logits, kept),) = network.run([(pair.tokens["base"], ())], keep=True)
        for tensor in kept.values():
            tensor.retain_grad()
        found = answer(logits[read], pair)
        assert found is not None
        found.backward()
    network.module.zero_grad()
    zeros = {tap: torch.zeros_like(tensor) for tap, tensor in kept.items()}
    return {tap: zeros[tap] if tensor.grad is None else tensor.grad for tap, tensor in kept.items()}


def estimate(network: Network, pair: Pair, cell: Mapping[str, Any]) -> float | None:
    """Σ over units Σ (a' - a) · ∂m/∂a, where a' is made of clean values; None without labels."""
    if not pair.label_ids and not pair.base_label_ids:
        return None
    read = located((cell["read"],), pair.spans.get("base", {}))[0]
    key = (tuple(pair.tokens["base"]), read, tuple(pair.label_ids), tuple(pair.base_label_ids))
    if key not in network.known:
        network.known[key] = gradients(network, pair, read)
    held = {run: network.clean(tokens)[1] for run, tokens in pair.tokens.items()}
    values = dict(held["base"])
    with torch.no_grad():
        for tap, touch in touches(network, pair, cell["units"], held):
            values[tap] = touch(values[tap], values[tap])
        terms = [((new - held["base"][tap]) * network.known[key][tap]).sum() for tap, new in values.items()]
        return float(torch.stack(terms).sum())
