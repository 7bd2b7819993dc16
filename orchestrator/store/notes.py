"""Notes in files of rows, by which a log that was lost can be made again from the files alone.

A note lies between the rows and the footer of the Parquet file, where no reader looks: compressed JSON, its
SHA-256, its length, and the word ``SWAPYARD``. It holds all that the commit says of the file but its own size
and hash, and the SHA-256 of all the rest of the file: any flipped bit shows. Files of earlier versions
have none.
"""

__all__ = ["UNWRITTEN", "ExaminedFile", "FileNote", "Tail", "examined", "read_tail", "with_note"]

import hashlib
import json
import os
import zlib
from dataclasses import replace
from typing import Annotated, BinaryIO, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.manifest import Digest, Manifest, MergedFile, Nonce, WrittenBytes, strict
from orchestrator.store.storage import LocalStorage, Storage, explained
from workers.digests import digest_of

UNWRITTEN: WrittenBytes = {"size_bytes": 1, "sha256": "0" * 64}
"""Stands in a manifest for what is known once the file is written."""
_MAGIC = b"PAR1"
_END_BYTES = 8
"""A footer's length, and Parquet's magic bytes."""
_WORD = b"SWAPYARD"
_DIGEST_BYTES = 32
_TRAILER_BYTES = _DIGEST_BYTES + 8 + len(_WORD)


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class FileNote:
    """Note within a file of rows: all that its commit says of it, and of which study and plan it is."""

    study: Nonce
    """The nonce of the study's first commit."""
    seq: Annotated[int, Field(ge=0)]
    """Number of commits, at least, when the work was handed out."""
    rest: Digest
    """The SHA-256 of the file without its note."""
    plan: Nonce | None = None
    """The plan whose work it is, or, of a merged file, the one that the study followed then."""
    part: Manifest | None = None
    """Of a part, without its size and hash."""
    merged: MergedFile | None = None
    """Of a merged file, without its size and hash."""
    parts: tuple[Manifest, ...] = ()
    """The parts that a merged file stands for, each as it was committed."""


class ExaminedFile(NamedTuple):
    """File of rows, examined: whether it is whole, and what its note says."""

    status: Literal["whole", "silent", "torn", "damaged"]
    """``silent`` where an earlier version wrote it: it ends as it should and has no note. ``torn`` where its
    end is missing, ``damaged`` where it has another content than its note says."""
    note: FileNote | None = None
    """As it was written, with the file's size and hash in place; of a whole file."""

    @property
    def parts(self) -> tuple[Manifest, ...]:
        """The parts whose rows it holds, as far as it says so."""
        if self.note is None:
            return ()
        return self.note.parts if self.note.part is None else (self.note.part,)


class Tail(NamedTuple):
    """Content of a file's end, which is read at once."""

    is_whole: bool
    """Whether the file ends as Parquet does: else its writer was killed."""
    study: str = ""
    seq: int = 0


def with_note(data: bytes, note: FileNote) -> bytes:
    """The Parquet file `data` with a note, whose ``rest`` is set."""
    at = _footer_at(data)
    if at is None:
        raise ValueError("only a Parquet file has room for a note")
    said = replace(note, rest=digest_of(data))
    payload = zlib.compress(_NOTE.dump_json(said, by_alias=True, exclude_defaults=True), 1)
    trailer = hashlib.sha256(payload).digest() + len(payload).to_bytes(8, "little") + _WORD
    return b"".join((data[:at], payload, trailer, data[at:]))


def examined(data: bytes) -> ExaminedFile:
    """Examine the bytes of a file; every bit is looked at, but of files without a note."""
    at = _footer_at(data)
    if at is None:
        return ExaminedFile("torn")
    payload = _payload(data[max(0, at - _TRAILER_BYTES) : at])
    if payload is None:
        return ExaminedFile("silent")
    digest, length = payload
    begin = at - _TRAILER_BYTES - length
    content = data[max(0, begin) : at - _TRAILER_BYTES]
    if begin < 0 or hashlib.sha256(content).digest() != digest:
        return ExaminedFile("damaged")
    try:
        note = _NOTE.validate_json(zlib.decompress(content))
    except (zlib.error, ValidationError):
        # Whole, and of a newer version: nothing that this one may touch.
        return ExaminedFile("silent")
    rest = hashlib.sha256(data[:begin])
    rest.update(data[at:])
    if rest.hexdigest() != note.rest:
        return ExaminedFile("damaged")
    own: WrittenBytes = {"size_bytes": len(data), "sha256": digest_of(data)}
    return ExaminedFile(
        "whole",
        replace(
            note,
            part=None if note.part is None else replace(note.part, **own),
            merged=None if note.merged is None else replace(note.merged, **own),
        ),
    )


def read_tail(storage: Storage, name: str) -> Tail:
    """Read the end of a file; one that is gone is not whole.

    Raises:
        StoreError: it cannot be read.
    """
    if not isinstance(storage, LocalStorage):
        return _tail_of(storage.read(name) or b"")
    path = storage.locate(name)
    with explained(path):
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                data = _last(file, size, _END_BYTES)
                for more in (_needed(data), _TRAILER_BYTES):
                    data = _last(file, size, len(data) + more)
                if (payload := _payload_before(data)) is not None:
                    data = _last(file, size, len(data) + payload)
        except FileNotFoundError:
            return Tail(False)
    return _tail_of(data)


def _last(file: BinaryIO, size: int, num: int) -> bytes:
    file.seek(max(0, size - num))
    return file.read()


def _needed(data: bytes) -> int:
    """Length of the footer, in bytes before the last eight."""
    return int.from_bytes(data[-8:-4], "little") if data[-4:] == _MAGIC else 0


def _payload_before(data: bytes) -> int | None:
    at = _footer_at(data)
    found = None if at is None else _payload(data[max(0, at - _TRAILER_BYTES) : at])
    return None if found is None else found[1]


def _tail_of(data: bytes) -> Tail:
    at = _footer_at(data)
    if at is None:
        return Tail(False)
    found = _payload(data[max(0, at - _TRAILER_BYTES) : at])
    if found is None:
        return Tail(True)
    try:
        said = json.loads(zlib.decompress(data[at - _TRAILER_BYTES - found[1] : at - _TRAILER_BYTES]))
        return Tail(True, str(said["study"]), int(said["seq"]))
    except (zlib.error, ValueError, KeyError, TypeError):
        return Tail(True)


def _footer_at(data: bytes) -> int | None:
    """Begin of the footer; None where the bytes do not end as a Parquet file does."""
    at = len(data) - _END_BYTES - _needed(data)
    return at if data[-4:] == _MAGIC and at >= 0 and _needed(data) > 0 else None


def _payload(trailer: bytes) -> tuple[bytes, int] | None:
    """The digest and the length of a note's payload; None where there is no note."""
    if len(trailer) != _TRAILER_BYTES or not trailer.endswith(_WORD):
        return None
    return trailer[:_DIGEST_BYTES], int.from_bytes(trailer[_DIGEST_BYTES : _DIGEST_BYTES + 8], "little")


_NOTE = TypeAdapter(FileNote)
