"""One case of the corpus."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    name: str
    sent: bytes
    expected: str
    gateway: str = ""


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")
