"""How large a model's token embeddings are: the unit in which noise is measured."""

__all__ = ["embedding_std"]

from torch import Tensor, nn

from workers.zoo.base import ZooModel


def embedding_std(module: nn.Module) -> float:
    """The standard deviation over all entries of the model's token embeddings, as in causal tracing.

    Meng et al. 2022 (arXiv 2202.05262), section 2.1, add normal noise of three times this. It is 1 for a
    module without token embeddings, such as one that takes vectors: noise is then in the activations' units.
    """
    table = _table(module)
    return 1.0 if table is None else float(table.detach().float().std())


def _table(module: nn.Module) -> Tensor | None:
    """The token embeddings [V, W] of a built-in model, or of one of the transformers library."""
    find = getattr(module, "get_input_embeddings", None)
    if isinstance(module, ZooModel):
        found: nn.Module | None = module.embed
    else:
        found = find() if callable(find) else None
    weight = getattr(found, "weight", None)
    return weight if isinstance(weight, Tensor) else None
