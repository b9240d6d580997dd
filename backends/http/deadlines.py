"""Deadlines of a connection, against clients that dawdle in any of its states."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from backends.errors import RequestTimedOut, ServerError

HEAD_TIMEOUT_S: Final = 15.0
IDLE_TIMEOUT_S: Final = 75.0
BODY_GRACE_S: Final = 30.0
MIN_BODY_RATE: Final = 10_000
"""Bytes per second that a body must average beyond `BODY_GRACE_S`."""
WRITE_TIMEOUT_S: Final = 30.0
"""Without a byte taken by a client that has a full buffer."""
LINGER_S: Final = 1.0
"""Reading on after a last response to an unfinished request, so that a reset does not destroy it."""


class Timed(Protocol):
    """The state of a connection that its deadlines depend on."""

    transport: asyncio.Transport
    since: float
    write_paused: bool
    unsent: int
    closing: bool
    in_head: bool
    raw: int
    body_size: int

    @property
    def current(self) -> object | None: ...
    @property
    def incoming(self) -> object | None: ...
    @property
    def pending(self) -> Sequence[object]: ...
    def fault(self, error: ServerError) -> None: ...


def check(connection: Timed, now: float) -> None:
    """Ends ``connection`` if the deadline of its present state has passed."""
    age = now - connection.since
    if connection.write_paused:
        unsent = connection.transport.get_write_buffer_size()
        if unsent < connection.unsent:
            connection.since = now
        elif age > WRITE_TIMEOUT_S:
            connection.transport.abort()
        connection.unsent = unsent
    elif connection.closing:
        if age > LINGER_S:
            connection.transport.abort()
    # The client waits for us.
    elif connection.current is not None or connection.pending:
        return
    elif connection.in_head or (connection.raw and connection.incoming is None):
        if age > HEAD_TIMEOUT_S:
            connection.fault(RequestTimedOut("the head did not arrive in time; send it faster"))
    elif connection.incoming is not None:
        if age > BODY_GRACE_S + connection.body_size / MIN_BODY_RATE:
            connection.fault(RequestTimedOut("the body did not arrive in time; send it faster"))
    elif age > IDLE_TIMEOUT_S:
        connection.transport.close()
