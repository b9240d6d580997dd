"""Stamps: the part of a decision id that is signed when an allocation is published, for proxies that only copy text.

An id made from a stamp reads ``STAMP.MILLISECONDS.UUID.SERVED``. Variant, epoch and propensity cannot be forged. A
holder of an id can invent another request of the same epoch, unless the proxy seals requests:
``STAMP.MILLISECONDS.UUID~SEAL.SERVED``. The stamp says so, and the key of the seal follows from it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FORMAT: Final = 0x30
_SEALED: Final = 0x01
_FACTS: Final = struct.Struct(">BQddBB")
"""Format, epoch, propensity, time of publication, lengths of the two names in bytes."""
_REQUEST: Final = re.compile(
    r"(\d{1,15})\.([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-[0-9a-f]{12}(?:~([0-9a-f]{32}))?"
    r"(?:\.([A-Za-z0-9._-]{1,64}))?"
)
_END: Final = re.compile(r"(?:~[0-9a-f]{32})?(?:\.([A-Za-z0-9._-]{1,64}))?")
"""What may follow the milliseconds and the UUID."""
_POINTS: Final = (13, 22, 27, 32, 37)
"""Places of the dot and the dashes in front of that."""
_POINT_LETTERS: Final = np.array([ord(letter) for letter in ".----"], np.uint8)
_UUID: Final = [place for place in range(14, 50) if place not in _POINTS]
_DIGITS: Final = bytes("0123456789abcdef".find(chr(letter)) % 17 for letter in range(256))
"""By character: its hexadecimal digit, 16 for none."""
_new: Final = tuple.__new__
"""Makes a named tuple at half the cost of its own class."""
MAX_EARLY_S: Final = 60.0
"""Difference between the clocks of a proxy and of the gateway."""


class Stamp(NamedTuple):
    """What all decisions of one variant in one epoch share."""

    route: str
    assigned: str
    epoch: int
    propensity: float
    published: float
    """Seconds since the epoch."""
    sealed: bool = False
    """Whether each request has a seal of its own."""

    def packed(self) -> bytes:
        """The bytes to sign."""
        names = self.route.encode(), self.assigned.encode()
        form = _FORMAT | self.sealed
        facts = _FACTS.pack(form, self.epoch, self.propensity, self.published, *map(len, names))
        return facts + b"".join(names)


class StampedRequest(NamedTuple):
    """The part of an id that the proxy adds."""

    decision: bytes
    """16 bytes, ordered by time as the gateway's own: 48 bits of milliseconds, 80 of the UUID."""
    decided: float
    """Seconds since the epoch."""
    served: str
    """"" if no variant served the response."""
    seal: str
    """"" if it has none."""


def parsed_stamp(packed: bytes) -> Stamp | None:
    """The stamp that `Stamp.packed` made; None for bytes of another kind. Padding may follow."""
    if len(packed) < _FACTS.size or packed[0] & ~_SEALED != _FORMAT:
        return None
    form, epoch, propensity, published, *lengths = _FACTS.unpack_from(packed)
    middle = _FACTS.size + lengths[0]
    route, assigned = packed[_FACTS.size : middle], packed[middle : middle + lengths[1]]
    return Stamp(route.decode(), assigned.decode(), epoch, propensity, published, bool(form & _SEALED))


def parsed_request(text: str, published: float) -> StampedRequest | None:
    """The rest of an id behind the stamp's dot; None if a proxy did not write it, or before ``published``."""
    found = _REQUEST.fullmatch(text)
    if found is None:
        return None
    time, first, second, third, fourth, seal, served = found.groups("")
    milliseconds = int(time)
    decided = milliseconds / 1000.0
    if milliseconds >= 1 << 48 or decided < published - MAX_EARLY_S:
        return None
    # 48 bits of time and the first 80 of the UUID.
    decision = milliseconds.to_bytes(6, "big") + bytes.fromhex(first + second + third + fourth)
    return _new(StampedRequest, (decision, decided, "" if served == "-" else served, seal))


class StampedRequests(NamedTuple):
    """`StampedRequest` by column, without the seals."""

    good: NDArray[np.bool_]
    """False for a text that no proxy wrote; the other columns then hold nothing of meaning."""
    decisions: list[bytes]
    decided: NDArray[np.float64]
    served: list[str]


def parsed_requests(texts: Sequence[str]) -> StampedRequests:
    """The rests of at least one id behind the stamp's dot: as `parsed_request` for each, at a tenth of its cost.

    Times of publication are not compared, and times before 2001 refused.
    """
    rows, joined = len(texts), "".join(texts)
    whole = max(map(len, texts)) == min(map(len, texts)) == 50
    if not (whole and joined.isascii()):
        joined = "".join(text[:50].ljust(50) if text.isascii() else " " * 50 for text in texts)
    data = joined.encode()
    letters = np.frombuffer(data, np.uint8).reshape(rows, 50)
    digits = np.frombuffer(data.translate(_DIGITS), np.uint8).reshape(rows, 50)
    time = digits[:, :13].astype(np.int64)
    uuid = digits[:, _UUID]
    good = (time < 10).all(1) & (uuid < 16).all(1) & (letters[:, _POINTS] == _POINT_LETTERS).all(1)
    milliseconds: Any = time @ 10 ** np.arange(12, -1, -1)
    packed = np.empty((rows, 16), np.uint8)
    packed[:, :6] = milliseconds.astype(">i8").view(np.uint8).reshape(rows, 8)[:, 2:]
    packed[:, 6:] = uuid[:, 0:20:2] << 4 | uuid[:, 1:20:2]
    decisions: list[bytes] = packed.view("V16")[:, 0].tolist()
    if whole:
        return StampedRequests(good, decisions, milliseconds / 1000.0, [""] * rows)
    ends = [text[50:] for text in texts]
    served = {end: _served_of(end) for end in set(ends)}
    if None in served.values():
        good &= np.array([served[end] is not None for end in ends])
    return StampedRequests(good, decisions, milliseconds / 1000.0, [served[end] or "" for end in ends])


def _served_of(end: str) -> str | None:
    """The variant; None if no proxy wrote this."""
    found = _END.fullmatch(end)
    if found is None:
        return None
    return "" if found[1] in (None, "-") else found[1]
