"""An upgraded connection: bytes pass both ways, unread, with back-pressure, until either side ends."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.transport.base import Connection

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange

NEVER: Final = float("inf")
LAST_WORDS: Final = 5.0
"""Seconds that one side has, after the other's end, to take what was already sent to it."""


class Side:
    """What one side's connection tells; it acts on the other's."""

    def __init__(self, tunnel: Tunnel, *, from_client: bool) -> None:
        self.tunnel = tunnel
        self.from_client = from_client

    def data_received(self, data: bytes) -> None:
        self.tunnel.relay(data, self.from_client)

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.end()

    def pause_writing(self) -> None:
        self.tunnel.hold(self.from_client)

    def resume_writing(self) -> None:
        self.tunnel.release(self.from_client)

    def check(self, now: float) -> None:
        self.tunnel.check(now)


class Tunnel:
    """Two sides of one upgraded connection; it ends when either does, or when both have long been silent."""

    def __init__(self, exchange: Exchange, connection: Connection) -> None:
        self.exchange = exchange
        self.connection = connection
        self.client = exchange.client
        self.ended = False
        self.opened = self.last = perf_counter()
        """``last``: when the last byte came, from either side."""

    @classmethod
    def open(cls, exchange: Exchange, connection: Connection, head: bytes, data: bytes) -> None:
        """``head`` goes to the client, then ``data``; what the client sent meanwhile goes to the backend."""
        tunnel = cls(exchange, connection)
        assert exchange.address is not None
        exchange.leave()  # WebSockets have a limit of their own, but they are load
        exchange.address.in_flight += 1
        exchange.worker.tunnels.add(tunnel)
        exchange.deadline = NEVER
        exchange.total_deadline = NEVER
        connection.tunnel = Side(tunnel, from_client=False)
        held = tunnel.client.open_tunnel(Side(tunnel, from_client=True))
        tunnel.client.write(head + data)
        if held:
            connection.transport.write(held)

    def relay(self, data: bytes, from_client: bool) -> None:
        if self.ended:
            return
        self.last = perf_counter()
        if from_client:
            self.exchange.body_bytes += len(data)
            self.connection.transport.write(data)
        else:
            self.exchange.answer_bytes += len(data)
            self.client.write(data)

    def hold(self, client_full: bool) -> None:
        """One side can't take more: the other is read no further."""
        if self.ended:
            return
        if client_full:
            self.connection.pause_reading()
        else:
            self.client.pause_body()

    def release(self, client_full: bool) -> None:
        if self.ended:
            return
        if client_full:
            self.connection.resume_reading()
        else:
            self.client.resume_body()

    def check(self, now: float) -> None:
        """Ends a tunnel that is silent (its peer may have vanished), too old, or whose key is no longer good.

        Called about once a second.
        """
        x = self.exchange
        snapshot = x.worker.snapshot
        limits = snapshot.limits
        silent = now - self.last > limits.idle_timeout
        old = limits.websocket_life and now - self.opened > limits.websocket_life
        allowed = snapshot.authenticator.allows(x.head.credential, x.route.name, x.worker.wall())
        if silent or old or not allowed:
            self.end()

    def end(self) -> None:
        """Either side has ended: what was written goes out, then both are closed."""
        if self.ended:
            return
        self.ended = True
        self.connection.transport.close()
        if not self.client.lost:
            self.client.transport.close()
        x = self.exchange
        x.worker.loop.call_later(LAST_WORDS, self._abort)
        x.worker.tunnels.discard(self)
        assert x.address is not None
        x.address.in_flight -= 1
        x.done()

    def _abort(self) -> None:
        self.connection.abandon()
        if not self.client.lost:
            self.client.transport.abort()
