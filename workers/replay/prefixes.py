"""A prefix that prompts share, such as a few-shot head or a template: run once for all of them.

Shapes: p tokens of the prefix, W width.
"""

__all__ = ["Prefix", "num_shared", "run_prefix"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.model.hooks import Tap, Visit
from workers.vocabulary import Prompt

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel

_FEWEST = 8
"""Tokens that are worth a run of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What a run of the prefix alone holds."""

    tokens: Prompt
    taps: Mapping[Tap, Tensor]
    """[1, p, W] each."""
    keys: Sequence[Tensor | None]
    """Of each layer [1, heads, p, width]."""
    values: Sequence[Tensor | None]

    def cache(self, num_rows: int, device: torch.device, keep: Any = None) -> Any:
        """A cache for prompts that begin with it."""
        from workers.replay.layers import CachedPrefix, RunCache

        slots = torch.zeros(num_rows, dtype=torch.long, device=device)
        before = CachedPrefix(len(self.tokens), self.keys, self.values, slots)
        return RunCache(len(self.keys), before, keep)


def num_shared(prompts: Sequence[Prompt], most: int) -> int:
    """With how many equal tokens the prompts begin, at most `most`; 0 where they are too few to matter."""
    if len(prompts) < 2 or not all(isinstance(prompt, tuple) for prompt in prompts):
        return 0
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))
    return min(shared, most) if min(shared, most) >= _FEWEST else 0


def run_prefix(model: "LoadedModel", tokens: Prompt, taps: Collection[Tap]) -> Prefix:
    """Run a prefix of token ids, and keep what it holds at `taps`."""
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
