"""What a unit's change writes: values taken from a run, given as numbers, or drawn.

Shapes: n changed tokens of one example, W width of the tensor at a place, T tokens of a run.
"""

__all__ = ["ZERO", "Constant", "Drawn", "Held", "Taken", "TakenByRow", "Value", "Zero", "draw"]

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.change.regions import Region
from workers.errors import RunError
from workers.model.hooks import Tap
from workers.model.windows import positions_at

Held = Callable[[Hashable, Tap | Region], Tensor]
"""What was kept of a run (of one example): at a tap [T, W], or [1, W] where it holds one position; of a
region what its getter found. Of a `TakenByRow` what all its examples hold, [B, T, W]."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run of one example holds at some of its tokens."""

    run: Hashable
    """What the run is known by to whoever kept it."""
    tokens: tuple[int, ...]
    """One for each token that is changed, or those that are pooled."""
    num_tokens: int | None
    """T of that run; None where its inputs do not say."""

    def rows(self, held: Held, tap: Tap, *, is_pooled: bool) -> Tensor:
        """The run's values at the tokens [n, W]; where they are pooled their mean [1, W]."""
        kept = held(self.run, tap)
        num_tokens = kept.shape[0] if self.num_tokens is None else self.num_tokens
        rows = _rows(kept, positions_at(self.tokens, num_tokens, kept.shape[0], tap))
        return rows.float().mean(0, keepdim=True).to(rows.dtype) if is_pooled else rows


@dataclass(frozen=True, slots=True)
class TakenByRow:
    """What a run holds at the same tokens of all its examples, for a forward of as many rows, or of any if
    it is one: a value that all rows of the forward share, and from which each takes its own."""

    run: Hashable
    """What the run is known by to whoever kept it."""
    tokens: tuple[int, ...]
    """One for each token that is changed."""
    num_tokens: int | None
    """T of that run; None where its inputs do not say."""


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """Numbers given from outside, as wide as the unit's place (its heads and dimensions)."""

    rows: Tensor
    """[n, C], or [1, C] for every token."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Normal noise, drawn from the seed, the example, the place and the token; never from the batch."""

    scale: float
    """Its standard deviation, in units of the activations."""
    seed: int
    example: int
    """The example's number, wherever it lies in a batch."""
    tokens: tuple[int, ...]
    """The example's own tokens that are changed, padding not counted."""


@dataclass(frozen=True, slots=True)
class Zero:
    """Nothing but zeros."""


ZERO = Zero()

Value = Taken | TakenByRow | Constant | Drawn | Zero


def draw(noise: Drawn, tap: Tap, width: int) -> Tensor:
    """The noise at a tap of `width`: [n, W], float32.

    Each token has a stream of its own, so that it does not matter which others are changed, and two units
    that change different columns of one place share what they draw.
    """
    return torch.stack([_normal(noise, tap, token, width) for token in noise.tokens]) * noise.scale


def _normal(noise: Drawn, tap: Tap, token: int, width: int) -> Tensor:
    key = f"{noise.seed}/{noise.example}/{tap}/{token}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def _rows(kept: Tensor, tokens: Sequence[int]) -> Tensor:
    """The rows `tokens` of `kept` [T, W]; a view where they are neighbours.

    Raises:
        RunError: it has not so many rows.
    """
    num_rows = kept.shape[0]
    for token in tokens:
        if not 0 <= token < num_rows:
            raise RunError(f"position {token} of a run that has positions 0 to {num_rows - 1}")
    if tokens and list(tokens) == list(range(tokens[0], tokens[-1] + 1)):
        return kept[tokens[0] : tokens[-1] + 1]
    return kept[torch.tensor(tokens, device=kept.device).long()]
