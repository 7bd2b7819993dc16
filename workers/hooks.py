"""Looking at, and changing, what modules are given and return while a model runs.

Shapes: B rows, T tokens, W width.
"""

__all__ = ["Tap", "Visit", "Visits", "check_by_token", "visiting"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from workers.errors import ModelError
from workers.sites import Side


@dataclass(frozen=True, slots=True)
class Tap:
    """One tensor of a forward pass: what a module is given, or what it returns."""

    module: str
    """Path of the module from the model."""
    side: Side

    def __str__(self) -> str:
        return f"{self.module}:{self.side}"


Visit = Callable[[Tensor], Tensor | None]
"""Sees the tensor at a tap; what it returns takes the tensor's place, None leaves it."""


@dataclass(slots=True)
class Visits:
    """What became of each tap during the forward."""

    num_calls: dict[Tap, int]
    without_tensor: set[Tap] = field(default_factory=set)

    def faults(self) -> dict[Tap, ModelError]:
        """The taps that did not see a tensor exactly once, each with an error that names its module.

        An error here and not an exception there: what was done at the other taps stays good.
        """
        return {tap: ModelError(text) for tap in self.num_calls if (text := self._fault(tap))}

    def _fault(self, tap: Tap) -> str | None:
        if tap in self.without_tensor:
            return f"there is no tensor at {tap}: name a module that is given, or returns, one first"
        calls = self.num_calls[tap]
        if calls == 0:
            return f"module {tap.module!r} did not run in the forward, so nothing was read or changed there"
        if calls > 1:
            return f"module {tap.module!r} ran {calls} times in one forward: name one that runs once"
        return None


def check_by_token(tensor: Tensor, tap: Tap, shape: Sequence[int]) -> None:
    """Accept a tensor [B, T, W] where `shape` is (B, T).

    Raises:
        ModelError: the tensor has another shape, so that it cannot be read or changed by token.
    """
    if tensor.dim() != 3 or tuple(tensor.shape[:2]) != tuple(shape):
        raise ModelError(
            f"what is at {tap} is {list(tensor.shape)} in a run of {shape[0]} x {shape[1]} tokens: only "
            "(rows, tokens, width) can be read or changed by token"
        )


@contextmanager
def visiting(model: nn.Module, visits: Sequence[tuple[Tap, Visit]]) -> Iterator[Visits]:
    """Let each visit see its tap in the forwards inside the ``with``; visits of one tap run as listed.

    Only the hooks made here are removed at the end, whatever happens in between. The tensor is the
    module's first argument or its ``hidden_states``, or the first tensor of what it returns.

    Raises:
        ModelError: the model has no such module.
    """
    counts = Visits(dict.fromkeys((tap for tap, _ in visits), 0))
    by_tap: dict[Tap, list[Visit]] = {}
    for tap, visit in visits:
        by_tap.setdefault(tap, []).append(visit)
    handles = []
    try:
        for tap, listed in by_tap.items():
            handles.append(_attach(_module(model, tap), tap, listed, counts))
        yield counts
    finally:
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
        counts.num_calls[tap] += 1
        for visit in visits:
            replaced = visit(tensor)
            tensor = tensor if replaced is None else replaced
        return tensor

    def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args and isinstance(args[0], Tensor):
            return (see(args[0]), *args[1:]), kwargs
        if isinstance(kwargs.get("hidden_states"), Tensor):
            return args, {**kwargs, "hidden_states": see(kwargs["hidden_states"])}
        counts.without_tensor.add(tap)
        return args, kwargs

    def on_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return see(output)
        if type(output) is tuple and output and isinstance(output[0], Tensor):
            return (see(output[0]), *output[1:])
        counts.without_tensor.add(tap)
        return output

    if tap.side == "input":
        return module.register_forward_pre_hook(on_input, with_kwargs=True)
    return module.register_forward_hook(on_output)
