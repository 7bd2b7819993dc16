"""How vocabularies write the bytes of a token that is no whole text."""

__all__ = ["PLACES", "raw_bytes"]

import re

from workers.libraries import Place

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
    Place(
        library="tokenizers",
        name="the alphabet of byte-level vocabularies, and <0xE2> for a byte",
        used_for="showing a token that is no whole text by its bytes",
        seen_with="0.23.1",
        without="such tokens are shown as the vocabulary writes them",
        marks=("<0x", "0xA1, 0xAD"),
        probe=_probe_bytes,
    ),
)
