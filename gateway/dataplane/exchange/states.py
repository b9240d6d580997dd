"""The life of an attempt, as a table.

    NEW         made; nothing has happened
    BACKOFF     a retry that waits for its turn
    QUEUED      the backend has as many requests as it may, so it waits for a slot
    CONNECTING  a connection is being made
    WAITING     the request is (being) sent, and no head of a response has come
    RELAYING    a response has been accepted and is being passed on
    ENDED       nothing more happens

`TABLE` says which states may follow each; an event that would lead elsewhere is ignored, because it crossed with one
that came first (a connection that was made just as the attempt was cancelled). `TIMEOUTS` says what it is called when
the deadline of a state passes. The engine is `gateway.dataplane.exchange.attempt`; what follows a failure is decided
in `gateway.dataplane.exchange.recovery`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NEW: Final = 0
BACKOFF: Final = 1
QUEUED: Final = 2
CONNECTING: Final = 3
WAITING: Final = 4
RELAYING: Final = 5
ENDED: Final = 6
READING: Final = 7
"""Of a request that has no attempt yet, because its body decides."""

TABLE: Final[Mapping[int, frozenset[int]]] = {
    NEW: frozenset((BACKOFF, QUEUED, CONNECTING, WAITING, ENDED)),
    BACKOFF: frozenset((QUEUED, CONNECTING, WAITING, ENDED)),
    QUEUED: frozenset((CONNECTING, WAITING, ENDED)),
    CONNECTING: frozenset((WAITING, ENDED)),
    WAITING: frozenset((CONNECTING, RELAYING, ENDED)),
    RELAYING: frozenset((ENDED,)),
    ENDED: frozenset(),
}
TIMEOUTS: Final[Mapping[int, str]] = {
    BACKOFF: "backend_total_timeout",
    QUEUED: "backend_overloaded",
    CONNECTING: "backend_connect_timeout",
    WAITING: "backend_first_byte_timeout",
    RELAYING: "backend_idle_timeout",
}
