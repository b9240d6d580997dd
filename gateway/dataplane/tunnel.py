"""An upgraded connection: bytes pass both ways, unread, with back-pressure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.transport.connection import BackendConnection

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange


class _Side(asyncio.Protocol):
    """What one side's transport tells; it acts on the other's."""

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


class Tunnel:
    """Two sides of one upgraded connection; it ends when either does."""

    def __init__(self, exchange: Exchange, connection: BackendConnection) -> None:
        self.exchange = exchange
        self.connection = connection
        self.client = exchange.client
        self.ended = False

    @classmethod
    def open(cls, exchange: Exchange, connection: BackendConnection, head: bytes, data: bytes) -> None:
        """``head`` goes to the client, then ``data``; what the client sent meanwhile goes to the backend."""
        tunnel = cls(exchange, connection)
        connection.tunnel = _Side(tunnel, from_client=False)
        held = tunnel.client.open_tunnel(_Side(tunnel, from_client=True))
        exchange.deadline = float("inf")
        exchange.total_deadline = float("inf")
        tunnel.client.write(head + data)
        if held:
            connection.transport.write(held)

    def relay(self, data: bytes, from_client: bool) -> None:
        if self.ended:
            return
        if from_client:
            self.exchange.body_bytes += len(data)
            self.connection.transport.write(data)
        else:
            self.exchange.answer_bytes += len(data)
            self.client.write(data)

    def hold(self, client_full: bool) -> None:
        """One side can't take more: the other is read no further."""
        (self.connection.transport if client_full else self.client.transport).pause_reading()

    def release(self, client_full: bool) -> None:
        if not self.ended:
            (self.connection.transport if client_full else self.client.transport).resume_reading()

    def end(self) -> None:
        """Either side has ended: what was written goes out, then both are closed."""
        if self.ended:
            return
        self.ended = True
        self.connection.transport.close()
        if not self.client.lost:
            self.client.transport.close()
        self.exchange.tunnel_ended()
