"""The packed features of a decision, which its sealed id and its rewards carry.

Of a bandit with features:

    8   fingerprint of the declared features (`policies.contextual.features.fingerprint`)
    1   columns of the row
    3   for each entry beyond the constant that is not 0: its column, and the entry in steps of 1 / GRID

Of a route with segments, in a length that no row has:

    1   "S"
    6   for each feature: the id of the request's segment (`policies.contextual.features.SegmentFeature`)

Of a request with covariates, in another such length:

    1   "C"
    1   number of covariates
    6   for each: its id (`policies.contextual.features.Covariate`), and its value in steps of 1 / GRID
    6   for each feature of segments, as above

A reward carries all of it, so that no look-up is needed and later edits of the declaration do not matter.
`gateway/state/redis/lua/shared/linear.lua` reads the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from policies.contextual.features import COVARIATE_BYTES, GRID, SEGMENT_BYTES

_HEAD: Final = struct.Struct(">8sB")
_ENTRY: Final = struct.Struct(">Bh")
_SEGMENTS: Final = b"S"
_COVARIATES: Final = b"C"
_COVARIATE: Final = struct.Struct(f">{COVARIATE_BYTES}sh")


class Context(NamedTuple):
    """The features of a decision."""

    fingerprint: str
    """Fingerprint of the declaration, sixteen hexadecimal digits."""
    width: int
    """Number of columns, d."""
    entries: tuple[tuple[int, float], ...]
    """(column, value) of the entries that are not 0, beginning with the constant 1 in column 0."""


def pack(fingerprint: bytes, row: Sequence[float]) -> bytes:
    """Pack a row of d multiples of 1 / GRID in [-1, 1], the first of them 1."""
    entries = (_ENTRY.pack(k, round(x * GRID)) for k, x in enumerate(row) if k and x)
    return _HEAD.pack(fingerprint, len(row)) + b"".join(entries)


def unpack(data: bytes) -> Context:
    """Unpack a row. Raises ValueError for bytes that `pack` does not make."""
    if len(data) < _HEAD.size or (len(data) - _HEAD.size) % _ENTRY.size:
        raise ValueError(f"{len(data)} bytes are not the features of a decision")
    fingerprint, width = _HEAD.unpack_from(data)
    entries = tuple((k, steps / GRID) for k, steps in _ENTRY.iter_unpack(data[_HEAD.size :]))
    if any(not 0 < k < width for k, _ in entries):
        raise ValueError(f"an entry lies outside the {width} columns")
    return Context(fingerprint.hex(), width, ((0, 1.0), *entries))


def pack_values(segments: Sequence[bytes], covariates: Sequence[tuple[bytes, float]] = ()) -> bytes:
    """Pack the ids of the segments that a request is in, and the covariates that it has: id, and value in [-1, 1]."""
    packed = b"".join(_COVARIATE.pack(name, round(x * GRID)) for name, x in covariates)
    return whole(_SEGMENTS + b"".join(segments) if segments else b"", packed)


def whole(others: bytes, covariates: bytes) -> bytes:
    """Put together what `parted` separates."""
    if not covariates:
        return others
    number = bytes([len(covariates) // _COVARIATE.size])
    return _COVARIATES + number + covariates + others.removeprefix(_SEGMENTS)


def parted(context: bytes) -> tuple[bytes, bytes]:
    """Return packed features without covariates, and the packed covariates."""
    if not context.startswith(_COVARIATES) or len(context) % _COVARIATE.size != 2 or not context[1]:
        return context, b""
    end = 2 + context[1] * _COVARIATE.size
    if end > len(context):
        return context, b""
    segments = context[end:]
    return _SEGMENTS + segments if segments else b"", context[2:end]


def segments_of(context: str) -> list[str]:
    """Return the ids of the segments of a decision, from its packed features; all in hexadecimal."""
    if not context or has_row(context):
        return []
    found, digits = parted(bytes.fromhex(context))[0].hex(), 2 * SEGMENT_BYTES
    return [found[at : at + digits] for at in range(2, len(found), digits)]


def covariates_of(context: str) -> list[tuple[str, int]]:
    """Return the covariates of a decision, from its packed features in hexadecimal: id, and steps of 1 / GRID."""
    if not context.startswith(_COVARIATES.hex()):
        return []
    return [(name.hex(), x) for name, x in _COVARIATE.iter_unpack(parted(bytes.fromhex(context))[1])]


def has_row(context: str) -> bool:
    """Return whether packed features, in hexadecimal, are the row of a bandit."""
    return len(context) // 2 % _ENTRY.size == 0 and context != ""
