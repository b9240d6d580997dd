"""Every state in which a client can dawdle has an end.

One look a second at each connection, instead of a timer each: it is called by the worker's tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.states import DONE
from gateway.errors import TurnoutError
from gateway.internal_errors import INTERNAL_ERRORS

if TYPE_CHECKING:
    from gateway.dataplane.client.protocol import ClientProtocol


def check(client: ClientProtocol, now: float) -> None:
    """Ends or answers what has taken too long; ``now`` is of `perf_counter`."""
    if client.lost or _stuck(client, now):
        return
    if client.tunnel is not None:
        client.tunnel.check(now)
    elif client.closing:
        if now > client.deadline and not client.transport.get_write_buffer_size():
            client.transport.abort()
    elif client.in_head:
        if client.pauses:
            client.head.started = now  # we are not reading, so the client is not slow
        elif now - client.head.started > client.snapshot.limits.header_timeout:
            client.refuse(TurnoutError("request_timeout"))
    elif client.incoming is not None and not client.incoming.complete:
        _check_body(client, now)
    elif client.current is None and not client.queue:
        if not client.deadline:
            client.rest(now)
        elif now > client.deadline:
            client.transport.close()
    elif isinstance(client.current, Exchange) and client.current.state == DONE:
        INTERNAL_ERRORS.report(RuntimeError("a request has ended, and its connection does not know"))
        client.transport.abort()


def _stuck(client: ClientProtocol, now: float) -> bool:
    """Aborts, and says so, where the client has taken nothing of what waits for it for too long.

    A close alone would wait for it for ever.
    """
    left = client.transport.get_write_buffer_size()
    taken = client.written - left
    if not left or taken > client.taken:
        client.taken, client.taken_at = taken, now
    elif now - client.taken_at > client.snapshot.limits.write_timeout:
        client.transport.abort()
        return True
    return False


def _check_body(client: ClientProtocol, now: float) -> None:
    limits = client.snapshot.limits
    incoming = client.incoming
    waits = incoming is not None and incoming is not client.current and incoming.head.expects_continue
    if client.pauses or waits:  # we are not reading, or it waits for our word: the client is not slow
        client.body_since += now - client.now
        client.now = now
        return
    earned = limits.body_min_rate * (now - client.body_since - limits.body_grace)
    if client.body_read < earned or now - client.now > limits.body_timeout:
        client.refuse(TurnoutError("request_timeout"))
