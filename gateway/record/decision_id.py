"""The decision id that clients see: sealed, so that a reward needs no look-up and cannot be forged.

The bytes, encoded as base64url without padding (the length is always a multiple of three):

    4   key id                      BLAKE2b of the key, so that no two keys share one
    16  decision                    48 bits milliseconds, 40 random for each process, 40 of a counter
    8   unit
    n   static part                 see `Sealer.static`; compiled once per variant pair, not per request
    16  BLAKE2b MAC, keyed, of everything before it

The static part holds names as text, so that any replica can open an id that was made before an edit of the
configuration. If the policy used features, it holds these too (`gateway.record.context`), in a separate format, so
that ids of other routes are not affected. Covariates stand behind all that, where earlier releases read nothing.

Other proxies make ids from stamps (`gateway.record.stamp`), which are recognised by their dots.
"""

from __future__ import annotations

import hmac
import os
import struct
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import count
from typing import Final, Literal, NamedTuple

from gateway.record.context import parted, whole
from gateway.record.stamp import Stamp, parsed_request, parsed_stamp

BadCode = Literal["malformed", "forged", "unknown_key"]

_MAC_BYTES: Final = 16
_KEY_ID_BYTES: Final = 4
_HEAD: Final = _KEY_ID_BYTES + 16 + 8
_STATIC: Final = struct.Struct(">BQdBBB")
"""Format and flags, epoch, propensity, lengths of the three names in bytes."""
_FORMAT: Final = 0x10
_WITH_CONTEXT: Final = 0x20
"""Format with a byte for the length of the context, and the context, after the names."""
_FORCED: Final = 0x01
_WITH_COVARIATES: Final = 0x02
"""Flag: a byte for the length of the covariates, and the covariates, at the end."""
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_MAX_ID_CHARACTERS: Final = 2048
MAX_CACHED_STAMPS: Final = 4096

_MESSAGES: Final[dict[BadCode, str]] = {
    "malformed": "This is not a decision id; send the value of x-decision-id as it came, whole.",
    "forged": "The decision id was altered or was not made by this gateway; send x-decision-id as it came.",
    "unknown_key": "The decision id was sealed with a key that this gateway does not have (any more).",
}


class BadDecisionId(ValueError):
    """A decision id that cannot be opened."""

    def __init__(self, code: BadCode) -> None:
        super().__init__(_MESSAGES[code])
        self.code: BadCode = code


class Opened(NamedTuple):
    """The contents of a decision id."""

    decision: bytes
    decided: float
    """Seconds since the epoch, to the millisecond."""
    unit: int
    route: str
    assigned: str
    served: str
    epoch: int
    propensity: float
    forced: bool
    context: bytes = b""
    """Packed features (`gateway.record.context`); b"" if none."""
    stamped: bool = False
    """Whether another proxy made the id, which knows nothing of the unit."""

    @property
    def sticky(self) -> bool:
        """Whether the request had a unit: without one, bits of the decision take its place."""
        return self.unit != int.from_bytes(self.decision[8:], "big")


class _Process:
    """What makes the decisions of this process unique; shared by all sealers."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Draw the random part; also in a forked child, which would continue its parent's counter."""
        self.count = count(int.from_bytes(os.urandom(5), "big") << 40)
        """The random part and the counter as one number."""


_OWN: Final = _Process()
os.register_at_fork(after_in_child=_OWN.start)


def key_id(secret: bytes) -> bytes:
    """The id of a sealing key, which the ids sealed with it carry."""
    return blake2b(secret, digest_size=_KEY_ID_BYTES, person=b"turnout key id").digest()


def _primed(secret: bytes, person: bytes) -> blake2b:
    """The MAC of a key before its first byte; what it signs begins with the key's id, which is taken in once."""
    primed = blake2b(key=secret, digest_size=_MAC_BYTES, person=person)
    primed.update(key_id(secret))
    return primed


