"""Positions of a run that one call of a module shows: its tokens, one time step, or the only one.

A unit names positions of a run (its tokens, or its time steps). What a module holds of them has one of
three forms, told apart by the tensor and by the tap alone:

===============  =========  ========================================================================
form             positions  example
===============  =========  ========================================================================
[B, T, W]        T tokens   what a block of a decoder returns
[B, W], T times  T steps    what a recurrent cell returns at each step (a tap with ``per_step``)
[B, W] or [B]    one        what a block of a plain MLP returns; a number that a causal model reckons
===============  =========  ========================================================================

A `Window` shows each of them as [B, P, W], so that whoever reads or writes by position need not know
which it is. Captures of a run are [T, W], or [1, W] where there is one position. A run that begins in the
middle shows its tokens from there on.

Shapes: B rows, T tokens or steps, P positions of the window, W width.
"""

__all__ = ["Window", "positions_at", "window_of"]

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Size, Tensor

from workers.errors import ModelError
from workers.model.hooks import Tap


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a run that one call of a module shows."""

    values: Tensor
    """[B, P, W], a view of the module's tensor."""
    first: int
    """The run's position that lies at ``values[:, 0]``: the step, or the first token that runs."""
    num_positions: int
    """Number of positions of the whole run there: T, or 1."""
    shape: Size
    """Of the module's tensor."""

    def columns(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        """Positions of the run that lie in the window, of `positions`: (number in `positions`, column of
        `values`).

        Empty for the steps that were not asked for: then nothing is to be done.
        """
        first, end = self.first, self.first + self.values.shape[1]
        return [(number, at - first) for number, at in enumerate(positions) if first <= at < end]

    def restore(self, values: Tensor) -> Tensor:
        """`values` [B, P, W] in the form that the module's tensor had."""
        return values.reshape(self.shape)


def window_of(
    tensor: Tensor, tap: Tap, call: int, num_rows: int, num_tokens: int | None, first: int = 0
) -> Window:
    """Window that `tensor`, seen at the module's `call`, is of a run of `num_rows` × `num_tokens`.

    Args:
        tensor: as a visit is given it.
        tap: where.
        call: as a visit is given it: the step, where the tap has steps.
        num_rows: B.
        num_tokens: T; None where the run has no tokens or steps of its own (then [B, P, W] has P positions).
        first: the token that the run begins at; from another than 0 on, only the first form is known.

    Raises:
        ModelError: the tensor has none of the three forms.
    """
    if tensor.dim() not in (1, 2, 3) or tensor.shape[0] != num_rows:
        raise _misshapen(tensor, tap, num_rows, num_tokens)
    values = tensor if tensor.dim() == 3 else tensor.reshape(num_rows, 1, -1)
    if tap.per_step:
        if num_tokens is None or values.shape[1] != 1:
            raise _misshapen(tensor, tap, num_rows, num_tokens)
        return Window(values, call, num_tokens, tensor.shape)
    if first:
        if tensor.dim() != 3 or num_tokens is None or values.shape[1] != num_tokens - first:
            raise _misshapen(tensor, tap, num_rows, num_tokens)
        return Window(values, first, num_tokens, tensor.shape)
    if tensor.dim() == 3 and num_tokens is not None and values.shape[1] != num_tokens:
        # [B, 1, W] in a run of several tokens is no one position: it may be the one token that is read.
        raise _misshapen(tensor, tap, num_rows, num_tokens)
    return Window(values, 0, values.shape[1], tensor.shape)


def positions_at(tokens: Sequence[int], num_tokens: int, num_positions: int, tap: Tap) -> tuple[int, ...]:
    """Positions of `tokens` of a run of `num_tokens` at a tap that holds `num_positions` of it.

    The same numbers where it holds them all. Where it holds one, that is position 0, and naming all
    tokens at once names it, too.

    Raises:
        ModelError: it holds one position, and `tokens` are some of several.
    """
    named = tuple(tokens)
    if num_positions == num_tokens or not named or named == (0,):
        return named
    if num_positions == 1 and sorted(named) == list(range(num_tokens)):
        return (0,)
    raise ModelError(
        f"position {list(named)} at {tap}, which has {num_positions} for the whole run of {num_tokens}: "
        "leave 'position' out there, or say 'all' or 0"
    )


def _misshapen(tensor: Tensor, tap: Tap, num_rows: int, num_tokens: int | None) -> ModelError:
    shown = f"what is at {tap} is {list(tensor.shape)}"
    if tap.per_step:
        return ModelError(
            f"{shown} in a step of {num_rows} rows: only (rows, width) can be read or changed by time step"
        )
    tokens = "" if num_tokens is None else f" x {num_tokens} tokens"
    return ModelError(
        f"{shown} in a run of {num_rows}{tokens}: only (rows, tokens, width) can be read or changed by "
        "token, and (rows, width) as a whole"
    )
