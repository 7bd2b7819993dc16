"""Reading several studies, of which one may be damaged, or written by another version."""

__all__ = ["LeaveOut", "read_each"]

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from workers.errors import OutOfTimeError, StoreError, SwapyardError
from workers.limits import is_our_limit

_T = TypeVar("_T")

LeaveOut = Callable[[str], None]
"""Takes the line that says which study is left out, and why."""


def read_each(
    folders: Iterable[Path], read: Callable[[Path], _T], leave_out: LeaveOut | None
) -> Iterator[tuple[Path, _T]]:
    """Each folder with what `read` finds there; a study that cannot be read goes to `leave_out`.

    Raises:
        SwapyardError: a study cannot be read, and `leave_out` is None; or the time for it is over.
    """
    for folder in folders:
        try:
            yield folder, _read(folder, read)
        except OutOfTimeError:
            raise
        except SwapyardError as error:
            if leave_out is None or is_our_limit(error):
                raise
            leave_out(f"the study {folder.name} is left out: {error}")


def _read(folder: Path, read: Callable[[Path], _T]) -> _T:
    """`read` of `folder`; what only a table of another form can cause becomes an error that says so."""
    try:
        return read(folder)
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(
            f"the study in {folder} is damaged or of another version of swapyard, and cannot be read"
            f" ({type(error).__name__}: {error}); use the version that wrote it"
        ) from error
