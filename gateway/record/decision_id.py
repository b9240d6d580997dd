"""The decision id that clients see: sealed, so that a reward needs no look-up and nothing can be forged.

Inside, before base64url without padding (the length is always a multiple of three):

    4   key id                      BLAKE2b of the key: a process can't give two keys one number
    16  decision                    48 bits milliseconds, 40 random for each process, 40 counting
    8   unit
    n   static part                 see `Sealer.static`; compiled once per variant pair, not per request
    16  BLAKE2b MAC, keyed, of all that stands before it

The static part carries names as text, so that any replica can open an id that was made before an edit
of the configuration. Where a bandit looked at features, it carries these too (`gateway.record.context`): a
format of its own, so that ids of other routes stay as they are.
"""

from __future__ import annotations

import os
import struct
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from itertools import count
from typing import Final, Literal, NamedTuple

BadCode = Literal["malformed", "forged", "unknown_key"]

_MAC: Final = 16
_KEY_ID: Final = 4
_HEAD: Final = _KEY_ID + 16 + 8
_STATIC: Final = struct.Struct(">BQdBBB")
"""Format and flags, epoch, propensity, lengths of the three names."""
_FORMAT: Final = 0x10
_WITH_CONTEXT: Final = 0x20
"""After the names: a byte with the length of the context, and the context."""
_FORCED: Final = 0x01
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_LONGEST: Final = 2048

_MESSAGES: Final[dict[BadCode, str]] = {
    "malformed": "This is not a decision id; send the value of x-decision-id as it came, whole.",
    "forged": "The decision id was altered or was not made by this gateway; send x-decision-id as it came.",
    "unknown_key": "The decision id was sealed with a key that this gateway does not have (any more).",
}


class BadDecisionId(ValueError):
    """A decision id that can't be opened; ``code`` says why."""

    def __init__(self, code: BadCode) -> None:
        super().__init__(_MESSAGES[code])
        self.code: BadCode = code


class Opened(NamedTuple):
    """What a sealed decision id says. ``decided`` is seconds since the epoch, exact to a millisecond."""

    decision: bytes
    decided: float
    unit: int
    route: str
    assigned: str
    served: str
    epoch: int
    propensity: float
    forced: bool
    context: bytes = b""
    """The features that the policy saw, packed; b"" where it looks at none."""

    @property
    def sticky(self) -> bool:
        """Whether the unit came from the request: without one, the decision's own bits stand in for it."""
        return self.unit != int.from_bytes(self.decision[8:], "big")


class _Process:
    """What sets this process's decisions apart from those of all others; one for all sealers."""

    __slots__ = ("count", "random")

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Also in a forked child, which would go on counting where its parent does."""
        self.random = int.from_bytes(os.urandom(5), "big") << 40
        """Its place in the number that a decision is."""
        self.count = count()


_OWN: Final = _Process()
os.register_at_fork(after_in_child=_OWN.start)


def key_id(secret: bytes) -> bytes:
    """The number that ids say which key sealed them by."""
    return blake2b(secret, digest_size=_KEY_ID, person=b"turnout key id").digest()


class Sealer:
    """Makes and opens sealed decision ids.

    ``keys`` are secrets of 16 to 64 bytes: new ids are sealed with the first, the others only open what they
    sealed before. Thread-safe; a forked child draws its own random part.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._own = _OWN
        self.renew(keys)

    def renew(self, keys: Sequence[bytes]) -> None:
        """Replaces the keys."""
        if not keys or not all(16 <= len(secret) <= 64 for secret in keys):
            raise ValueError("a sealer needs keys, and a key has 16 to 64 bytes")
        self._primed = {key_id(secret): blake2b(key=secret, digest_size=_MAC) for secret in keys}
        self._sealing = key_id(keys[0]), self._primed[key_id(keys[0])]

    def new_decision(self, now: float) -> bytes:
        """16 bytes, unique; in order of time to the millisecond. ``now``: seconds since the epoch."""
        own = self._own
        number = next(own.count) & 0xFF_FFFF_FFFF
        return (int(now * 1000.0) << 80 | own.random | number).to_bytes(16, "big")

    @staticmethod
    def static(
        route: str,
        assigned: str,
        served: str,
        epoch: int,
        propensity: float,
        forced: bool,
        context: bytes = b"",
    ) -> bytes:
        """The part of an id that is the same for all decisions with these facts; for `seal`.

        Raises ValueError when a name or the context is longer than 255 bytes or the epoch is negative.
        """
        names = [name.encode() for name in (route, assigned, served)]
        if max(map(len, (*names, context))) > 255 or not 0 <= epoch < 1 << 64:
            raise ValueError("names and context have at most 255 bytes, and an epoch is not negative")
        form = (_WITH_CONTEXT if context else _FORMAT) | forced
        body = _STATIC.pack(form, epoch, propensity, *map(len, names)) + b"".join(names)
        if context:
            body += bytes([len(context)]) + context
        return body + bytes(-(_HEAD + len(body) + _MAC) % 3)

    def seal(self, decision: bytes, unit: int, static: bytes) -> bytes:
        """The sealed id as ASCII bytes that are safe in a header. ``unit``: 64 bits."""
        number, primed = self._sealing
        body = number + decision + unit.to_bytes(8, "big") + static
        mac = primed.copy()
        mac.update(body)
        return b2a_base64(body + mac.digest(), newline=False).translate(_TO_URL)

    def open(self, text: str | bytes) -> Opened:
        """What the id says; raises `BadDecisionId`."""
        raw = _decoded(text)
        primed = self._primed.get(raw[:_KEY_ID])
        if primed is None:
            raise BadDecisionId("unknown_key")
        mac = primed.copy()
        mac.update(raw[:-_MAC])
        if not compare_digest(mac.digest(), raw[-_MAC:]):
            raise BadDecisionId("forged")
        return _parsed(raw)


def _decoded(text: str | bytes) -> bytes:
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
        if len(data) > _LONGEST or b"+" in data or b"/" in data:
            raise BadDecisionId("malformed")
        raw = a2b_base64(data.translate(_FROM_URL), strict_mode=True)
    except (UnicodeEncodeError, Base64Error):
        raise BadDecisionId("malformed") from None
    # Padding would let two texts mean one id; our own length never needs any.
    if len(raw) % 3 or len(raw) < _HEAD + _STATIC.size + _MAC or len(data) * 3 != len(raw) * 4:
        raise BadDecisionId("malformed")
    return raw


def _parsed(raw: bytes) -> Opened:
    flags, epoch, propensity, *lengths = _STATIC.unpack_from(raw, _HEAD)
    if flags & 0xF0 not in (_FORMAT, _WITH_CONTEXT):
        # Sealed with our key but by a release whose form of ids we don't know.
        raise BadDecisionId("unknown_key")
    names = []
    at = _HEAD + _STATIC.size
    for length in lengths:
        names.append(raw[at : at + length].decode())
        at += length
    context = raw[at + 1 : at + 1 + raw[at]] if flags & 0xF0 == _WITH_CONTEXT else b""
    decision = raw[_KEY_ID : _KEY_ID + 16]
    return Opened(
        decision=decision,
        decided=int.from_bytes(decision[:6], "big") / 1000.0,
        unit=int.from_bytes(raw[_KEY_ID + 16 : _HEAD], "big"),
        route=names[0],
        assigned=names[1],
        served=names[2],
        epoch=epoch,
        propensity=propensity,
        forced=bool(flags & _FORCED),
        context=context,
    )
