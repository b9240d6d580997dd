"""The life of an attempt, as a table.

    NEW         made; nothing has happened
    BACKOFF     a retry that waits for its turn
    QUEUED      the backend has as many requests as it may, so it waits for a slot
    CONNECTING  a connection is being made
    WAITING     the request is (being) sent, and no head of a response has come
    RELAYING    a response has been accepted and is being passed on
    ENDED       nothing more happens

`TABLE` says for each state which events mean something there and where they lead; any other event is ignored, because
it crossed with one that came first (a connection that was made just as the attempt was cancelled). `TIMEOUTS` says
what it is called when the deadline of a state passes. The engine that reads both is
`gateway.dataplane.exchange.attempt`; what follows a failure is decided in `gateway.dataplane.exchange.recovery`.
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

DELAY: Final = 0
"""Events: a pause before a retry begins;"""
QUEUE: Final = 1
"""no slot is free;"""
CONNECT: Final = 2
"""no idle connection is free, or the one that was used turned out to be closed;"""
SEND: Final = 3
"""a connection is there;"""
ACCEPT: Final = 4
"""the head of a response that is passed on came;"""
END: Final = 5
"""it is over, however it went."""

TABLE: Final[Mapping[int, Mapping[int, int]]] = {
    NEW: {DELAY: BACKOFF, QUEUE: QUEUED, CONNECT: CONNECTING, SEND: WAITING, END: ENDED},
    BACKOFF: {QUEUE: QUEUED, CONNECT: CONNECTING, SEND: WAITING, END: ENDED},
    QUEUED: {CONNECT: CONNECTING, SEND: WAITING, END: ENDED},
    CONNECTING: {SEND: WAITING, END: ENDED},
    WAITING: {CONNECT: CONNECTING, ACCEPT: RELAYING, END: ENDED},
    RELAYING: {END: ENDED},
    ENDED: {},
}
TIMEOUTS: Final[Mapping[int, str]] = {
    BACKOFF: "backend_total_timeout",
    QUEUED: "backend_overloaded",
    CONNECTING: "backend_connect_timeout",
    WAITING: "backend_first_byte_timeout",
    RELAYING: "backend_idle_timeout",
}
NEXT: Final = tuple(
    tuple(TABLE[state].get(event, state) for event in range(END + 1)) for state in range(ENDED + 1)
)
"""`TABLE` by index, which is what the hot path reads."""
