"""Subspaces as plain data: their kind, what makes an equal one, their numbers, and one made of these.

A file's tensors are plain matrices with names of our own: ``rotation`` [W, K], orthonormal columns, of
learned directions, ``mask`` [K], ``boundary``, ``components`` [W, K] and ``mean`` [W] of a PCA; those of a
subspace inside another one begin with ``of.``.
"""

__all__ = ["filled_space", "is_trained", "space_config", "space_tensors"]

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from workers.change.features import PCA, SparseAutoencoder
from workers.change.masks import BoundlessRotation, Mask
from workers.change.subspaces import LowRankRotation, Rotation, Subspace
from workers.errors import StudyError
from workers.libraries.torch_rotations import plain_rotations

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


def space_tensors(space: Subspace, *, is_trained_on: bool = False) -> dict[str, Tensor]:
    """Its numbers by our names, in main memory; those of a subspace inside it begin with ``of.``.

    With `is_trained_on` also what a training goes on from: ``rotation_start`` [W, W] and ``rotation_step``
    [W, K].
    """
    return {
        f"{path}.{name}" if path else name: tensor.detach().cpu().contiguous()
        for path, part in _parts(space)
        for name, tensor in part.tensors(is_trained_on=is_trained_on).items()
    }


def filled_space(
    data: Mapping[str, Any], tensors: Mapping[str, Tensor], *, is_trained_on: bool = False
) -> Subspace:
    """The subspace that `space_config` and `space_tensors` gave, on the CPU.

    Args:
        data: its kind and what makes an equal one; a subspace around one that is there already has that one
            as its ``of``, whose numbers are not asked for.
        tensors: its numbers; of files of before, rotations as torch called them then.
        is_trained_on: whether a training may go on from them.

    Raises:
        KeyError, ValueError: the numbers are not those of such a subspace.
    """
    given = plain_rotations(tensors)
    space = _blank(data)
    inner = data.get("of")
    there_already = set(inner.modules()) if isinstance(inner, Subspace) else set()
    for path, part in _parts(space):
        if part not in there_already:
            prefix = f"{path}." if path else ""
            part.fill(_taken(given, prefix), is_trained_on=is_trained_on)
            for parameter in _own_parameters(part):
                parameter.requires_grad_(is_trained_on)
    if given:
        raise ValueError(f"there is a tensor {next(iter(given))!r}, and no place for it")
    return space


def is_trained(space: Subspace) -> bool:
    """Whether a training would change numbers of its own, not those of a subspace inside it."""
    return any(parameter.requires_grad for parameter in _own_parameters(space))


def _blank(data: Mapping[str, Any]) -> Subspace:
    """A subspace of this kind and shape, whose tensors are still to be filled."""
    config = {key: value for key, value in data.items() if key != "kind"}
    if isinstance(inner := config.get("of"), dict):
        config["of"] = _blank(inner)
    kind: Any = _KINDS[data["kind"]]
    make: Callable[..., Subspace] = getattr(kind, "blank", None) or (lambda given: kind(**given))
    return make(config)


def _parts(space: Subspace) -> list[tuple[str, Subspace]]:
    """Itself and the subspaces inside it, each with its path, outermost first."""
    return [(path, part) for path, part in space.named_modules() if isinstance(part, Subspace)]


def _own_parameters(space: Subspace) -> list[Parameter]:
    """Its parameters without those of a subspace inside it."""
    inner = {id(one) for path, part in _parts(space) if path for one in part.parameters()}
    return [one for one in space.parameters() if id(one) not in inner]


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors directly below `prefix`, which are taken out of `tensors`."""
    names = [name for name in tensors if name.startswith(prefix) and "." not in name.removeprefix(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}
