"""Weights that a checkpoint lacks, drawn from a seed: the same ones in every process and on every machine.

How a tensor begins (a normal draw of some width, ones, zeros in one row) is up to the model's class: the
library's steps are watched while it loads, and then done again on a tensor in float32, with numbers drawn
from the seed and the tensor's name. So neither the order in which a release of the library visits modules,
nor what else is missing, nor threads, nor the dtype of the lane change what is drawn.
"""

__all__ = ["Steps", "draw"]

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from workers.errors import ModelError
from workers.libraries.torch import DispatchMode

_CHUNK = 1 << 20
"""Numbers that are drawn at once, in float64."""


class Steps(DispatchMode):  # type: ignore[misc]
    """Every operation in place on a tensor in memory, in order, while this is the context.

    The tensors are kept, so that no later one takes the memory of one that was let go.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[int, list[tuple[Any, Tensor, tuple[Any, ...], Mapping[str, Any]]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do the operation; raises what it raises."""
        given = kwargs or {}
        first = args[0] if args else None
        is_in_place = func.__name__.partition(".")[0].endswith("_")
        if is_in_place and isinstance(first, Tensor) and not first.is_meta:
            step = (func, first, args[1:], given)
            self._steps.setdefault(first.untyped_storage().data_ptr(), []).append(step)
        return func(*args, **given)

    def again(self, like: Tensor, generator: Generator) -> Tensor | None:
        """What the steps on `like` make of a new tensor of its shape, in float32, with draws of `generator`.

        None where there was none: nobody gave the tensor a value.
        """
        steps = self._steps.get(like.untyped_storage().data_ptr(), ())
        if not steps:
            return None
        made = torch.zeros(like.shape, dtype=torch.float32)
        start = like.storage_offset()
        for func, seen, args, given in steps:
            part = made.as_strided(seen.shape, seen.stride(), seen.storage_offset() - start)
            _step(func, part, args, given, generator)
        return made


@torch.no_grad()
def draw(module: nn.Module, names: Iterable[str], steps: Steps, seed: int) -> None:
    """Give the parameters and buffers `names` of `module`, which lie on the CPU, their values from `seed`.

    Tensors that share their numbers are one, drawn under the first of their names.

    Raises:
        ModelError: the model's class leaves one of them without a value.
    """
    known: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    known.update(module.named_parameters(remove_duplicate=False))
    done: set[int] = set()
    for name in sorted(names):
        tensor = known[name]
        if tensor.data_ptr() in done:
            continue
        done.add(tensor.data_ptr())
        made = steps.again(tensor, _generator(seed, name))
        if made is None:
            raise ModelError(
                f"{name} is missing, and {type(module).__name__} does not say how it begins: it cannot be"
                " initialised; give a checkpoint that has it"
            )
        tensor.copy_(made)


def _generator(seed: int, name: str) -> Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _step(
    func: Any, part: Tensor, args: tuple[Any, ...], given: Mapping[str, Any], source: Generator
) -> None:
    """Do one step on `part`; what is drawn comes from `source`."""
    options = dict(given)
    if func is torch.ops.aten.normal_.default:
        mean, std = _two(args, options, "mean", "std")
        _fill(part, lambda numbers: numbers.normal_(mean, std, generator=source))
    elif func is torch.ops.aten.uniform_.default:
        low, high = _two(args, options, "from", "to")
        _fill(part, lambda numbers: numbers.uniform_(low, high, generator=source))
    else:
        if torch.Tag.nondeterministic_seeded in func.tags:
            options["generator"] = source
        func(part, *args, **options)


def _two(args: Sequence[Any], given: Mapping[str, Any], first: str, second: str) -> tuple[float, float]:
    """The two numbers of a draw, which are 0 and 1 where they are not said."""
    low, high = (*args, *(0.0, 1.0)[len(args) :])[:2]
    return float(given.get(first, low)), float(given.get(second, high))


def _fill(part: Tensor, drawn: Any) -> None:
    """Fill `part` with numbers drawn in float64: in float32 a draw hangs on the processor's vector
    instructions in its last digit, which rounding hides here."""
    numbers = torch.empty(part.numel(), dtype=torch.float32)
    for chunk in torch.split(numbers, _CHUNK):
        chunk.copy_(drawn(torch.empty(chunk.shape, dtype=torch.float64)))
    part.copy_(numbers.view(part.shape))
