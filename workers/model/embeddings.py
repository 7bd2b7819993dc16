"""How large a model's token embeddings are: the unit in which noise is measured.

Shapes: V vocabulary, W width.
"""

__all__ = ["embedding_of", "embedding_std"]

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
