"""Caches of clean runs: KV cache and block inputs of bases, from which jobs resume, once for each prompt.

Only what a sweep can touch is kept: keys and values of the tokens before the last first changed one, what is
given to the blocks from the first changed one on, at the tokens from the first changed one on.

A prefix that prompts share, such as few-shot examples or a template, runs once for all: prefix caching.

Shapes: S slots, B prompts of a forward, H heads, T tokens, p tokens of a prefix, D and W widths.
"""

__all__ = ["BaseCache", "BaseCaches", "BaseExtent", "Prefix", "num_shared", "run_prefix"]

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.model.hooks import Tap, Visit
from workers.model.resume import Resume
from workers.vocabulary import Prompt

if TYPE_CHECKING:
    from workers.engine.replay.kv_cache import Keep, RunCache
    from workers.model.loading import LoadedModel

_FEWEST = 8
"""Fewest tokens that are worth a run of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseExtent:
    """Blocks and tokens that jobs on bases of one length can touch."""

    num_tokens: int
    """T."""
    block: int
    """First block that any job begins at."""
    first: int
    """First token that any job begins at."""
    last: int
    """Last token that any job begins at: keys and values are kept of those before it."""

    def covers(self, other: "BaseExtent") -> bool:
        """Whether what is kept for this is enough for `other`."""
        return (
            self.num_tokens == other.num_tokens
            and self.block <= other.block
            and self.first <= other.first
            and self.last >= other.last
        )

    def size_bytes(self, resume: Resume, token_bytes: int) -> int:
        """Size of one prompt's cache; `token_bytes` is the size of a block's input for one token."""
        cached = sum(resume.cache_bytes[self.block :]) * self.last
        return cached + (resume.num_blocks - self.block) * (self.num_tokens - self.first) * token_bytes


class BaseCache:
    """Keys, values and block inputs of the clean runs of prompts of one length, side by side.

    Args:
        resume: of the model.
        extent: what is kept of each.
        num_slots: for how many prompts there is room.
    """

    def __init__(self, resume: Resume, extent: BaseExtent, num_slots: int) -> None:
        self.extent = extent
        self.num_slots = num_slots
        self.keys: list[Tensor | None] = [None] * resume.num_blocks
        """[S, H, last, D] of each block from the first on."""
        self.values: list[Tensor | None] = [None] * resume.num_blocks
        self.inputs: list[Tensor | None] = [None] * resume.num_blocks
        """Inputs of each block [S, T - first, W]."""
        self._resume = resume
        self._slots: dict[Prompt, int] = {}
        self._filled: set[Prompt] = set()

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(t.nbytes for kept in (self.keys, self.values, self.inputs) for t in kept if t is not None)

    def reserve(self, prompts: Collection[Prompt]) -> None:
        """Give each prompt a slot; there are enough. Others lose theirs where it is needed."""
        new = [prompt for prompt in prompts if prompt not in self._slots]
        old = [prompt for prompt in self._slots if prompt not in prompts]
        for prompt in old[: max(0, len(self._slots) + len(new) - self.num_slots)]:
            self.drop(prompt)
        free = iter(set(range(self.num_slots)) - set(self._slots.values()))
        self._slots |= {prompt: next(free) for prompt in new}

    def drop(self, prompt: Prompt) -> None:
        """Forget a prompt."""
        self._slots.pop(prompt, None)
        self._filled.discard(prompt)

    def holds(self, prompt: Prompt) -> bool:
        """Whether the prompt was run."""
        return prompt in self._filled

    def awaits(self, prompt: Prompt) -> bool:
        """Whether the prompt has a slot and is still to be run."""
        return prompt in self._slots and prompt not in self._filled

    def slots(self, prompts: Sequence[Prompt], device: torch.device) -> Tensor:
        """Slots of the prompts: [B]."""
        return torch.tensor([self._slots[prompt] for prompt in prompts], device=device)

    def recording(
        self, prompts: Sequence[Prompt], device: torch.device, *, num_before: int = 0
    ) -> tuple[list[tuple[Tap, Visit]], "Keep"]:
        """Visits, and what the cache tells, for a forward of `prompts`: they keep those that are awaited.

        The forward begins at token `num_before`, which is not past the extent's first.
        """
        wanted = [row for row, prompt in enumerate(prompts) if self.awaits(prompt)]
        rows = torch.tensor(wanted, device=device)
        slots = self.slots([prompts[row] for row in wanted], device)
        extent = self.extent

        def keep(layer: int, keys: Tensor, values: Tensor) -> None:
            if layer >= extent.block and extent.last:
                self._put(self.keys, layer, slots, keys[:, :, : extent.last][rows])
                self._put(self.values, layer, slots, values[:, :, : extent.last][rows])

        def keep_input(block: int) -> Visit:
            def visit(hidden: Tensor, _: int) -> None:
                self._put(self.inputs, block, slots, hidden[:, extent.first - num_before :][rows])

            return visit

        blocks = range(extent.block, self._resume.num_blocks)
        visits = [(self._resume.input_of(block), keep_input(block)) for block in blocks]
        return visits, keep

    def recorded(self, prompts: Sequence[Prompt]) -> None:
        """Note, after the forward, that the caches that were awaited of `prompts` are there."""
        self._filled.update(prompt for prompt in prompts if prompt in self._slots)

    def _put(self, kept: list[Tensor | None], number: int, slots: Tensor, new: Tensor) -> None:
        """Write rows [B, …] into their slots."""
        held = kept[number]
        if held is None:
            held = kept[number] = new.new_zeros(self.num_slots, *new.shape[1:])
        held.index_copy_(0, slots, new)


class BaseCaches:
    """Base caches for the prompt lengths used last, within a budget of memory.

    Args:
        budget_bytes: what may be held; what is needed at once is held even beyond it.
    """

    def __init__(self, *, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._caches: OrderedDict[int, BaseCache] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(base_cache.size_bytes for base_cache in self._caches.values())

    def reserve(self, resume: Resume, prompts: Collection[Prompt], extent: BaseExtent) -> BaseCache:
        """Cache with a slot for each of the prompts, whose runs may still lack."""
        base_cache = self._caches.get(extent.num_tokens)
        if base_cache is None or base_cache.num_slots < len(prompts) or not base_cache.extent.covers(extent):
            self._caches.pop(extent.num_tokens, None)
            base_cache = self._caches[extent.num_tokens] = BaseCache(resume, extent, len(prompts))
        self._caches.move_to_end(extent.num_tokens)
        while len(self._caches) > 1 and self.size_bytes > self._budget_bytes:
            self._caches.popitem(last=False)
        base_cache.reserve(prompts)
        return base_cache


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
        from workers.engine.replay.kv_cache import CachedPrefix, RunCache

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
    from workers.engine.replay.kv_cache import RunCache

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
