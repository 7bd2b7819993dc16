"""Names of torch that may move: texts of its errors, saved-tensor hooks, defaults of its maps."""

__all__ = [
    "PLACES",
    "breaks_device",
    "is_of_machine",
    "is_out_of_memory",
]

import torch

from workers.libraries import Place

_DEVICE_TEXTS = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "HIP error")
_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "CUDA out of memory")


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


PLACES = (
    Place(
        library="torch",
        name="text of an out-of-memory error on a CPU",
        used_for="trying a smaller batch instead of failing jobs",
        seen_with="2.13.0",
        without="jobs that ran out of memory fail instead of being run in smaller batches",
        marks=_MEMORY_TEXTS,
        probe=_probe_memory,
    ),
    Place(
        library="torch",
        name="AcceleratorError, or the text of a device error",
        used_for="ending a worker whose device is broken, instead of blaming its jobs",
        seen_with="2.13.0",
        without="device errors are recognised by their text",
        marks=(*_DEVICE_TEXTS, "AcceleratorError"),
        probe=_probe_device,
    ),
)
