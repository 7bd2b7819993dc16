"""Values that an intervention writes: cached activations of another run, given numbers, noise or zeros.

Shapes: n changed tokens of one example, W width of the tensor at a place, T tokens of a run.
"""

__all__ = [
    "ZERO",
    "ActivationLookup",
    "CachedActivation",
    "Constant",
    "Drawn",
    "FromRun",
    "FromRunByRow",
    "Value",
    "Zero",
    "draw",
]

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.errors import RunError
from workers.intervene.regions import Region
from workers.libraries.torch import require_streams
from workers.model.hooks import Tap
from workers.model.windows import positions_at


@dataclass(frozen=True, slots=True)
class CachedActivation:
    """Cached activation of one example's run, at a tap or a region."""

    values: Tensor
    """Activations [T, W] at a tap, [1, W] where it holds one position; at a region what its getter reads."""
    first: int = 0
    """Position that lies at ``values[0]``."""
    length: int | None = None
    """Number of positions that the whole run has there; None where all were kept."""

    @property
    def num_positions(self) -> int:
        """Number of positions that the whole run has at the tap."""
        return self.values.shape[0] if self.length is None else self.length


ActivationLookup = Callable[[Hashable, Tap | Region], CachedActivation]
"""Cached activation by a run's key and the place; for a `FromRunByRow` that of all examples, [B, T, W]."""


@dataclass(frozen=True, slots=True)
class FromRun:
    """Activations of another run of one example at some of its tokens: activation patching."""

    run: Hashable
    """Key of the run, for an `ActivationLookup`."""
    tokens: tuple[int, ...]
    """Tokens, one for each that is changed, or those that are pooled."""
    num_tokens: int | None
    """T of that run; None where its inputs do not say."""

    def rows(self, held: ActivationLookup, tap: Tap, *, is_pooled: bool) -> Tensor:
        """Activations at the tokens [n, W]; where they are pooled their mean [1, W]."""
        kept = held(self.run, tap)
        num_positions = kept.num_positions
        num_tokens = num_positions if self.num_tokens is None else self.num_tokens
        rows = _rows(kept, positions_at(self.tokens, num_tokens, num_positions, tap))
        return rows.float().mean(0, keepdim=True).to(rows.dtype) if is_pooled else rows


@dataclass(frozen=True, slots=True)
class FromRunByRow:
    """Activations of another run at the same tokens of all its examples: one value that all rows of a forward
    share, and from which each takes its own. The run has as many examples as the forward rows, or one."""

    run: Hashable
    """Key of the run, for an `ActivationLookup`."""
    tokens: tuple[int, ...]
    """Tokens, one for each that is changed."""
    num_tokens: int | None
    """T of that run; None where its inputs do not say."""


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """Given numbers, such as a steering vector, as wide as the unit's place (its heads and dimensions)."""

    rows: Tensor
    """[n, C], or [1, C] for every token."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Normal noise, drawn from the seed, the example, the place and the token; never from the batch."""

    scale: float
    """Standard deviation, in units of the activations."""
    seed: int
    example: int
    """The example's number, wherever it lies in a batch."""
    tokens: tuple[int, ...]
    """The example's own tokens that are changed, padding not counted."""


@dataclass(frozen=True, slots=True)
class Zero:
    """Zeros: zero ablation."""


ZERO = Zero()

Value = FromRun | FromRunByRow | Constant | Drawn | Zero


def draw(noise: Drawn, tap: Tap, width: int) -> Tensor:
    """The noise at a tap of `width`: [n, W], float32.

    Each token has a stream of its own, so that it does not matter which others are changed, and two units
    that change different columns of one place share what they draw.
    """
    require_streams()
    return torch.stack([_normal(noise, tap, token, width) for token in noise.tokens]) * noise.scale


def _normal(noise: Drawn, tap: Tap, token: int, width: int) -> Tensor:
    key = f"{noise.seed}/{noise.example}/{tap}/{token}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def _rows(kept: CachedActivation, tokens: Sequence[int]) -> Tensor:
    """Activations at `tokens` [n, W]; a view where they are neighbours.

    Raises:
        RunError: the run has not so many positions.
    """
    for token in tokens:
        if not 0 <= token < kept.num_positions:
            raise RunError(f"position {token} of a run that has positions 0 to {kept.num_positions - 1}")
    rows = [token - kept.first for token in tokens]
    assert all(0 <= row < kept.values.shape[0] for row in rows), "not kept"
    if rows and rows == list(range(rows[0], rows[-1] + 1)):
        return kept.values[rows[0] : rows[-1] + 1]
    return kept.values[torch.tensor(rows, device=kept.values.device).long()]
