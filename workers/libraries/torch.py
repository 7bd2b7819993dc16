"""Names of torch that may move: texts of its errors, how a checkpoint saves tensors, moves between dtypes,
numbers that it draws from a seed. Learned rotations and optimisers have files of their own."""

__all__ = [
    "PLACES",
    "DispatchMode",
    "KeepsDtype",
    "breaks_device",
    "is_checkpointing",
    "is_of_machine",
    "is_out_of_memory",
    "require_streams",
]

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.utils.checkpoint as checkpointing
from torch import Tensor, nn

from workers.errors import RunError
from workers.libraries import LibraryPlace

try:
    from torch.utils._python_dispatch import TorchDispatchMode as _Dispatch
except ImportError:  # Its module is private.
    _Dispatch = None  # type: ignore[assignment, misc]

_DEVICE_TEXTS = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "HIP error")
_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "CUDA out of memory")

# Errors


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed where `error` was raised."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_TEXTS)


def breaks_device(error: BaseException) -> bool:
    """Whether `error` leaves the accelerator unusable, so that every later forward fails too."""
    kind = getattr(torch, "AcceleratorError", None)
    if kind is not None and isinstance(error, kind):
        return True
    return any(text in str(error) for text in _DEVICE_TEXTS) and not is_out_of_memory(error)


def is_of_machine(error: BaseException) -> bool:
    """Whether `error` says something of the machine, and nothing of the work itself."""
    return breaks_device(error) or is_out_of_memory(error)


# Operations on tensors


class _Blind:
    """Sees no operation: whoever has to see them all is refused."""

    def __enter__(self) -> object:
        raise RunError(
            "this torch shows nobody the operations on tensors, without which weights cannot be drawn from a"
            " seed; give a checkpoint that has all weights, or install a torch that does"
        )

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""


DispatchMode: Any = _Blind if _Dispatch is None else _Dispatch
"""Context whose ``__torch_dispatch__`` sees every operation on tensors."""


# Gradient checkpointing


def is_checkpointing() -> bool:
    """Whether this is called inside ``torch.utils.checkpoint`` that keeps gradients, which will run again.

    Such a checkpoint takes over what is saved for backpropagation. Where torch does not say who has taken it
    over, or not by the name that we know, the functions that are being called tell.
    """
    try:
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if hooks is None:
            return False
        if hooks[0].__qualname__.startswith("_checkpoint_hook"):
            return True
    except (AttributeError, TypeError, IndexError):
        pass
    return _is_called_by(checkpointing.__file__)


def _is_called_by(file: str) -> bool:
    """Whether a function of this file is being called."""
    frame = sys._getframe() if hasattr(sys, "_getframe") else None
    while frame is not None:
        if frame.f_code.co_filename == file:
            return True
        frame = frame.f_back
    return False


# Dtypes


