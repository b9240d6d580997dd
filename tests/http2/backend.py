"""A backend that speaks HTTP/2 with prior knowledge, on the `h2` package; tests tell it what to respond."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived, WindowUpdated
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import Settings

Pairs = list[tuple[bytes, bytes]]


@dataclass
class Request:
    connection: Connection
    stream: int
    fields: Pairs
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    complete: bool = False
    reset: bool = False
    window: int = 0
    """The largest that the response could use."""

    def get(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


Plan = Callable[["Request"], None]


@dataclass
class Http2Backend:
    requests: list[Request] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    plans: deque[Plan] = field(default_factory=deque)
    """For the requests to come, called when they are complete; without any a request is echoed."""
    settings: dict[int, int] = field(default_factory=dict)
    leaves: bool = False
    """Whether a GOAWAY follows the settings in one packet."""
    upgrades: list[bytes] = field(default_factory=list)
    """Requests that came in HTTP/1.1."""
    port: int = 0
    server: asyncio.Server | None = None

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, ssl=context)
        self.port = self.server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        for connection in self.connections:
            connection.transport.abort()
        self.requests.clear()
        self.upgrades.clear()
        self.connections.clear()
        self.plans.clear()
        self.settings.clear()
        self.leaves = False

    async def stop(self) -> None:
        self.reset()
        assert self.server is not None
        self.server.close()
        await asyncio.sleep(0.01)


def echo(request: Request) -> None:
    request.connection.respond(
        request, [(b":status", b"200"), (b"content-type", b"text/plain")], request.body
    )


class Upgrading(asyncio.Protocol):
    """A connection in HTTP/1.1, whose first request becomes a WebSocket that echoes bytes."""

    def __init__(self, transport: asyncio.Transport, upgrades: list[bytes]) -> None:
        self.transport = transport
        self.upgrades = upgrades
        self.switched = False

    def data_received(self, data: bytes) -> None:
        if self.switched:
            self.transport.write(data)
            return
        self.switched = True
        self.upgrades.append(data)
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )


class Connection(asyncio.Protocol):
    def __init__(self, backend: Http2Backend) -> None:
        self.backend = backend
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.open = True
        self.requests: dict[int, Request] = {}
        self.waiting: dict[int, tuple[bytes, Pairs | None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.backend.connections.append(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "http/1.1":
            self.transport.set_protocol(Upgrading(self.transport, self.backend.upgrades))
            return
        if self.backend.settings:
            self.h2.local_settings = Settings(client=False, initial_values=cast("Any", self.backend.settings))
        self.h2.initiate_connection()
        if self.backend.leaves:
            self.h2.close_connection()
        self.flush()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.open = False

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self.backend.leaves:
            return
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            self.flush()
            self.transport.close()
            raise
        for event in events:
            self.on_event(event)
        self.flush()

    def on_event(self, event: object) -> None:
        if isinstance(event, RequestReceived):
            request = Request(self, event.stream_id, [(bytes(n), bytes(v)) for n, v in event.headers])
            self.requests[event.stream_id] = request
            self.backend.requests.append(request)
        elif isinstance(event, DataReceived):
            self.requests[event.stream_id].body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            self.requests[event.stream_id].trailers = [(bytes(n), bytes(v)) for n, v in event.headers]
        elif isinstance(event, StreamEnded):
            request = self.requests[event.stream_id]
            request.complete = True
            plan = self.backend.plans.popleft() if self.backend.plans else echo
            plan(request)
        elif isinstance(event, StreamReset):
            self.requests[event.stream_id].reset = True
            self.waiting.pop(event.stream_id, None)
        elif isinstance(event, WindowUpdated):
            for stream in list(self.waiting):
                with suppress(StreamClosedError):  # it is reset in the same read
                    self._send(stream)

    def respond(
        self, request: Request, head: Pairs, body: bytes = b"", trailers: Pairs | None = None
    ) -> None:
        self.h2.send_headers(request.stream, head, end_stream=not body and trailers is None)
        if body or trailers is not None:
            self.waiting[request.stream] = (body, trailers)
            self._send(request.stream)

    def _send(self, stream: int) -> None:
        body, trailers = self.waiting[stream]
        request = self.requests[stream]
        request.window = max(request.window, self.h2.local_flow_control_window(stream))
        while body and (room := min(self.h2.local_flow_control_window(stream), 16_384)):
            self.h2.send_data(stream, body[:room], end_stream=len(body) <= room and trailers is None)
            body = body[room:]
        if body:
            self.waiting[stream] = (body, trailers)
            return
        del self.waiting[stream]
        if trailers is not None:
            self.h2.send_headers(stream, trailers, end_stream=True)
