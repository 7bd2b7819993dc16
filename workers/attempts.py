"""Trying work that may fail, so that a failure can be narrowed down."""

__all__ = ["attempt", "error_json", "is_out_of_memory"]

import json
from collections.abc import Callable

import torch

_MOST_TEXT = 2000


def attempt(work: Callable[[], None]) -> Exception | None:
    """Do `work`; the exception that it raised, or None.

    What breaks the accelerator breaks every later forward too: it is raised, and blamed on no job. The
    exception comes back without its traceback, which would keep every tensor of the failed forward in
    memory while a smaller one is tried.
    """
    try:
        work()
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        return error.with_traceback(None)
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may succeed where `error` was raised."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def error_json(type_name: str, message: str) -> str:
    """How a failed job's row says why."""
    return json.dumps({"type": type_name, "message": message[:_MOST_TEXT]}, ensure_ascii=False)
