"""Digests by which files and texts are known: SHA-256, in hexadecimal."""

__all__ = ["digest_of"]

import hashlib


def digest_of(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
