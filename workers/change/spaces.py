"""Subspaces as plain data: their kind, what makes an equal one, and an empty one to be filled."""

__all__ = ["blank_space", "frozen", "space_config"]

from collections.abc import Callable, Mapping
from typing import Any

from torch.nn.utils import parametrize

from workers.change.features import PCA, SparseAutoencoder
from workers.change.masks import BoundlessRotation, Mask
from workers.change.subspaces import LowRankRotation, Rotation, Subspace
from workers.errors import StudyError

_KINDS: Mapping[str, type[Subspace]] = {
    "rotation": Rotation,
    "low_rank_rotation": LowRankRotation,
    "boundless_rotation": BoundlessRotation,
    "mask": Mask,
    "pca": PCA,
    "sparse_autoencoder": SparseAutoencoder,
}


def space_config(space: Subspace) -> dict[str, Any]:
    """Its kind and what makes an equal one; a subspace inside it likewise.

    Raises:
        StudyError: it is of a caller's own class.
    """
    kind = next((name for name, known in _KINDS.items() if isinstance(space, known)), None)
    if kind is None:
        name = type(space).__name__
        raise StudyError(f"a {name} is a subspace of its own class, which no file can hold; keep it in code")
    config = space.config()
    return {
        "kind": kind,
        **{k: space_config(v) if isinstance(v, Subspace) else v for k, v in config.items()},
    }


def blank_space(data: Mapping[str, Any]) -> Subspace:
    """A subspace of this kind and shape, whose tensors are still to be loaded."""
    config = {key: value for key, value in data.items() if key != "kind"}
    if isinstance(inner := config.get("of"), dict):
        config["of"] = blank_space(inner)
    kind: Any = _KINDS[data["kind"]]
    make: Callable[..., Subspace] = getattr(kind, "blank", None) or (lambda given: kind(**given))
    return make(config)


def frozen(space: Subspace) -> Subspace:
    """The subspace, trained no more: its rotation is a plain tensor, made once instead of at each use."""
    for part in space.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return space.requires_grad_(False)
