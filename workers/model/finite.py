"""Why a model's logits are no numbers: which of its weights hold NaN or infinity.

Weights are looked through when a NaN shows, not at load. 135 million float32 numbers take 0.03 s of CPU once
they are in memory; at load each worker would first read all of a mapped file, embeddings too, for nothing.
"""

__all__ = ["why_not_finite"]

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_MOST_NAMED = 4

_known: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def why_not_finite(module: nn.Module) -> str:
    """What to say of a module whose logits are NaN or infinite; its weights are looked through once."""
    if module not in _known:
        _known[module] = _told(module)
    return _known[module]


def _told(module: nn.Module) -> str:
    found = list(_odd(module))
    if not found:
        dtype = next((str(one.dtype).removeprefix("torch.") for one in module.parameters()), "its dtype")
        return f"all weights are finite, so numbers grow too large for {dtype}; try dtype: float32"
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"{', '.join(found[:_MOST_NAMED])}{more}; fetch or save the model again"


@torch.no_grad()
def _odd(module: nn.Module) -> Iterator[str]:
    """The tensors of a module that are not finite, and what they hold."""
    # No buffers: masks may hold -inf on purpose, and whatever else they are is computed.
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta and not _is_finite(tensor):
            num_nan = int(tensor.isnan().sum())
            what = "NaN" if num_nan else "infinity"
            count = num_nan or int(tensor.isinf().sum())
            yield f"{name} holds {what} ({count:,} of {tensor.numel():,} numbers)"


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, without another tensor of this size."""
    low, high = torch.aminmax(tensor)
    return bool(low.isfinite() and high.isfinite())
