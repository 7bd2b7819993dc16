"""Learned rotations as torch keeps them: which of its maps makes them, and what it calls their numbers.

Shapes: W width, K directions, at most W.
"""

__all__ = ["PLACES", "learn_rotation", "plain_rotations", "rotation_tensors", "set_rotation"]

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from workers.errors import RunError
from workers.libraries import LibraryPlace

_NAME = "weight"
_ORIGINAL = "parametrizations.weight.original"
_BASE = "parametrizations.weight.0.base"
_SQUARE, _TALL = "matrix_exp", "householder"
_MAP, _TRIVIALISED = "orthogonal_map", "use_trivialization"


def learn_rotation(module: nn.Module, seed: int) -> None:
    """Make the columns of ``module.weight`` [W, K] orthonormal, whatever a training does to its parameter.

    Square ones are the exponential of a skew-symmetric matrix, others a product of Householder reflections,
    both times the matrix at the start (Lezcano Casado 2019, arXiv 1909.09501): torch's own choice when fits
    were first made, said here because another would learn other numbers under the same identity.

    Args:
        module: with a parameter ``weight``.
        seed: of the numbers with which a tall matrix is completed to a basis.

    Raises:
        RunError: this torch cannot be told which map it takes.
    """
    width, rank = getattr(module, _NAME).shape
    wanted: dict[str, Any] = {_MAP: _SQUARE if width == rank else _TALL, _TRIVIALISED: True}
    if gone := _not_taken():
        raise RunError(
            f"torch {torch.__version__} cannot be told how to learn a rotation ({', '.join(gone)} gone): what"
            " it learns would not be what its identity names; install an older torch"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        orthogonal(module, _NAME, **wanted)


def rotation_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A learned rotation by names of our own: ``rotation`` [W, K], and what a training goes on from.

    ``rotation_start`` [W, W] is the matrix that the map is multiplied by and ``rotation_step`` [W, K] the
    parameter; neither is there where torch keeps them otherwise, and a training can begin without them.
    """
    kept = {name: tensor for name, tensor in module.state_dict().items() if name in (_ORIGINAL, _BASE)}
    parts = {"rotation_start": kept[_BASE], "rotation_step": kept[_ORIGINAL]} if len(kept) == 2 else {}
    return {"rotation": getattr(module, _NAME), **parts}


def _not_taken() -> list[str]:
    """Options of the map that are gone."""
    known = inspect.signature(orthogonal).parameters
    return [name for name in (_MAP, _TRIVIALISED) if name not in known]


def set_rotation(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let a learned rotation be that of `rotation_tensors`, to the last bit."""
    matrix: Tensor = tensors["rotation"]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        setattr(module, _NAME, matrix)
        kept = {name: tensor for name, tensor in module.state_dict().items() if name in (_ORIGINAL, _BASE)}
        if len(kept) < 2:
            return
        began = {name: tensor.clone() for name, tensor in kept.items()}
        # Completing it to a basis has rounded it.
        began[_BASE][:, : matrix.shape[1]] = matrix
        wanted = {_BASE: tensors.get("rotation_start"), _ORIGINAL: tensors.get("rotation_step")}
        for attempt in (wanted, began):
            if all(isinstance(tensor, Tensor) for tensor in attempt.values()):
                for name, tensor in attempt.items():
                    kept[name].copy_(tensor)
                if torch.equal(getattr(module, _NAME), matrix):
                    return


def plain_rotations(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` of a file, in which rotations as torch calls them have the names of `rotation_tensors`.

    Files of before this version hold the parameter and the start of a rotation under torch's names; its
    matrix comes from our own equations, which give the bits that torch gave, so that torch may call them what
    it likes.

    Raises:
        KeyError: a parameter without its start.
    """
    found = dict(tensors)
    for name in tensors:
        if name == _NAME or name.endswith(f".{_NAME}"):
            found[f"{name.removesuffix(_NAME)}rotation"] = found.pop(name)
        elif name.endswith(_ORIGINAL):
            path = name.removesuffix(_ORIGINAL)
            start, step = found.pop(path + _BASE), found.pop(name)
            found[f"{path}rotation"] = _rotation(step, start)
            found |= {f"{path}rotation_start": start, f"{path}rotation_step": step}
    return found


@torch.no_grad()
def _rotation(original: Tensor, base: Tensor) -> Tensor:
    """The matrix [W, K] of a parameter [W, K] and its start [W, W]; see `learn_rotation`.

    A product hangs in its last bits on how its factors lie in memory: here as they did where torch made them,
    a start that was completed to a basis by columns.
    """
    width, rank = original.shape
    if width == rank:
        lower = original.tril()
        return base @ torch.matrix_exp(lower - lower.mH)
    reflections = original.tril(diagonal=-1)
    scales = 2.0 / (1.0 + (reflections * reflections).sum(dim=-2))
    product = torch.linalg.householder_product(reflections, scales)
    by_columns = base.mT.contiguous().mT
    made: Tensor = by_columns @ (product * original.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2))
    return made


def _learned(width: int, rank: int) -> nn.Module:
    """A rotation after a step of training."""
    module = nn.Module()
    generator = torch.Generator().manual_seed(0)
    start = nn.init.orthogonal_(torch.empty(width, rank), generator=generator)
    module.register_parameter(_NAME, nn.Parameter(start))
    learn_rotation(module, 0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with torch.inference_mode(False), torch.enable_grad():
        product = getattr(module, _NAME) * torch.randn(width, rank, generator=generator)
        product.sum().backward()
    optimizer.step()
    return module


def _matrix(module: nn.Module) -> Tensor:
    made: Tensor = getattr(module, _NAME)
    return made.detach()


def _probe_map() -> str | None:
    for width, rank in ((6, 6), (6, 2)):
        module = _learned(width, rank)
        state = {_NAME: next(iter(module.parameters())), "base": next(iter(module.buffers()))}
        if not torch.allclose(_rotation(state[_NAME], state["base"]), _matrix(module), atol=1e-6):
            raise ArithmeticError("its maps give other matrices than those that fits were learned with")
    return None


def _probe_names() -> str | None:
    for width, rank in ((6, 6), (6, 2)):
        module = _learned(width, rank)
        state = module.state_dict()
        if set(state) != {_ORIGINAL, _BASE}:
            return f"other names ({', '.join(sorted(state))}): old files are read by our own equations alone"
        found, matrix = plain_rotations(state), _matrix(module)
        if not torch.equal(found["rotation"], matrix):
            return "matrices of old files differ in the last bits from those that torch makes of them"
        set_rotation(module, {"rotation": matrix})
        if not torch.equal(matrix, _matrix(module)):
            return "a rotation that is trained on begins with a matrix that is rounded anew"
    return None


PLACES = (
    LibraryPlace(
        library="torch",
        name="parametrizations.orthogonal: its default map and trivialisation",
        used_for="learning rotations: the map decides what a fit learns",
        seen_with="2.13.0",
        without="the map is named, so a new default changes nothing; without these options fits fail",
        marks=(_MAP, _TRIVIALISED, _SQUARE, _TALL),
        probe=_probe_map,
    ),
    LibraryPlace(
        library="torch",
        name="parametrizations.weight.original and .0.base in a state_dict",
        used_for="reading fits and units of format 1; since then files hold plain matrices with our names",
        seen_with="2.13.0",
        without="nothing: matrices come from our own equations, and old files keep the names they have",
        marks=("parametrizations.weight",),
        probe=_probe_names,
    ),
)
