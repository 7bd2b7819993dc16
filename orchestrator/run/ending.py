"""Work that may be left at once when somebody asks to stop: nothing of it is a row, and it is done again."""

__all__ = ["AtOnce", "EndedError", "never"]

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

AtOnce = Callable[[], AbstractContextManager[None]]
"""What such work is done within."""


class EndedError(Exception):
    """It was left before its end, because somebody asked to stop."""


@contextmanager
def never() -> Iterator[None]:
    """Within it work goes on to its end, as where nobody listens."""
    yield
