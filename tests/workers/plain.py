"""Interventions by a hand-written hook, one example and one position at a time. Imports torch only.

Slow and obvious on purpose, so that it can be wrong in no way that `workers` is.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Touch = Callable[[Tensor], Tensor]
"""From what is at a place [B, T, W] to what the module goes on with."""


def run(module: nn.Module, ids: Tensor, touches: Sequence[tuple[str, str, Touch]] = ()) -> Tensor:
    """The logits of ids [B, T], with the tensor at each (path, "input" or "output") touched."""
    handles = [hook(module.get_submodule(path), side, touch) for path, side, touch in touches]
    try:
        return module(input_ids=ids).logits
    finally:
        for handle in handles:
            handle.remove()


def record(module: nn.Module, ids: Tensor, path: str, side: str) -> Tensor:
    """What is at a place in a clean run."""
    seen = []

    def look(tensor: Tensor) -> Tensor:
        seen.append(tensor.detach().clone())
        return tensor

    run(module, ids, [(path, side, look)])
    return seen[0]


def hook(module: nn.Module, side: str, touch: Touch) -> torch.utils.hooks.RemovableHandle:
    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> tuple:
        if args:
            return (touch(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": touch(kwargs["hidden_states"])}

    def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor | tuple) -> Tensor | tuple:
        return (touch(output[0]), *output[1:]) if isinstance(output, tuple) else touch(output)

    if side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def changed(
    tensor: Tensor,
    positions: Sequence[Sequence[int]],
    columns: Sequence[int],
    other: Callable[[int, int], Tensor],
    change: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """A copy of `tensor` [B, T, W], where in example b, at its n-th position, `change` was done.

    `other(b, n)` is the value [C] for the `columns` [C].
    """
    result = tensor.clone()
    for b, listed in enumerate(positions):
        for n, position in enumerate(listed):
            old = tensor[b, position, list(columns)]
            result[b, position, list(columns)] = change(old, other(b, n))
    return result


def rotated(weight: Tensor, which: Sequence[int], operation: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    """The operation on some coordinates along the orthogonal `weight` [W, W], all of them turned back."""

    def change(old: Tensor, other: Tensor) -> Tensor:
        before, given = weight.T @ old, weight.T @ other
        mixed = before.clone()
        for k in which:
            mixed[k] = operation(before[k], given[k])
        return weight @ mixed

    return change


def projected(
    weight: Tensor, which: Sequence[int], operation: Callable
) -> Callable[[Tensor, Tensor], Tensor]:
    """The operation on some coordinates along orthonormal columns [W, K], direction by direction."""

    def change(old: Tensor, other: Tensor) -> Tensor:
        new = old.clone()
        for k in which:
            direction = weight[:, k]
            new = new + direction * (operation(old @ direction, other @ direction) - old @ direction)
        return new

    return change


def gated(weight: Tensor, gates: Tensor, operation: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    """(1 - gate) of each old coordinate and gate of the changed one, turned back by `weight` [W, W]."""

    def change(old: Tensor, other: Tensor) -> Tensor:
        before, given = weight.T @ old, weight.T @ other
        return weight @ ((1 - gates) * before + gates * operation(before, given))

    return change


def encoded(encode: Callable, decoder: Tensor, operation: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    """Features changed, decoded, and the error of the old value's reconstruction put back."""

    def change(old: Tensor, other: Tensor) -> Tensor:
        error = old - encode(old) @ decoder
        return operation(encode(old), encode(other)) @ decoder + error

    return change


OPERATIONS: dict[str, Callable] = {
    "vanilla": lambda old, other: other,
    "add": lambda old, other: old + other,
    "subtract": lambda old, other: old - other,
}
