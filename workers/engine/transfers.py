"""Results on their way from the model's device to main memory."""

__all__ = ["to_host"]

from collections.abc import Mapping

import torch
from torch import Tensor


def to_host(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns in main memory. From a CUDA device they move at once, into pinned pages, and are waited for
    once: one by one each would wait for all work before it."""
    moved = {name: column.to("cpu", non_blocking=column.is_cuda) for name, column in columns.items()}
    for device in {column.device for column in columns.values() if column.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return moved
