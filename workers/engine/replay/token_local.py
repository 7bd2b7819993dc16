"""Token-local taps: hook points where a change of one token changes no other token that the block hands on.

Queries, attention outputs and MLPs are such, as nothing mixes tokens after them in their block. They are
found by noise when the model is loaded. A token that is changed there goes through the block alone, and
nothing else of the block is run again. Only asked of models whose rows may begin at different blocks, and
whose rotary embeddings do not depend on the prompt's length: a token alone is no long prompt's.

Shapes: B probes, n places tried at once, T tokens, W width.
"""

__all__ = ["added", "find_token_local", "holds_nothing", "noise_like"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.engine.replay.base_cache import BaseCache
from workers.engine.replay.forward import through
from workers.intervene.edits import Edits
from workers.intervene.jobs import Change
from workers.model.hooks import Tap
from workers.model.resume import Resume
from workers.model.sites import Side

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel
from workers.intervene.jobs import Step
from workers.intervene.values import CachedActivation, Constant
from workers.model.layout import WHOLE, Target


def noise_like(there: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noise [1, W] with the standard deviation of `there` [B, T, W]."""
    noise = torch.randn(1, there.shape[-1], generator=generator) * float(there.float().std())
    return noise.to(there.device)


def added(tap: Tap, token: int, values: Tensor) -> Change:
    """Change that adds `values` [1, W] to the activation at a token."""
    return Change(Step(Target(tap, WHOLE, None, None), "add", None), (token,), Constant(values))


def holds_nothing(run: object, place: object) -> CachedActivation:
    """Look up nothing: an `ActivationLookup` where no value is taken from any run."""
    raise AssertionError(run, place)


_Make = tuple[tuple[str, type[nn.Module]], ...]
"""Paths and classes of the modules in a block: blocks of one make are tried together."""


def find_token_local(
    model: "LoadedModel",
    resume: Resume,
    bases: BaseCache,
    slots: Tensor,
    whole: Mapping[Tap, Tensor],
    bound: float,
) -> frozenset[Tap]:
    """Find the taps where noise at one token changes nothing that the block hands on of the next.

    Not within a bound, but in no bit: keys and values of little weight would be within one. It must be so in
    the first, a middle and the last block of a make, and at two tokens: of one block the attention may be
    switched off, and one token may be the last that another sees.

    Args:
        model: what is tried.
        resume: how it is resumed.
        bases: the cache of whole clean runs of the probes.
        slots: [B], where.
        whole: what those runs have at taps, [B, T, W] where that is a tensor of each token.
        bound: how far a token alone may be from the same among others, as a share of its largest number.
    """
    trial = _LocalityTrial(model, resume, bases, slots, whole, bound)
    makes: dict[_Make, list[int]] = {}
    for number, block in enumerate(model.module.get_submodule(resume.blocks).children()):
        if number + 1 < resume.num_blocks:
            makes.setdefault(_make(block), []).append(number)
    found = [
        (blocks, trial.of_blocks({blocks[0], blocks[len(blocks) // 2], blocks[-1]}))
        for blocks in makes.values()
    ]
    return frozenset(
        tap
        for blocks, names in found
        for block in blocks
        for name, side in names
        if (tap := Tap(f"{resume.blocks}.{block}.{name}", side)).module in resume.block_of
    )


@dataclass(frozen=True, slots=True)
class _LocalityTrial:
    """Trials with noise at the taps of a model's blocks; see `find_token_local`."""

    model: "LoadedModel"
    resume: Resume
    bases: BaseCache
    slots: Tensor
    whole: Mapping[Tap, Tensor]
    bound: float

    def of_blocks(self, blocks: Iterable[int]) -> set[tuple[str, Side]]:
        """The path from the block, and the side, of the taps that are token-local in all of `blocks`."""
        num_tokens = self.bases.extent.num_tokens
        tokens = [token for token in (num_tokens // 2 - 1, num_tokens // 2) if 0 <= token < num_tokens - 1]
        found = [
            {(tap.module.removeprefix(f"{self.resume.blocks}.{block}."), tap.side) for tap in taps}
            for block in blocks
            for token in tokens
            for taps in [self.of_block(block, token)]
        ]
        return set.intersection(*found) if found else set()

    def of_block(self, block: int, token: int) -> list[Tap]:
        """The taps inside a block where a change of `token` stays with it, also if it goes through alone."""
        taps = self._taps(block)
        generator = torch.Generator().manual_seed(1)
        noise = [noise_like(self.whole[tap], generator) for tap in taps]
        changes = [[added(tap, token, one)] for tap, one in zip(taps, noise, strict=True)]
        # Adding nothing lays tensors out as adding noise does, and their layout shows in the last bits.
        nothing = [[added(tap, token, one.mul(0))] for tap, one in zip(taps, noise, strict=True)]
        clean, _ = self._handed_on(block, range(token, token + 2), nothing)
        changed, failed = self._handed_on(block, range(token, token + 2), changes)
        alone, failed_alone = self._handed_on(block, range(token, token + 1), changes)
        return [
            tap
            for row, tap in enumerate(taps)
            if row not in failed
            and row not in failed_alone
            and torch.equal(clean[row, 1], changed[row, 1])
            and not torch.equal(clean[row, 0], changed[row, 0])
            and _is_near(alone[row, 0], changed[row, 0], self.bound)
        ]

    def _taps(self, block: int) -> list[Tap]:
        """Taps of modules inside the block that show every token."""
        shape = (len(self.slots), self.bases.extent.num_tokens)
        return [
            tap
            for tap, there in self.whole.items()
            if self.resume.block_of.get(tap.module) == block
            and tap.module != self.resume.input_of(block).module
            and there.dim() == 3
            and there.shape[:2] == shape
        ]

    def _handed_on(
        self, block: int, tokens: range, rows: Sequence[Sequence[Change]]
    ) -> tuple[Tensor, Mapping[int, Exception]]:
        """Inputs of the next block [n, len(tokens), W], and the rows that could not be changed."""
        edits = Edits(rows, tokens.stop, holds_nothing, first=tokens.start)
        slots = self.slots[torch.arange(len(rows), device=self.slots.device) % len(self.slots)]
        hidden, seen = through(self.model, self.resume, self.bases, slots, block, tokens, edits.visits())
        return hidden, edits.failures(seen)


def _make(block: nn.Module) -> _Make:
    """Paths and classes of a block's modules."""
    return tuple((name, type(module)) for name, module in block.named_modules())


def _is_near(found: Tensor, expected: Tensor, bound: float) -> bool:
    return bool((found - expected).abs().max() <= bound * expected.abs().max().clamp_min(1e-30))
