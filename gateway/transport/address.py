"""One address of a backend: its connections, its load, and how long its responses usually take.

Decisions are synchronous: a connection is taken, waited for or refused in one call. An `Address` outlives
the configuration that named it, so an edit keeps its connections, its health and its counters.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from gateway.transport.base import Connection, ResponseHandler
from gateway.transport.connection import BackendConnection, ConnectionOwner
from gateway.transport.endpoint import Endpoint

MIN_LATENCY_SAMPLES: Final = 20
"""Responses after which an address's usual latency is known."""
STALL_FACTOR: Final = 3.0
"""Multiple of the usual latency (mean and four mean deviations) after which silence is a stall."""
LATENCY_SMOOTHING: Final = 1 / 16
PROBE_INTERVAL_S: Final = 0.25
"""Between two requests that try a stalled address, if they can be served elsewhere."""
MAX_IDLE_CONNECTIONS: Final = 512
MAX_OPENING_S: Final = 10.0
"""For a connection that no request waits for any more."""
IDLE_MARGIN_S: Final = 1.0
"""Ended before the backend does so by this much, so that a request does not meet the end."""


class Latency:
    """How long responses usually take to begin."""

    __slots__ = ("deviation_ms", "mean_ms", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self.mean_ms = self.deviation_ms = 0.0
        """Smoothed mean and mean deviation of the time to a response's head (as in RFC 6298)."""

    def observe(self, milliseconds: float) -> None:
        """Takes the time from a request's end to the head of a response that is not an error."""
        deviation = milliseconds - self.mean_ms
        self.mean_ms += deviation * LATENCY_SMOOTHING
        distance = deviation if deviation > 0.0 else -deviation
        self.deviation_ms += (distance - self.deviation_ms) * LATENCY_SMOOTHING
        self.samples += 1

    @property
    def longest_ms(self) -> float:
        """The longest time that is still usual."""
        return self.mean_ms + 4.0 * self.deviation_ms


class Address(ConnectionOwner):
    """One place where a backend listens, with its idle connections (last in, first out)."""

    __slots__ = (
        "authority", "connecting", "connections", "endpoint", "http2", "idle", "idle_timeout", "in_flight",
        "last_byte_at", "latency", "max_idle", "min_stall", "name",
        "next_probe_at", "server_name", "stalled", "stragglers", "time", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
        *,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        idle_timeout: float = 4.0,
        max_idle: int = MAX_IDLE_CONNECTIONS,
    ) -> None:
        self.endpoint = endpoint
        self.name = str(endpoint)
        self.authority = endpoint.authority
        self.loop = loop
        self.time = loop.time
        self.context = context
        self.server_name = server_name
        self.idle: list[BackendConnection] = []
        self.connections: set[BackendConnection] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self.waiting: dict[ResponseHandler, tuple[BackendConnection, asyncio.Task[None]]] = {}
        """Who waits for a connection, longest first, and what is made for it. One that becomes free does as well."""
        self.idle_timeout = idle_timeout
        self.max_idle = max_idle
        self.http2 = False
        """Whether requests go there in HTTP/2."""
        self.in_flight = 0
        self.last_byte_at = 0.0
        """`perf_counter` when a response last began or went on; 0.0: never."""
        self.latency = Latency()
        self.min_stall = 0.0
        """Seconds of silence that are never a stall; 0.0: this address is never taken for stalled."""
        self.stalled = False
        """Whether requests wait although nothing has come for `stall_timeout` seconds."""
        self.next_probe_at = 0.0
        """When the next request may try a stalled address."""
        self.stragglers = 0
        """Requests left with a stalled address after their clients got another response."""

    # Silence ----------------------------------------------------------------------------------------
    def stall_timeout(self) -> float:
        """Seconds of silence that are still usual; infinite while too little is known."""
        if self.latency.samples < MIN_LATENCY_SAMPLES or not self.min_stall:
            return float("inf")
        return max(self.min_stall, STALL_FACTOR * self.latency.longest_ms / 1e3)

    def may_probe(self, now: float, *, rescued: bool) -> bool:
        """Whether one request may try this address while it is stalled; if so, the next one only later.

        ``rescued``: the request can be served elsewhere if nothing comes. Otherwise one at a time tries.
        """
        if now < self.next_probe_at or not (rescued or not self.in_flight):
            return False
        self.next_probe_at = now + PROBE_INTERVAL_S
        return True

    # Connections ------------------------------------------------------------------------------------
    def take_idle(self) -> Connection | None:
        """A connection that is ready for a request; None if a new one is needed."""
        idle = self.idle
        while idle:
            # Last in, first out: the others grow old and are closed, so a pool shrinks with its traffic.
            connection = idle.pop()
            if connection.closed or connection.transport.is_closing():
                continue
            idle_for, kept_for = self.time() - connection.idle_since, connection.response.idle_timeout
            if idle_for > self.idle_timeout or (kept_for and idle_for > kept_for - IDLE_MARGIN_S):
                connection.abandon()
                continue
            return connection
        return None

    def release(self, connection: BackendConnection) -> None:
        if len(self.idle) >= self.max_idle:
            connection.abandon()
            return
        connection.idle_since = self.time()
        self.idle.append(connection)
        if self.waiting:
            # Not within the release: that runs while a response is being finished.
            self.loop.call_soon(self._serve_waiting)

    def _serve_waiting(self) -> None:
        """Gives idle connections to requests that wait for new ones; these become idle instead once they are made."""
        for handler, (opening, task) in tuple(self.waiting.items()):
            # The request was given up; its callback has not run yet.
            if task.cancelling():
                continue
            connection = self.take_idle()
            if connection is None:
                return
            del self.waiting[handler]
            opening.handler = None
            self.loop.call_later(MAX_OPENING_S, task.cancel)
            handler.on_connected(connection)

    def forget(self, connection: BackendConnection) -> None:
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def connect(self, handler: ResponseHandler) -> asyncio.Task[None]:
        """Opens a connection; calls ``on_connected`` or ``on_failure`` of ``handler``."""
        task = self.loop.create_task(self._connect(handler))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)
        return task

    async def _connect(self, handler: ResponseHandler) -> None:
        connection = BackendConnection(self, handler)
        self.connections.add(connection)
        task = asyncio.current_task(self.loop)
        # A retry after an idle close asks for a new one: another idle one may be closed just as well.
        if task is not None and not handler.fresh:
            self.waiting[handler] = connection, task
        endpoint = self.endpoint
        connected = False
        try:
            await self.loop.create_connection(
                lambda: connection,
                endpoint.host,
                endpoint.port,
                ssl=self.context,
                server_hostname=self.server_name,
            )
            connected = True
        except (OSError, UnicodeError) as error:
            if connection.handler is not None:
                self._report(handler, error)
        finally:
            if not connected:  # `forget` is called only for connections that were made
                self.connections.discard(connection)
                if connection.handler is not None:
                    self.waiting.pop(handler, None)
                    connection.handler = None  # it lives until the collector's turn: the request must not

    def made(self, connection: BackendConnection, handler: ResponseHandler) -> None:
        self.waiting.pop(handler, None)
        handler.on_connected(connection)

    def _report(self, handler: ResponseHandler, error: OSError | UnicodeError) -> None:
        """Tells ``handler`` why there is no connection; only its look-up finds out that a host name is not valid."""
        code, reason = "backend_connect", str(error)
        if isinstance(error, ssl.SSLError):
            code, reason = "backend_tls", getattr(error, "reason", None) or reason  # ours have no reason
        elif isinstance(error, OSError):
            reason = error.strerror or reason
        handler.on_failure(code, f"{self.name}: {reason}", idle_close=False)

    def sweep(self) -> None:
        """Closes connections that have been idle too long, oldest first; called about once a second."""
        now = self.time()
        idle = self.idle
        while idle and now - idle[0].idle_since > self.idle_timeout:
            idle[0].abandon()
            del idle[0]

    def close(self) -> None:
        """Closes the idle connections; those that serve a request end with it."""
        # `release` then keeps no connection that is in use now.
        self.max_idle = 0
        for connection in tuple(self.idle):
            connection.abandon()
        self.idle.clear()
