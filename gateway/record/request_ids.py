"""Decisions by the request id that a client sent or got, for clients that hide response headers.

The record keeps outcomes by the page, so request ids have an index of their own: a hash of route and id → the
decision. It is written before the outcomes and only where the configuration asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.record.events import Outcome

AMBIGUOUS: Final = b""
"""In place of a decision: several requests of the route carried this id."""
_KEY_BYTES: Final = 12


class RequestKey(NamedTuple):
    """One entry of the index."""

    route: str
    key: bytes
    decision: bytes


def request_key(route: str, request_id: str) -> bytes:
    """12 bytes: a collision among a billion requests has a chance of about 1 in 10^11."""
    return blake2b(f"{route}\0{request_id}".encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def keys_of(outcomes: Sequence[Outcome]) -> list[RequestKey]:
    """The index entries of a batch; rows may be plain tuples of an outcome's fields."""
    rows = map(Outcome._make, outcomes)
    return [RequestKey(o.route, request_key(o.route, o.request_id), o.decision) for o in rows if o.request_id]
