"""Vocabularies: how they write the bytes of a token that is no whole text, what they lack, and how the
library fails."""

__all__ = ["PLACES", "LibraryFailedError", "calling_library", "raw_bytes", "unknown_id"]

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workers.libraries import LibraryPlace

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
_BYTES = {chr(b): b for b in _VISIBLE} | {chr(0x100 + i): b for i, b in enumerate(_HIDDEN)}
"""Byte-level vocabularies write each byte as one visible character: itself, or the next free one from 256."""


def raw_bytes(raw: str) -> bytes | None:
    """The bytes of a token as a vocabulary writes it, ``<0xE2>`` or byte by byte; None of any other."""
    if found := _BYTE.fullmatch(raw):
        return bytes.fromhex(found[1])
    if any(character not in _BYTES for character in raw):
        return None
    return bytes(_BYTES[character] for character in raw)


class LibraryFailedError(Exception):
    """Failure of the library to do what it was asked; the text says why, in its own words."""


@contextmanager
def calling_library() -> Iterator[None]:
    """Whatever the library raises, as one kind: it raises plain `Exception` for every kind of damage, and for
    some a panic, which is no `Exception`.

    Raises:
        LibraryFailedError: the library failed.
    """
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise LibraryFailedError(" ".join(str(error).split())[:300]) from error


def unknown_id(backend: Any) -> int | None:
    """The token that stands for whatever a tokeniser's vocabulary lacks; None where there is none."""
    model = backend.model
    word = getattr(model, "unk_token", None)
    if isinstance(word, str):
        found = backend.token_to_id(word)
        return found if isinstance(found, int) else None
    if type(model).__name__ != "Unigram":
        return None
    # This kind says it by number, and shows it only in what it writes.
    said = json.loads(backend.to_str())["model"].get("unk_id")
    return said if isinstance(said, int) else None


def _probe_unknown() -> str | None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE, Unigram, WordLevel, WordPiece

    vocabulary = {"a": 0, "?": 1}
    models = (
        WordLevel(vocabulary, unk_token="?"),
        WordPiece(vocabulary, unk_token="?"),
        BPE(vocabulary, [], unk_token="?"),
        Unigram([("a", 0.0), ("?", -1.0)], unk_id=1, byte_fallback=False),
    )
    lost = [type(model).__name__ for model in models if unknown_id(Tokenizer(model)) != 1]
    return f"words that become <unk> are not told of {', '.join(lost)}" if lost else None


def _probe_panic() -> str | None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    backend = Tokenizer(WordLevel({"a": 0}, unk_token="?"))
    try:
        with calling_library():
            backend.encode("b")
    except LibraryFailedError:
        return None
    return "a word that a vocabulary lacks, with no token for it, is no error"


def _probe_bytes() -> str | None:
    from tokenizers.decoders import ByteFallback
    from tokenizers.pre_tokenizers import ByteLevel

    lost: list[str] = []
    if set(ByteLevel.alphabet()) != set(_BYTES):
        lost.append("byte-level vocabularies")
    if ByteFallback().decode(["<0x41>"]) != "A":
        lost.append("vocabularies with <0x41>")
    return f"tokens that are no whole text are shown as they are written: {', '.join(lost)}" if lost else None


PLACES = (
    LibraryPlace(
        library="tokenizers",
        name="the alphabet of byte-level vocabularies, and <0xE2> for a byte",
        used_for="showing a token that is no whole text by its bytes",
        seen_with="0.23.1",
        without="such tokens are shown as the vocabulary writes them",
        marks=("<0x", "0xA1, 0xAD"),
        probe=_probe_bytes,
    ),
    LibraryPlace(
        library="tokenizers",
        name="model.unk_token, and unk_id in a Unigram tokeniser's JSON",
        used_for="refusing prompts and labels whose words become <unk>",
        seen_with="0.23.1",
        without="such words are run as the unknown token, and nothing is said",
        marks=("unk_token", "unk_id"),
        probe=_probe_unknown,
    ),
    LibraryPlace(
        library="tokenizers",
        name="errors: plain Exception, and PanicException beside it",
        used_for="naming the file or the text that the library cannot take",
        seen_with="0.23.1",
        without="some damaged tokenizer.json end in a traceback",
        marks=("PanicException",),
        probe=_probe_panic,
    ),
)