class KeepsDtype(nn.Module):
    """Module whose tensors stay float32: a move to another dtype moves the device only."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> object:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)  # type: ignore[no-untyped-call]

    def require_float32(self) -> None:
        """Refuse to go on in another dtype, in case torch moves modules otherwise.

        Raises:
            RunError: one of the tensors is not float32.
        """
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                raise RunError(
                    f"learned coordinates became {tensor.dtype} when their model was moved; make them after "
                    "the move: they are float32 beside any model"
                )


# Numbers from a seed

_NORMAL, _ORDER, _UNIFORM = (1.5410, -0.2934, -2.1788), [4, 0, 7, 3, 2, 5, 1, 6], (0.4963, 0.7682, 0.0885)
"""Of the seed 0, as every version so far draws them; only the first digits are the same on all processors."""
_DIRECTIONS = ((0.535, -0.1699), (-0.7564, 0.3402), (-0.3765, -0.9249))
"""The orthonormal columns that the seed 0 begins with."""


@cache
def _other_stream() -> str | None:
    """Description of what is drawn otherwise from a seed than it used to be; None where all is as it was."""

    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    if torch.randperm(8, generator=fresh()).tolist() != _ORDER:
        return "orders"
    if not torch.allclose(torch.randn(3, generator=fresh()), torch.tensor(_NORMAL), atol=1e-3):
        return "normal numbers"
    if not torch.allclose(torch.empty(3).uniform_(generator=fresh()), torch.tensor(_UNIFORM), atol=1e-3):
        return "uniform numbers"
    start = nn.init.orthogonal_(torch.empty(3, 2), generator=fresh())
    return None if torch.allclose(start, torch.tensor(_DIRECTIONS), atol=1e-3) else "directions"


def require_streams() -> None:
    """Refuse to draw where a seed no longer means the numbers that identities stand for.

    Raises:
        RunError: this torch draws others.
    """
    if (what := _other_stream()) is not None:
        raise RunError(
            f"torch {torch.__version__} draws other {what} from a seed than the versions before it: results "
            "would not be those that their identity names; install an older torch"
        )


# What is tried by `make versions`


def _probe_memory() -> str | None:
    try:
        torch.empty(1 << 55, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        return f"running out of memory on a CPU is not recognised: {str(error).splitlines()[0]}"
    return None


def _probe_device() -> str | None:
    return None if hasattr(torch, "AcceleratorError") else "device errors are told by their text alone"


def _probe_checkpointing() -> str | None:
    seen: list[bool] = []

    def noted(values: Tensor) -> Tensor:
        seen.append(is_checkpointing())
        return values.sin()

    values = torch.ones(2, requires_grad=True)
    noted(values)
    checkpointing.checkpoint(noted, values, use_reentrant=False)
    with torch.autograd.graph.save_on_cpu():
        noted(values)
    if seen != [False, True, False]:
        raise LookupError(f"a checkpoint is not told from other forwards: {seen}")
    graph: object = getattr(torch._C, "_autograd", None)
    has_hooks = hasattr(graph, "_top_saved_tensors_default_hooks")
    return None if has_hooks else "checkpoints are found among the functions that are being called"


def _probe_dtype() -> str | None:
    holder = nn.ModuleList([KeepsDtype()])
    holder[0].register_buffer("kept", torch.ones(1))
    kept: Tensor = holder.to(torch.bfloat16)[0].get_buffer("kept")
    return None if kept.dtype == torch.float32 else "models in another dtype are refused with coordinates"


def _probe_streams() -> str | None:
    require_streams()
    return None


_SEEN = "2.13.0"


def _probe_dispatch() -> str | None:
    class Counting(DispatchMode):  # type: ignore[misc]
        seen = 0

        def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
            Counting.seen += "normal_" in str(func)
            return func(*args, **(kwargs or {}))

    with Counting():
        torch.empty(2).normal_()
    return None if Counting.seen == 1 else "missing weights cannot be drawn from a seed"


PLACES = (
    LibraryPlace(
        library="torch",
        name="TorchDispatchMode, and the names of operations in place",
        used_for="drawing missing weights as the model's class begins them, from a seed",
        seen_with=_SEEN,
        without="a model with `missing_weights: initialise` is refused",
        marks=("TorchDispatchMode", "_python_dispatch"),
        probe=_probe_dispatch,
    ),
    LibraryPlace(
        library="torch",
        name="text of an out-of-memory error on a CPU",
        used_for="trying a smaller batch instead of failing jobs",
        seen_with=_SEEN,
        without="jobs that ran out of memory fail instead of being run in smaller batches",
        marks=_MEMORY_TEXTS,
        probe=_probe_memory,
    ),
    LibraryPlace(
        library="torch",
        name="AcceleratorError, or the text of a device error",
        used_for="ending a worker whose device is broken, instead of blaming its jobs",
        seen_with=_SEEN,
        without="device errors are recognised by their text",
        marks=(*_DEVICE_TEXTS, "AcceleratorError"),
        probe=_probe_device,
    ),
    LibraryPlace(
        library="torch",
        name="_C._autograd._top_saved_tensors_default_hooks, and the name of a checkpoint's hook",
        used_for="refusing changes inside gradient checkpointing, which would run again without them",
        seen_with=_SEEN,
        without="a checkpoint is found among the functions that are being called",
        marks=("_top_saved_tensors_default_hooks", "_checkpoint_hook"),
        probe=_probe_checkpointing,
    ),
    LibraryPlace(
        library="torch",
        name="Module._apply, through which all moves of a module go",
        used_for="learned coordinates that stay float32 beside a model in another dtype",
        seen_with=_SEEN,
        without="coordinates that were moved to another dtype are refused, and the message says what to do",
        marks=("_apply(",),
        probe=_probe_dtype,
    ),
    LibraryPlace(
        library="torch",
        name="numbers that a seeded generator draws on a CPU, and orthogonal_ makes of them",
        used_for="noise, built-in models, rotations, orders of training: identities name the seed alone",
        seen_with=_SEEN,
        without="what draws is refused, and the message says so",
        marks=(),
        probe=_probe_streams,
    ),
)