class Sealer:
    """Makes and opens sealed decision ids; thread-safe."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys``: secrets of 16 to 64 bytes; the first seals, the others only open. Raises ValueError."""
        self._own = _OWN
        self.renew(keys)

    def renew(self, keys: Sequence[bytes]) -> None:
        """Replace the keys. Raises ValueError if there are none or one has another length."""
        if not keys or not all(16 <= len(secret) <= 64 for secret in keys):
            raise ValueError("a sealer needs keys, and a key has 16 to 64 bytes")
        self._primed = {key_id(secret): _primed(secret, b"") for secret in keys}
        self._sealing = key_id(keys[0]), self._primed[key_id(keys[0])]
        self._stamps: dict[str, Stamp] = {}
        """By their text: stamps that were found to be ours, which thousands of ids share."""
        # Other purposes, so that none can pass for another.
        self._stamping = {key_id(secret): _primed(secret, b"turnout stamp") for secret in keys}
        self._sealing_requests = {key_id(secret): _primed(secret, b"turnout request") for secret in keys}

    def new_decision(self, now: float) -> bytes:
        """A new decision: 16 unique bytes, ordered by time to the millisecond. ``now``: seconds since the epoch."""
        return ((int(now * 1000.0) << 80) + next(self._own.count)).to_bytes(16, "big")

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
        """The part of an id that all decisions with these facts share; for `seal`.

        Raises ValueError if a name or the context is longer than 255 bytes, or the epoch is negative.
        """
        names = [name.encode() for name in (route, assigned, served)]
        if max(map(len, (*names, context))) > 255 or not 0 <= epoch < 1 << 64:
            raise ValueError("names and context have at most 255 bytes, and an epoch is not negative")
        context, covariates = parted(context)
        form = (_WITH_CONTEXT if context else _FORMAT) | (_WITH_COVARIATES if covariates else 0) | forced
        body = _STATIC.pack(form, epoch, propensity, *map(len, names)) + b"".join(names)
        for part in filter(None, (context, covariates)):
            body += bytes([len(part)]) + part
        return body + bytes(-(_HEAD + len(body) + _MAC_BYTES) % 3)

    def seal(self, decision: bytes, unit: int, static: bytes) -> bytes:
        """Seal a decision; the id is ASCII that is safe in a header. ``unit``: 64 bits."""
        number, primed = self._sealing
        body = decision + unit.to_bytes(8, "big") + static
        mac = primed.copy()
        mac.update(body)
        return b2a_base64(number + body + mac.digest(), newline=False).translate(_TO_URL)

    def open(self, text: str | bytes) -> Opened:
        """Open a sealed id, or one that a proxy made from a stamp. Raises BadDecisionId."""
        plain = text if isinstance(text, str) else text.decode("latin-1")
        if "." in plain:
            return self._open_stamped(plain)
        return _parsed(_verified(text, self._primed, _HEAD + _STATIC.size))

    def stamp(self, facts: Stamp) -> str:
        """Sign the facts that all decisions of one variant in one epoch share."""
        number = self._sealing[0]
        body = facts.packed()
        body += bytes(-(_KEY_ID_BYTES + len(body) + _MAC_BYTES) % 3)
        mac = self._stamping[number].copy()
        mac.update(body)
        return b2a_base64(number + body + mac.digest(), newline=False).translate(_TO_URL).decode()

    def request_key(self, stamp: str) -> bytes:
        """The key with which a proxy seals the requests of ``stamp``; only for stamps that `open_stamp` can open."""
        mac = self._sealing_requests[_decoded(stamp, _KEY_ID_BYTES)[:_KEY_ID_BYTES]].copy()
        mac.update(stamp.encode())
        return mac.digest()

    def open_stamp(self, text: str) -> Stamp:
        """Open what `stamp` made. Raises BadDecisionId."""
        stamp = self._stamps.get(text)
        if stamp is None:
            stamp = parsed_stamp(_verified(text, self._stamping)[_KEY_ID_BYTES:-_MAC_BYTES])
            if stamp is None:
                raise BadDecisionId("malformed")
            if len(self._stamps) >= MAX_CACHED_STAMPS:
                self._stamps.clear()
            self._stamps[text] = stamp
        return stamp

    def _open_stamped(self, text: str) -> Opened:
        stamped, _, rest = text.partition(".")
        stamp = self.open_stamp(stamped)
        request = parsed_request(rest, stamp.published)
        if request is None or stamp.sealed != bool(request.seal):
            raise BadDecisionId("malformed")
        if stamp.sealed:
            signed = text.partition("~")[0].encode()
            seal = hmac.digest(self.request_key(stamped), signed, "sha256")[:_MAC_BYTES]
            if not hmac.compare_digest(seal.hex(), request.seal):
                raise BadDecisionId("forged")
        return Opened(
            decision=request.decision,
            decided=request.decided,
            unit=int.from_bytes(request.decision[8:], "big"),
            route=stamp.route,
            assigned=stamp.assigned,
            served=request.served,
            epoch=stamp.epoch,
            propensity=stamp.propensity,
            forced=False,
            stamped=True,
        )


def _verified(text: str | bytes, keys: Mapping[bytes, blake2b], least: int = 0) -> bytes:
    """The signed bytes of ``text``, of which ``least`` precede the signature. Raises BadDecisionId."""
    raw = _decoded(text, max(least, _KEY_ID_BYTES) + _MAC_BYTES)
    primed = keys.get(raw[:_KEY_ID_BYTES])
    if primed is None:
        raise BadDecisionId("unknown_key")
    mac = primed.copy()
    mac.update(raw[_KEY_ID_BYTES:-_MAC_BYTES])
    if not hmac.compare_digest(mac.digest(), raw[-_MAC_BYTES:]):
        raise BadDecisionId("forged")
    return raw


def _decoded(text: str | bytes, least: int) -> bytes:
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
        if len(data) > _MAX_ID_CHARACTERS or b"+" in data or b"/" in data:
            raise BadDecisionId("malformed")
        raw = a2b_base64(data.translate(_FROM_URL), strict_mode=True)
    except (UnicodeEncodeError, Base64Error):
        raise BadDecisionId("malformed") from None
    # With padding two texts would stand for one id; a whole id never needs it.
    if len(raw) % 3 or len(raw) < least or len(data) * 3 != len(raw) * 4:
        raise BadDecisionId("malformed")
    return raw


def _parsed(raw: bytes) -> Opened:
    flags, epoch, propensity, *lengths = _STATIC.unpack_from(raw, _HEAD)
    if flags & 0xF0 not in (_FORMAT, _WITH_CONTEXT):
        # Sealed with a known key, but by a release with a later format.
        raise BadDecisionId("unknown_key")
    names = []
    at = _HEAD + _STATIC.size
    for length in lengths:
        names.append(raw[at : at + length].decode())
        at += length
    parts = []
    for present in (flags & 0xF0 == _WITH_CONTEXT, flags & _WITH_COVARIATES):
        parts.append(raw[at + 1 : at + 1 + raw[at]] if present else b"")
        at += 1 + raw[at] if present else 0
    decision = raw[_KEY_ID_BYTES : _KEY_ID_BYTES + 16]
    return Opened(
        decision=decision,
        decided=int.from_bytes(decision[:6], "big") / 1000.0,
        unit=int.from_bytes(raw[_KEY_ID_BYTES + 16 : _HEAD], "big"),
        route=names[0],
        assigned=names[1],
        served=names[2],
        epoch=epoch,
        propensity=propensity,
        forced=bool(flags & _FORCED),
        context=whole(*parts),
    )
