"""The encoded features of a decision, as they travel in its sealed id and with its rewards.

    8   fingerprint of the declared features (`policies.contextual.features.fingerprint`)
    1   columns of the row
    3   for each entry beyond the constant that is not 0: its column, and the entry in steps of 1 / GRID

So a reward brings its whole row along, whatever has been declared since; nothing needs to be looked up.
`gateway/state/redis/lua/shared/linear.lua` reads the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from policies.contextual.features import GRID

_HEAD: Final = struct.Struct(">8sB")
_ENTRY: Final = struct.Struct(">Bh")


class Context(NamedTuple):
    """What a decision was made from."""

    fingerprint: str
    """Sixteen hexadecimal digits."""
    width: int
    """d, the columns."""
    entries: tuple[tuple[int, float], ...]
    """(column, value) of what is not 0, the constant 1 in column 0 first."""


def pack(fingerprint: bytes, row: Sequence[float]) -> bytes:
    """``row``: d multiples of 1 / GRID in [-1, 1], the first of them 1."""
    entries = (_ENTRY.pack(k, round(x * GRID)) for k, x in enumerate(row) if k and x)
    return _HEAD.pack(fingerprint, len(row)) + b"".join(entries)


def unpack(data: bytes) -> Context:
    """Raises ValueError for what `pack` never makes."""
    if len(data) < _HEAD.size or (len(data) - _HEAD.size) % _ENTRY.size:
        raise ValueError(f"{len(data)} bytes are no features of a decision")
    fingerprint, width = _HEAD.unpack_from(data)
    entries = tuple((k, steps / GRID) for k, steps in _ENTRY.iter_unpack(data[_HEAD.size :]))
    if any(not 0 < k < width for k, _ in entries):
        raise ValueError(f"an entry lies outside the {width} columns")
    return Context(fingerprint.hex(), width, ((0, 1.0), *entries))
