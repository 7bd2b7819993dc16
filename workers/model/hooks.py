"""Hooks: reading and changing the inputs and outputs of modules while a model runs.

The contract, for whoever visits a tap (`Edits`, `Captures`, the wrapper):

- A `Visit` gets the tensor and the number of the module's call in this forward, from 0. It returns what
  takes the tensor's place, a new tensor of the same shape, or None; it never writes into the tensor.
- A module runs once in a forward, so the call is 0. A *recurrent* module (``per_step`` of its tap) runs
  once for each time step, in order, and the call is the step: there must be exactly `num_steps` calls.
- What a visit returns at a step is what the model goes on with: later steps are computed from it, and a
  step whose visit returns None keeps its own state, computed from the changed one before it.
- Anything amiss is a fault of its tap, told after the forward, and no exception inside it.
- `workers.model.windows` shows the tensor of either kind as positions [B, P, W].

Shapes: B rows, T tokens or time steps, W width.
"""

__all__ = ["Tap", "Visit", "Visits", "visiting"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.errors import ModelError
from workers.libraries.transformers import hidden_keyword
from workers.model.sites import Side


@dataclass(frozen=True, slots=True)
class Tap:
    """Hook point: one tensor of a forward pass, the input or the output of a module."""

    module: str
    """Path of the module from the model."""
    side: Side
    per_step: bool = False
    """Whether the module runs once for each time step."""
    scale: float = 1.0
    """Factor that the model multiplies the tensor by before it goes on: visits see the product, and what they
    return is divided by it again."""

    @property
    def unscaled(self) -> "Tap":
        """The tensor itself."""
        return self if self.scale == 1.0 else replace(self, scale=1.0)

    def __str__(self) -> str:
        return f"{self.module}:{self.side}" + ("" if self.scale == 1.0 else f" times {self.scale:g}")


Visit = Callable[[Tensor, int], Tensor | None]
"""Sees the tensor at a tap and the number of the call, which is the time step of a recurrent module; what
it returns takes the tensor's place, None leaves it."""


@dataclass(slots=True)
class Visits:
    """Calls of each tap during one forward."""

    num_calls: dict[Tap, int]
    num_steps: int
    """Number of times that the module of a tap with ``per_step`` has to run; any other runs once."""
    without_tensor: set[Tap] = field(default_factory=set)

    def faults(self) -> dict[Tap, ModelError]:
        """The taps that did not see a tensor as often as they should, each with an error that names it.

        An error here and not an exception there: what was done at the other taps stays good.
        """
        return {tap: ModelError(text) for tap in self.num_calls if (text := self._fault(tap))}

    def _fault(self, tap: Tap) -> str | None:
        if tap in self.without_tensor:
            return f"there is no tensor at {tap}: name a module that is given, or returns, one first"
        calls = self.num_calls[tap]
        if calls == 0:
            return f"module {tap.module!r} did not run in the forward, so nothing was read or changed there"
        if tap.per_step and calls != self.num_steps:
            return f"module {tap.module!r} ran {calls} times in a forward of {self.num_steps} time steps"
        if calls > 1 and not tap.per_step:
            return f"module {tap.module!r} ran {calls} times in one forward: name one that runs once"
        return None


_CURRENT: ContextVar[Visits | None] = ContextVar("visits", default=None)
"""Visits of the innermost ``with``: a forward that a visit starts, or another thread, has its own."""


@contextmanager
def visiting(
    model: nn.Module, visits: Sequence[tuple[Tap, Visit]], *, num_steps: int = 1
) -> Iterator[Visits]:
    """Let each visit see its tap in the one forward inside the ``with``; visits of one tap run as listed.

    Only the hooks made here are removed at the end, whatever happens in between. The tensor is the
    module's first argument or its ``hidden_states``, or the first tensor of what it returns.

    Args:
        model: what runs.
        visits: where, and what is done there.
        num_steps: how many time steps the forward has, for the taps with ``per_step``.

    Raises:
        ModelError: the model has no such module.
    """
    counts = Visits(dict.fromkeys((tap for tap, _ in visits), 0), num_steps)
    by_tap: dict[Tap, list[Visit]] = {}
    for tap, visit in visits:
        by_tap.setdefault(tap, []).append(visit)
    handles = []
    token = _CURRENT.set(counts)
    try:
        for tap, listed in by_tap.items():
            handles.append(_attach(_module(model, tap), tap, listed, counts))
        yield counts
    finally:
        _CURRENT.reset(token)
        for handle in handles:
            handle.remove()


def _module(model: nn.Module, tap: Tap) -> nn.Module:
    try:
        return model.get_submodule(tap.module)
    except AttributeError:
        raise ModelError(
            f"the model has no module {tap.module!r}; print the model to see its paths"
        ) from None


def _attach(module: nn.Module, tap: Tap, visits: list[Visit], counts: Visits) -> Any:
    def see(tensor: Tensor) -> Tensor:
        call = counts.num_calls[tap]
        counts.num_calls[tap] += 1
        shown = now = tensor if tap.scale == 1.0 else tensor * tap.scale
        for visit in visits:
            replaced = visit(now, call)
            now = now if replaced is None else replaced
        if now is shown:
            return tensor
        if tap.scale == 1.0:
            return now
        # Numbers that no visit changed stay as they were to the last bit, and gradients pass at them too.
        return torch.where(now == shown, tensor + (now - shown) / tap.scale, now / tap.scale)

    def on_input(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> tuple[object, Any]:
        if _CURRENT.get() is not counts:
            return args, kwargs
        if args and isinstance(args[0], Tensor):
            return (see(args[0]), *args[1:]), kwargs
        if (name := hidden_keyword(kwargs)) is not None:
            return args, {**kwargs, name: see(kwargs[name])}
        counts.without_tensor.add(tap)
        return args, kwargs

    def on_output(_: nn.Module, __: tuple[object, ...], output: object) -> object:
        if _CURRENT.get() is not counts:
            return output
        if isinstance(output, Tensor):
            return see(output)
        if type(output) is tuple and output and isinstance(output[0], Tensor):
            return (see(output[0]), *output[1:])
        counts.without_tensor.add(tap)
        return output

    if tap.side == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)
