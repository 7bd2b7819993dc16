"""An intervention that fails where the first number is small; how small, the environment says."""

import os

import torch

LEAST = float(os.environ.get("GOLDEN_LEAST", "-inf"))


def picky(old: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if (old[:, 0] < LEAST).any():
        raise ValueError("the first number is too small")
    return (old + other) / 2
