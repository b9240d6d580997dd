"""API keys: 256 random bits in a form that people and secret scanners recognise.

``tk_``, 43 characters for the bits and 6 for the CRC-32 of everything before, both in base 62. The check digits let
a scanner verify a leaked key offline. Only the SHA-256 hash is stored: 256 random bits cannot be guessed, so a slow
hash would add nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from typing import Final

PREFIX: Final = "tk_"
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_secret(bits: bytes | None = None) -> str:
    """A new key from ``bits`` (32 bytes), or from the operating system's random source if absent.

    Raises:
        ValueError: ``bits`` has another length.
    """
    bits = secrets.token_bytes(32) if bits is None else bits
    if len(bits) != 32:
        raise ValueError("a key is made of 32 bytes")
    body = PREFIX + _base62(int.from_bytes(bits, "big"), 43)
    return body + _checksum(body)


def key_hash(secret: str) -> str:
    """The value of ``hash`` in the configuration."""
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
