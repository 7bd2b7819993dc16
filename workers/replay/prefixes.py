"""Prefix caching: a prefix that prompts share, such as few-shot examples or a template, runs once for all.

Shapes: p tokens of the prefix, W width.
"""

__all__ = ["Prefix", "num_shared", "run_prefix"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.model.hooks import Tap, Visit
from workers.vocabulary import Prompt

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel
    from workers.replay.layers import Keep, RunCache

_FEWEST = 8
"""Fewest tokens that are worth a run of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """Activations, keys and values of a run of the prefix alone."""

    tokens: Prompt
    taps: Mapping[Tap, Tensor]
    """[1, p, W] each."""
    keys: Sequence[Tensor | None]
    """Keys of each layer [1, heads, p, width]."""
    values: Sequence[Tensor | None]

    def cache(self, num_rows: int, device: torch.device, keep: "Keep | None" = None) -> "RunCache":
        """Make a KV cache for prompts that begin with it."""
        from workers.replay.layers import CachedPrefix, RunCache

        slots = torch.zeros(num_rows, dtype=torch.long, device=device)
        before = CachedPrefix(len(self.tokens), self.keys, self.values, slots)
        return RunCache(len(self.keys), before, keep)


def num_shared(prompts: Sequence[Prompt], most: int) -> int:
    """Number of equal first tokens of the prompts, at most `most`; 0 where they are too few to matter."""
    if len(prompts) < 2 or not all(isinstance(prompt, tuple) for prompt in prompts):
        return 0
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))
    return min(shared, most) if min(shared, most) >= _FEWEST else 0


def run_prefix(model: "LoadedModel", tokens: Prompt, taps: Collection[Tap]) -> Prefix:
    """Run a prefix of token ids, and cache its activations at `taps`."""
    from workers.replay.layers import RunCache

    assert model.resume is not None
    keys: list[Tensor | None] = [None] * model.resume.num_blocks
    values: list[Tensor | None] = [None] * model.resume.num_blocks
    kept: dict[Tap, Tensor] = {}

    def keep(layer: int, made: Tensor, read: Tensor) -> None:
        keys[layer], values[layer] = made, read

    def keeper(tap: Tap) -> Visit:
        def visit(tensor: Tensor, _: int) -> None:
            kept[tap] = tensor.clone()

        return visit

    prompts = torch.tensor([tokens], device=model.device)
    reads = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    cache = RunCache(model.resume.num_blocks, keep=keep)
    model.forward(prompts, reads, [(tap, keeper(tap)) for tap in taps], cache=cache)
    return Prefix(tokens=tokens, taps=kept, keys=keys, values=values)
