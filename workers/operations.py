"""What a unit does to a value: pure operations that return new tensors.

Shapes: B rows, T tokens, W width; N changed (row, token) points, C changed columns.
"""

__all__ = ["operate", "write"]

import torch
from torch import Tensor

from workers.errors import RunError
from workers.vocabulary import OPERATIONS


def operate(operation: str, old: Tensor, other: Tensor) -> Tensor:
    """`old` [N, C] replaced by `other` [N, C] (``vanilla``), or changed by it (``add``, ``subtract``).

    Raises:
        RunError: the operation is unknown, or the values differ in width.
    """
    if old.shape != other.shape:
        raise RunError(f"a value {other.shape[-1]} wide cannot change {old.shape[-1]} dimensions")
    if operation == "vanilla":
        return other.clone()
    if operation == "add":
        return old + other
    if operation == "subtract":
        return old - other
    raise RunError(f"there is no operation {operation!r}; operations are {', '.join(OPERATIONS)}")


def write(
    tensor: Tensor,
    rows: Tensor,
    tokens: Tensor,
    columns: slice | Tensor,
    operation: str,
    other: Tensor | None,
) -> Tensor:
    """A copy of `tensor` [B, T, W] with `operation` done at the points (`rows`, `tokens`) [N], `columns`.

    The values are `other` [N, C], or zeros where it is None.

    Raises:
        RunError: see `operate`.
    """
    picked = tensor[rows, tokens]  # [N, W], a copy
    old = picked[:, columns]
    picked[:, columns] = operate(operation, old, torch.zeros_like(old) if other is None else other)
    return torch.index_put(tensor, (rows, tokens), picked)
