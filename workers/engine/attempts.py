"""Work that may fail: tried by halves, so that a failure is narrowed down to one item, and logged."""

__all__ = ["FailureLog", "attempt", "error_json", "tried"]

import json
import logging
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from workers.libraries.torch import breaks_device, is_out_of_memory

_T = TypeVar("_T")

_MOST_TEXT = 2000
_MOST_TOLD = 20
_TRACE = "_swapyard_trace"
"""Attribute in which an exception keeps where it came from once its frames are let go."""

_logger = logging.getLogger("swapyard.engine")


def attempt(work: Callable[[], None]) -> Exception | None:
    """Do `work`; return the exception that it raised, or None.

    What breaks the accelerator breaks every later forward too: it is raised, and blamed on no job. The
    exception comes back without its frames, which would keep every tensor of the failed forward in memory
    while a smaller one is tried; `FailureLog` still knows them by name.
    """
    try:
        work()
    except Exception as error:
        if breaks_device(error):
            raise
        # Into the dictionary itself: an exception may refuse to be changed.
        error.__dict__[_TRACE] = traceback.TracebackException.from_exception(error, lookup_lines=False)
        return _without_frames(error)
    return None


def tried(
    work: Callable[[Sequence[_T]], None],
    items: Sequence[_T],
    give_up: Callable[[_T, Exception], None],
    shrink: Callable[[int], None] = lambda _: None,
) -> bool:
    """Do `work` for all; where it fails, for halves, so that one bad item spoils no other.

    Args:
        work: what is done.
        items: of what.
        give_up: told of an item that fails alone, and why.
        shrink: told how many items did not fit into memory.

    Returns:
        Whether all went well at once.
    """
    error = attempt(partial(work, items))
    if error is None:
        return True
    if is_out_of_memory(error):
        shrink(len(items))
    if len(items) == 1:
        give_up(items[0], error)
        return False
    half = len(items) // 2
    tried(work, items[:half], give_up, shrink)
    tried(work, items[half:], give_up, shrink)
    return False


class FailureLog:
    """Tells the log of a batch's failures: each kind once, with its traceback, and not without end."""

    def __init__(self) -> None:
        self._told: set[tuple[type[Exception], str]] = set()

    def tell(self, cell: int, pair: int, error: Exception) -> None:
        """The job of `cell` and `pair`, by their numbers, failed of `error`."""
        if not _logger.isEnabledFor(logging.INFO) or len(self._told) > _MOST_TOLD:
            return
        kind = (type(error), str(error))
        if kind in self._told:
            return
        self._told.add(kind)
        if len(self._told) > _MOST_TOLD:
            _logger.info("more kinds of failures in this batch are not shown")
            return
        _logger.info("cell %d on pair %d failed\n%s", cell, pair, _trace_text(error))


def error_json(type_name: str, message: str) -> str:
    """Error of a failed job's row, as JSON text."""
    return json.dumps({"type": type_name, "message": message[:_MOST_TEXT]}, ensure_ascii=False)


def _without_frames(error: Exception) -> Exception:
    """`error`, itself and what it came from without the frames in which they were raised."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        found.with_traceback(None)
        found = found.__cause__ or found.__context__
    return error


def _trace_text(error: Exception) -> str:
    trace = getattr(error, _TRACE, None) or traceback.TracebackException.from_exception(error)
    return "".join(trace.format()).rstrip()
