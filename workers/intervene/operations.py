"""Operations of interventions on activations: swap, add, subtract, skip, collect; all return new tensors.

Shapes: N changed points, W width of the tensor at a place, C columns that are changed, K coordinates.
"""

__all__ = ["COLLECT", "SKIP", "Operation", "exchange", "operate", "put"]

from collections.abc import Callable

from torch import Tensor

from workers.errors import RunError
from workers.intervene.subspaces import Coordinated, Part
from workers.vocabulary import OPERATIONS

Operation = str | Callable[[Tensor, Tensor], Tensor]
"""``vanilla``, ``add``, ``subtract``, `COLLECT`, `SKIP`, or a function of the old and the other value, both
[N, C] ([N, K] in a subspace), that returns a new tensor of this shape."""

COLLECT = "collect"
"""Operation that changes nothing: the activations are handed out."""

SKIP = "skip"
"""Operation that skips the module which computes the place: its input in this run takes the place of its
output."""


def operate(operation: Operation, old: Tensor, other: Tensor) -> Tensor:
    """`old` [N, C] replaced by `other` [N, C] (``vanilla``, `SKIP`), or changed by it.

    Raises:
        RunError: the operation is unknown, or the shapes differ.
    """
    if old.shape != other.shape:
        raise RunError(f"a value {other.shape[-1]} wide cannot change {old.shape[-1]} dimensions")
    if operation in ("vanilla", SKIP):
        return other.clone()
    if operation == "add":
        return old + other
    if operation == "subtract":
        return old - other
    if callable(operation):
        return _called(operation, old, other)
    raise RunError(f"there is no operation {operation!r}; operations are {', '.join(OPERATIONS)}")


def _called(operation: Callable[[Tensor, Tensor], Tensor], old: Tensor, other: Tensor) -> Tensor:
    new = operation(old.clone(), other.clone())
    if not isinstance(new, Tensor) or new.shape != old.shape:
        given = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
        name = getattr(operation, "__qualname__", str(operation))
        raise RunError(
            f"the operation {name} on {list(old.shape)} returned {given}; return a tensor of that shape"
        )
    return new


def exchange(subspace: Coordinated | None, operation: Operation, old: Tensor, other: Tensor) -> Tensor:
    """The operation in the coordinates of a subspace; see `workers.intervene.subspaces` for the equation.

    Args:
        subspace: None for the dimensions as they are.
        operation: done on coordinates, of the subspace's part where it is one.
        old: [N, W], what is there.
        other: [N, W], the value.

    Returns:
        [N, W], in the dtype of `old`.

    Raises:
        RunError: the widths differ, or the operation is unknown.
    """
    if subspace is None:
        return operate(operation, old, other.to(old.dtype)).to(old.dtype)
    space = subspace.of if isinstance(subspace, Part) else subspace
    for value in (old, other):
        if value.shape[-1] != space.width:
            raise RunError(f"a subspace of {space.width} dimensions at a place of {value.shape[-1]}")
    space.require_float32()
    before = space.coordinates(old)
    mixed = _mixed(subspace, operation, before, space.coordinates(other))
    gates = space.gates()
    if gates is not None:
        mixed = before + gates * (mixed - before)
    effect, scale = space.effect(mixed - before), space.effect_scale(old)
    return (old.float() + (effect if scale is None else scale * effect)).to(old.dtype)


def _mixed(subspace: Coordinated, operation: Operation, before: Tensor, given: Tensor) -> Tensor:
    """The coordinates [N, K] after the operation on those that the part names."""
    if not isinstance(subspace, Part):
        return operate(operation, before, given)
    chosen = subspace.indices(before.device)
    return before.index_copy(-1, chosen, operate(operation, before[:, chosen], given[:, chosen]))


def put(picked: Tensor, columns: slice | Tensor, new: Tensor) -> Tensor:
    """A copy of `picked` [N, W] with `new` [N, C] in its `columns`; backpropagation goes through both."""
    if new.shape == picked.shape and isinstance(columns, slice):
        return new
    changed = picked.clone()
    changed[:, columns] = new
    return changed
