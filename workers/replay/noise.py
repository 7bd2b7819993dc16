"""The noise that is tried at places of a model, to see what comes of it.

Shapes: B probes, T tokens, W width.
"""

__all__ = ["added", "holds_nothing", "noise_like"]

from typing import Any

import torch
from torch import Tensor

from workers.change.jobs import Change, Step
from workers.change.values import CachedActivation, Constant
from workers.model.hooks import Tap
from workers.model.layout import WHOLE, Target


def noise_like(there: Tensor, generator: torch.Generator) -> Tensor:
    """As much noise [1, W] as there is of anything in `there` [B, T, W]."""
    noise = torch.randn(1, there.shape[-1], generator=generator) * float(there.float().std())
    return noise.to(there.device)


def added(tap: Tap, token: int, values: Tensor) -> Change:
    """`values` [1, W] are added to what is at a token."""
    return Change(Step(Target(tap, WHOLE, None, None), "add", None), (token,), Constant(values))


def holds_nothing(run: Any, place: Any) -> CachedActivation:
    """What runs hold where no value is taken from any."""
    raise AssertionError(run, place)
