"""Interventions in plain torch: forward hooks written by hand, one job at a time, in float64.

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
    spaces: Mapping[str, Space] = field(default_factory=dict)
    """By the identity of a fit."""
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    """[W], or [T, W] with one for each token."""
    known: dict[Any, Any] = field(default_factory=dict)

    def tap(self, site: str, layer: int) -> Tap:
        """Where a site of a layer is."""
        path, side = SITES[self.family][site]
        return path.format(layer), side

    def run(
        self, tokens: Sequence[int], touches: Sequence[tuple[Tap, Touch]] = ()
    ) -> tuple[Tensor, dict[Tap, Tensor]]:
        """The logits [T, V] of a run, and what was at every site [T, W] after it was touched."""
        taps = [self.tap(site, layer) for site in SITES[self.family] for layer in range(self.num_layers)]
        kept: dict[Tap, Tensor] = {}
        with ExitStack() as stack:
            for tap in dict.fromkeys([*(tap for tap, _ in touches), *taps]):
                mine = [touch for one, touch in touches if one == tap]
                handle = _hook(self.module.get_submodule(tap[0]), tap, mine, kept)
                stack.callback(handle.remove)
            logits = self.module(input_ids=torch.tensor([list(tokens)])).logits[0]
        return logits, kept

    def clean(self, tokens: Sequence[int]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """The run of a prompt in which nothing is changed, made once."""
        if tuple(tokens) not in self.known:
            with torch.no_grad():
                self.known[tuple(tokens)] = self.run(tokens)
        found: tuple[Tensor, dict[Tap, Tensor]] = self.known[tuple(tokens)]
        return found

    @property
    def num_layers(self) -> int:
        """How many blocks there are."""
        path = SITES[self.family]["mlp_output"][0].partition(".{}")[0]
        return len(list(self.module.get_submodule(path).children()))


def _hook(module: nn.Module, tap: Tap, touches: Sequence[Touch], kept: dict[Tap, Tensor]) -> Any:
    def changed(tensor: Tensor, given: Tensor) -> Tensor:
        value = tensor[0]
        for touch in touches:
            value = touch(value, given[0])
        kept[tap] = value
        return value[None] if touches else tensor

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


def intervened(network: Network, pair: Pair, cell: Mapping[str, Any]) -> Tensor:
    """The logits [T, V] of the base with all of a cell's units changed."""
    held = {run: network.clean(tokens)[1] for run, tokens in pair.tokens.items()}
    base = pair.tokens["base"]
    with torch.no_grad():
        for name, units in cell.get("runs", ()):
            held[name] = network.run(base, touches(network, pair, units, held))[1]
        return network.run(base, touches(network, pair, cell["units"], held))[0]


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
    network: Network, pair: Pair, unit: Mapping[str, Any], held: Mapping[str, Any], value: Tensor, given: Tensor
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
            other = other_value(network, pair, unit, held, number, token, block, old)
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
    token: int,
    block: int,
    old: Tensor,
) -> Tensor:
    """What a unit writes at its `number`-th token, in one block of columns."""
    if unit["run"] == "zero":
        return torch.zeros_like(old)
    if unit["run"] == "fit":
        vector = network.vectors[unit["value_fit"]]
        vector = vector if vector.dim() == 1 else vector[token]
        return vector.to(old.dtype) * unit.get("scale", 1)
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
        logits, kept = network.run(pair.tokens["base"])
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
