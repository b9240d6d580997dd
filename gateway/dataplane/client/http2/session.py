"""The requests of one HTTP/2 connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.dataplane.base import ClientConnection
from gateway.dataplane.client.classify import classify
from gateway.dataplane.client.http2.head import again, fill
from gateway.dataplane.client.http2.stream import RequestStream, StreamClient
from gateway.dataplane.client.refusal import Refusal
from gateway.dataplane.request.head import Head
from gateway.errors import TurnoutError
from gateway.http2.connection import Connection
from gateway.http2.errors import PROTOCOL_ERROR, ConnectionFault, StreamFault
from gateway.http2.hpack import HeaderList
from gateway.http2.limits import MAX_TURN_FRAMES, Limits
from gateway.http2.stream import Stream

PSEUDO_FIELDS: Final = 4
"""Pseudo-header fields of a request, which ``limits.fields`` does not count."""


class StreamCarrier(ClientConnection):
    """The connection below a session."""

    __slots__ = ()

    def on_idle(self) -> None:
        """No stream is open any more."""
        raise NotImplementedError


class Session(Connection):
    """Makes a request of each stream that the client opens."""

    __slots__ = ("protocol",)

    def __init__(self, protocol: StreamCarrier) -> None:
        limits = protocol.runtime.snapshot.limits
        fields = limits.fields + PSEUDO_FIELDS
        super().__init__(
            Limits(max_list_bytes=limits.head, max_fields=fields, turn_frames=MAX_TURN_FRAMES), client=False
        )
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.protocol.write(data)

    def _call_soon(self, work: Callable[[], None]) -> None:
        self.protocol.runtime.loop.call_soon(work)

    def on_ended(self, fault: ConnectionFault | None) -> None:
        self.protocol.abort()

    def on_idle(self) -> None:
        self.protocol.on_idle()

    def on_head(self, stream_id: int, headers: HeaderList, *, end: bool) -> Stream:
        protocol = self.protocol
        protocol.snapshot = snapshot = protocol.runtime.snapshot
        fields = headers.as_request()
        if fields.fault and not headers.oversized:
            raise StreamFault(PROTOCOL_ERROR, fields.fault)
        now = protocol.now
        stream = RequestStream(self, stream_id)
        client = StreamClient(protocol, stream, now)
        stream.expected = fields.length
        # Before the checks: an error response needs an open stream.
        self.adopt(stream)
        if protocol.surplus:
            self.close()  # one error response, and no further streams
        known = fields.head
        # Each configuration has a table of its own.
        if known is None or fields.head_for is not snapshot.actions:
            known = Head(now)
            try:
                fill(known, fields, snapshot, oversized=headers.oversized)
            except TurnoutError as error:
                known.close = True
                stream.begin(Refusal(client, known, error, last=True), now)
                return stream
            fields.head, fields.head_for = known, snapshot.actions
        assert isinstance(known, Head)
        stream.begin(classify(client, again(known, now, end=end)), now)
        return stream

    def check(self, now: float) -> None:
        """End the streams that take too long."""
        timeout = self.protocol.runtime.snapshot.limits.write_timeout
        for stream in tuple(self.streams.values()):
            assert isinstance(stream, RequestStream)
            stream.check(now, timeout)
        self.flush()

    def cut_short(self) -> None:
        """The process ends: every request in flight gets its end."""
        for stream in tuple(self.streams.values()):
            assert isinstance(stream, RequestStream)
            if stream.request is not None:
                stream.request.cut_short()
