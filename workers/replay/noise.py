"""Probe noise: added at places of a model, to see what comes of it.

Shapes: B probes, T tokens, W width.
"""

__all__ = ["added", "holds_nothing", "noise_like"]


import torch
from torch import Tensor

from workers.change.jobs import Change, Step
from workers.change.values import CachedActivation, Constant
from workers.model.hooks import Tap
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
