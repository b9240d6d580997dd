"""Stamps: the part of a decision id that is signed when an allocation is published, for proxies that only copy text.

An id made from a stamp reads ``STAMP.MILLISECONDS.UUID.SERVED``. Variant, epoch and propensity cannot be forged. A
holder of an id can invent another request of the same epoch, unless the proxy seals requests:
``STAMP.MILLISECONDS.UUID~SEAL.SERVED``. The stamp says so, and the key of the seal follows from it.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

_FORMAT: Final = 0x30
_SEALED: Final = 0x01
_FACTS: Final = struct.Struct(">BQddBB")
"""Format, epoch, propensity, time of publication, lengths of the two names in bytes."""
_REQUEST: Final = re.compile(
    r"(\d{1,15})\.([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-[0-9a-f]{12}(?:~([0-9a-f]{32}))?"
    r"(?:\.([A-Za-z0-9._-]{1,64}))?"
)
_new: Final = tuple.__new__
"""Makes a named tuple at half the cost of its own class."""
_MAX_EARLY_S: Final = 60.0
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
    if milliseconds >= 1 << 48 or decided < published - _MAX_EARLY_S:
        return None
    # 48 bits of time and the first 80 of the UUID.
    decision = milliseconds.to_bytes(6, "big") + bytes.fromhex(first + second + third + fourth)
    return _new(StampedRequest, (decision, decided, "" if served == "-" else served, seal))
