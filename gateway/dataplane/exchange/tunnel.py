"""An upgraded connection: bytes pass both ways, unread, with back-pressure, until either side ends."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

from gateway.dataplane.base import ClientConnection, TunnelEnd
from gateway.dataplane.request.request import Request
from gateway.transport.address import Address
from gateway.transport.base import Connection

FLUSH_S: Final = 5.0
"""Time that one side has, after the other's end, to take what was already sent to it."""


class TunnelSide(TunnelEnd):
    """What one side's connection reports; it acts on the other's."""

    __slots__ = ("_from_client", "_tunnel")

    def __init__(self, tunnel: Tunnel, *, from_client: bool) -> None:
        self._tunnel = tunnel
        self._from_client = from_client

    def data_received(self, data: bytes) -> None:
        self._tunnel.relay(data, self._from_client)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.end()

    def pause_writing(self) -> None:
        self._tunnel.hold(self._from_client)

    def resume_writing(self) -> None:
        self._tunnel.release(self._from_client)

    def check(self, now: float) -> None:
        self._tunnel.check(now)


class Tunnel:
    """Two sides of one upgraded connection; it ends when either does, or when both have been silent for long."""

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        connection: Connection,
        address: Address,
        ended: Callable[[int, int], None],
    ) -> None:
        """
        Args:
            client: One side.
            request: What opened it.
            connection: The other side.
            address: Where the other side is; the tunnel counts as load there.
            ended: Called once, with the bytes from the client and those to it.
        """
        self._client = client
        self._request = request
        self._connection = connection
        self._address = address
        self._on_end = ended
        self._ended = False
        self._received = 0
        self._sent = 0
        self._opened = self._last = perf_counter()
        """``_last``: when the last byte came, from either side."""

    def open(self, head: bytes, data: bytes) -> None:
        """Sends ``head`` to the client, then ``data``; what the client sent meanwhile goes to the backend."""
        self._address.in_flight += 1
        self._client.runtime.tunnels.add(self)
        self._connection.tunnel = TunnelSide(self, from_client=False)
        held = self._client.open_tunnel(TunnelSide(self, from_client=True))
        self._client.write(head + data)
        if held:
            self._connection.transport.write(held)

    def relay(self, data: bytes, from_client: bool) -> None:
        """Passes bytes to the other side."""
        if self._ended:
            return
        self._last = perf_counter()
        if from_client:
            self._received += len(data)
            self._connection.transport.write(data)
        else:
            self._sent += len(data)
            self._client.write(data)

    def hold(self, client_full: bool) -> None:
        """One side takes no more: the other is not read."""
        if self._ended:
            return
        if client_full:
            self._connection.pause_reading()
        else:
            self._client.pause_body()

    def release(self, client_full: bool) -> None:
        """One side takes more again."""
        if self._ended:
            return
        if client_full:
            self._connection.resume_reading()
        else:
            self._client.resume_body()

    def check(self, now: float) -> None:
        """Ends a tunnel that is silent (its peer may have vanished), too old, or whose key is no longer valid.

        Called about once a second.
        """
        runtime, request = self._client.runtime, self._request
        snapshot = runtime.snapshot
        limits = snapshot.limits
        silent = now - self._last > limits.idle_timeout
        old = limits.websocket_life and now - self._opened > limits.websocket_life
        credentials = request.head.credentials
        presented = credentials.presented() if credentials is not None else None
        # A key that is revoked must not keep what it has opened; the newest snapshot says so.
        allowed = snapshot.authenticator.allows(presented, request.route.name, runtime.wall())
        if silent or old or not allowed:
            self.end()

    def end(self) -> None:
        """Either side has ended: what was written goes out, then both are closed."""
        if self._ended:
            return
        self._ended = True
        self._connection.transport.close()
        if not self._client.lost:
            self._client.transport.close()
        runtime = self._client.runtime
        runtime.loop.call_later(FLUSH_S, self._abort)
        runtime.tunnels.discard(self)
        self._address.in_flight -= 1
        self._on_end(self._received, self._sent)

    def _abort(self) -> None:
        self._connection.abandon()
        if not self._client.lost:
            self._client.transport.abort()
