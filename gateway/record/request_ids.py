"""The index of decisions by request id, for clients that do not see response headers.

The record is stored in pages, so request ids have a separate index: hash of route and id → decision. It is written
before the outcomes, and only if the configuration enables it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.record.events import Outcome

AMBIGUOUS: Final = b""
"""Stands for the decision if several requests of the route have the same id."""
_KEY_BYTES: Final = 12


class RequestKey(NamedTuple):
    """One entry of the index."""

    route: str
    key: bytes
    decision: bytes


def request_key(route: str, request_id: str) -> bytes:
    """The key of a request: 12 bytes, so that a collision among a billion has a probability of about 1e-11."""
    return blake2b(f"{route}\0{request_id}".encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def keys_of(outcomes: Sequence[Outcome]) -> list[RequestKey]:
    """Index entries of a batch, whose rows may be plain tuples of an outcome's fields."""
    rows = map(Outcome._make, outcomes)
    return [RequestKey(o.route, request_key(o.route, o.request_id), o.decision) for o in rows if o.request_id]
