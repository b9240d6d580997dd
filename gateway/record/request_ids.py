"""The index of decisions by request id, for clients that do not see response headers.

The record is stored in pages, so request ids have a separate index: hash of route and id → decision. It is written
before the outcomes, and only if the configuration enables it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.record.events import Outcome, columns

AMBIGUOUS: Final = b""
"""Stands for the decision if several requests of the route have the same id."""
_KEY_BYTES: Final = 12


class RequestKey(NamedTuple):
    """One entry of the index."""

    route: str
    key: bytes
    decision: bytes


def request_key(route: str, request_id: str, principal: str = "") -> bytes:
    """The key of a request, or of one that a principal made.

    It has 12 bytes, so that a collision among a billion has a probability of about 1e-11.
    """
    text = f"{route}\0{request_id}\0{principal}" if principal else f"{route}\0{request_id}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def keys_of(outcomes: Sequence[Outcome]) -> list[RequestKey]:
    """Index entries of at least one outcome.

    A request of a principal has an entry of its own too: another principal's request with the same id makes only the
    common one ambiguous.
    """
    c = columns(outcomes)
    return [
        RequestKey(route, request_key(route, request_id, principal), decision)
        for route, request_id, own, decision in zip(
            c.route, c.request_id, c.principal, c.decision, strict=True
        )
        if request_id
        for principal in {"", own}
    ]
