"""HTTP/2 and unary gRPC without sockets, for `benchmarks.instructions`: bytes of one client and of one backend.

Requests and responses are what h2load and grpcio send and what their upstreams of `benchmarks.http2` respond with;
`hpack` encodes them, so that what is repeated comes as an index.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import hpack

from benchmarks.hotpath import Transport
from gateway.dataplane.client.protocol import ClientProtocol
from gateway.http2 import frames
from gateway.running import Gateway
from gateway.transport.http2_address import Http2Address
from gateway.transport.http2_connection import Http2Connection

DEPTH: Final = 8
"""Requests that arrive in one read, like those that a client with eight open streams sends together."""
BODY: Final = b"x" * 74
Fields = list[tuple[str, str]]
_GREETING: Final = (
    frames.settings([(frames.INITIAL_WINDOW_SIZE, frames.MAX_WINDOW)])
    + frames.SETTINGS_ACK
    + frames.window_update(0, 1 << 30)
)
_HTTP2: Final[tuple[bytes, Fields, Fields, Fields]] = (
    BODY,
    [
        (":method", "POST"),
        (":path", "/v2/models/m/infer"),
        (":scheme", "http"),
        (":authority", "127.0.0.1:8000"),
        ("user-agent", "h2load nghttp2/1.52.0"),
        ("x-user-id", "u1"),
        ("content-length", str(len(BODY))),
    ],
    [
        (":status", "200"),
        ("content-length", str(len(BODY))),
        ("content-type", "text/plain"),
        ("date", "Sat, 28 Nov 2026 08:00:00 GMT"),
        ("server", "envoy"),
    ],
    [],
)
_GRPC: Final[tuple[bytes, Fields, Fields, Fields]] = (
    len(BODY).to_bytes(5, "big") + BODY,
    [
        (":scheme", "http"),
        (":method", "POST"),
        (":authority", "127.0.0.1:8000"),
        (":path", "/bench.Echo/Unary"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-python/1.76.0 grpc-c/51.0.0 (linux; chttp2)"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("grpc-timeout", "30S"),
        ("x-user-id", "u1"),
    ],
    [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
    ],
    [("grpc-status", "0"), ("grpc-message", "")],
)


class Http2Transport(Transport):
    """Counts what is written, and takes the protocol that serves HTTP/2."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.sent = 0

    def write(self, data: bytes) -> None:
        self.written = data
        self.sent += len(data)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Http2Feed:
    """One client and one backend, whose connections are open."""

    def __init__(self, gateway: Gateway, *, grpc: bool) -> None:
        self._body, self._request, self._response, self._trailers = _GRPC if grpc else _HTTP2
        self._requests, self._responses = hpack.Encoder(), hpack.Encoder()
        self.client, self._stream = Http2Transport(), 1
        first = ClientProtocol(gateway.worker)
        first.connection_made(cast("Any", self.client))
        first.data_received(frames.PREFACE + _GREETING)
        address = next(iter(gateway.in_force.registry.addresses.values()))
        assert isinstance(address, Http2Address)
        self.backend = Http2Connection(address.sessions)
        self.backend.connection_made(cast("Any", Http2Transport()))
        self.backend.data_received(_GREETING)
        session = self.backend.session
        assert session is not None
        self._session = session
        address.sessions.all[session] = 0.0

    def _message(
        self, encoder: hpack.Encoder, stream: int, fields: Fields, body: bytes, trailers: Fields
    ) -> bytes:
        flags = 0 if trailers else frames.END_STREAM
        parts = [
            frames.header_frames(stream, encoder.encode(fields), end_stream=False),
            frames.header(len(body), frames.DATA, flags, stream) + body,
        ]
        if trailers:
            parts.append(frames.header_frames(stream, encoder.encode(trailers), end_stream=True))
        return b"".join(parts)

    def requests(self, count: int) -> list[bytes]:
        """The bytes of the next ``count`` requests, in reads of `DEPTH`."""
        reads = []
        for _ in range(0, count, DEPTH):
            read = []
            for _ in range(DEPTH):
                read.append(self._message(self._requests, self._stream, self._request, self._body, []))
                self._stream += 2
            reads.append(b"".join(read))
        return reads

    def responses(self, count: int) -> list[bytes]:
        """The bytes of the backend's next ``count`` responses, in reads of `DEPTH`."""
        reads, stream = [], self._session.highest or -1
        for _ in range(0, count, DEPTH):
            read = []
            for _ in range(DEPTH):
                stream += 2
                read.append(
                    self._message(self._responses, stream, self._response, self._body, self._trailers)
                )
            reads.append(b"".join(read))
        return reads

    async def serve(self, requests: list[bytes], responses: list[bytes]) -> None:
        """Requests in, the backend's responses back; the loop turns between the two."""
        client, backend, turn = self.client.protocol.data_received, self.backend.data_received, asyncio.sleep
        for request, response in zip(requests, responses, strict=True):
            client(request)
            await turn(0)
            backend(response)
            await turn(0)
        if self._session.streams or self._session.highest != self._stream - 2:
            raise RuntimeError(f"requests were not served: {self.client.written[:200]!r}")
