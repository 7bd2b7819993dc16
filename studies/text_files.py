"""Files that people wrote, as text: what is no file, or no UTF-8, is told with its place."""

__all__ = ["check_is_file", "not_utf8", "read_text"]

import stat
from pathlib import Path

from workers.errors import StudyError

_MARKS = {
    b"\xff\xfe\x00\x00": ("UTF-32", "save it as UTF-8"),
    b"\x00\x00\xfe\xff": ("UTF-32", "save it as UTF-8"),
    b"\xff\xfe": ("UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8"),
    b"PAR1": ("Parquet", "call it .parquet"),
    b"ARROW1": ("Arrow's own format", "save it as Parquet"),
    b"PK\x03\x04": ("a ZIP archive, as those of Excel are", "save it as text, in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old file of Excel or Word", "save it as text, in UTF-8"),
    b"\x1f\x8b": ("packed by gzip", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it"),
    b"%PDF": ("PDF", "give the text alone"),
}
"""First bytes of files that are no text in UTF-8: what they are, and what to do."""


def read_text(path: Path, name: str, most_bytes: int) -> str:
    """The text of a file in UTF-8, a byte order mark left out; `name` is what errors call it.

    Raises:
        StudyError: it is no file, is too large, or is no text in UTF-8.
        OSError: it cannot be read.
    """
    check_is_file(path, name)
    if (size := path.stat().st_size) > most_bytes:
        raise StudyError(
            f"{name}:1: the file has {size:,} bytes; allowed: {most_bytes:,}; write many pairs, or long"
            " ones, in a .jsonl file beside it"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(not_utf8(path, name, error)) from None


def check_is_file(path: Path, name: str, *, text: bool = True) -> None:
    """Refuse what is no ordinary file, which might never end, and what begins as no text does.

    Raises:
        StudyError: it is none.
        OSError: it cannot be read.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise StudyError(f"{name}: it cannot be read: this is {kind}; give a file")
    with path.open("rb") as file:
        head = file.read(8)
    for mark, (what, todo) in _MARKS.items() if text else ():
        if head.startswith(mark):
            raise StudyError(f"{name}:1: this is {what}; {todo}")
    if text and b"\x00" in head:
        raise StudyError(f"{name}:1: this is no text in UTF-8: it begins with zero bytes; save it as UTF-8")


def not_utf8(path: Path, name: str, error: UnicodeDecodeError) -> str:
    """The line and the byte of a file that are no UTF-8, and what to do."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                byte = f"byte {found.start + 1} of the line, 0x{line[found.start]:02x}, is no UTF-8"
                return f"{name}:{number}: {byte} ({found.reason}); save the file as UTF-8"
    return f"{name}:1: this is no UTF-8: {error.reason}; save the file as UTF-8"
