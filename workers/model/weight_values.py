"""Numbers in a loaded model's weights: the spread of its token embeddings, which is the unit of noise, and
the tensors that hold NaN or infinity.

Weights are looked through when a NaN shows, not at load. 135 million float32 numbers take 0.03 s of CPU once
they are in memory; at load each worker would first read all of a mapped file, embeddings too, for nothing.

Shapes: V vocabulary, W width.
"""

__all__ = ["embedding_of", "embedding_std", "why_not_finite"]

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from workers.zoo.base import ZooModel

_CHUNK = 4096
"""Tokens looked up in one go."""


@torch.no_grad()
def embedding_std(module: nn.Module) -> float:
    """The standard deviation of all numbers in the model's token embeddings, as in causal tracing.

    Meng et al. 2022 (arXiv 2202.05262), section 2.1, add normal noise of three times this. It is 1 for a
    module without token embeddings, such as one that takes vectors: noise is then in the activations' units.
    """
    embedding = embedding_of(module)
    weight = getattr(embedding, "weight", None)
    if embedding is None or not isinstance(weight, Tensor):
        return 1.0
    sums = torch.zeros(2, dtype=torch.float64)
    for tokens in torch.split(torch.arange(len(weight), device=weight.device), _CHUNK):
        # What the module makes of the table: some families scale it there. No hook is to see this.
        values: Tensor = embedding.forward(tokens).float().cpu().double()
        sums += torch.stack([values.sum(), values.square().sum()])
    mean, square = (sums / weight.numel()).tolist()
    return float(max(0.0, square - mean**2) ** 0.5)


def embedding_of(module: nn.Module) -> nn.Module | None:
    """The token embeddings of a model, built in or of the transformers library; None where it has none."""
    if isinstance(module, ZooModel):
        return module.embed
    find = getattr(module, "get_input_embeddings", None)
    found = find() if callable(find) else None
    return found if isinstance(found, nn.Module) else None


_MOST_NAMED = 4

_known: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def why_not_finite(module: nn.Module) -> str:
    """Explanation for a module whose logits are NaN or infinite; its weights are looked through once."""
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
