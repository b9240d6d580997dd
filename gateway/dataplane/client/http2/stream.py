"""One stream of HTTP/2 with a request on it."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.client.refusal import Refusal
from gateway.dataplane.client.timeouts import BodyProgress
from gateway.errors import TurnoutError
from gateway.http.grpc import error_fields
from gateway.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR
from gateway.http2.fields import Field
from gateway.http2.hpack import REPEATED_LINES, STATUSES, encode_field, encode_lines
from gateway.http2.stream import Stream, StreamOwner

_TIMING: Final = encode_field(b"server-timing", b"")[:-1]
"""The encoded name of the gateway's last field, which follows the ids."""
MAX_SAID_BYTES: Final = 65_536
"""Of a body that says what went wrong."""


class StreamClient(ClientConnection):
    """A stream as the request on it sees it: a connection that carries one response."""

    __slots__ = ("_bodiless", "_foreign", "_head", "_ids", "_kept", "_said", "stream")

    def __init__(self, connection: ClientConnection, stream: RequestStream, now: float) -> None:
        self.runtime = connection.runtime
        self.snapshot = connection.snapshot
        self.transport = connection.transport
        self.forwarding = connection.forwarding
        self.role = connection.role
        self.surplus = connection.surplus
        self.lost = self.write_paused = False
        self.now = now
        self.stream = stream
        self._head = b""
        """The encoded head of a response that leaves with the next `send`."""
        self._bodiless = False
        self._foreign = 0
        """The status of a response to a gRPC call that is not gRPC; 0: it is."""
        self._ids = b""
        """The ids of the request, repeated in the trailers of a gRPC call: some clients show those alone."""
        self._kept = self._said = b""

    def send_interim(self, status: int, lines: list[bytes]) -> None:
        self.stream.send_head(STATUSES[status] + encode_lines(b"".join(lines)), end=False)
        self.stream.connection.flush_soon()

    def begin_response(
        self, request: PipelinedRequest, status: int, lines: list[bytes], length: int, bodiless: bool
    ) -> None:
        self._bodiless = bodiless
        own = lines.pop() if lines else b""
        encoded = encode_lines(own)
        if request.head.grpc:
            joined = b"".join([*lines, own])
            # A gRPC client reads the status from trailers alone: any other response needs one.
            if joined.lower().find(b"content-type: application/grpc") < 0:
                self._foreign, self._kept = status, grpc_lines(joined)
                return
            self._ids = encoded.partition(_TIMING)[0]
        block = [STATUSES[status], *[REPEATED_LINES[line] for line in lines], encoded]
        if length >= 0 and status != 204:
            block.append(encode_field(b"content-length", b"%d" % length))
        self._head = b"".join(block)

    def send(self, data: list[bytes], end: bool) -> None:
        stream = self.stream
        if self.lost or not stream.local_open:
            return
        if self._foreign:
            self._send_foreign(data, end)
            return
        body = b"" if self._bodiless else data[0] if len(data) == 1 else b"".join(data)
        head, self._head = self._head, b""
        if head and (end or self._bodiless):
            stream.send_message(head, body)
        else:
            if head:
                stream.send_head(head, end=False)
            if body or end:
                stream.send_data(body, end=end)
        stream.connection.flush_soon()

    def send_trailers(self, data: list[bytes], lines: bytes) -> None:
        stream = self.stream
        if self._foreign or self._bodiless:
            self.send(data, True)
        else:
            body, trailers = b"".join(data), REPEATED_LINES[lines] + self._ids
            if self._head:
                stream.send_message(self._head, body, trailers)
                self._head = b""
            else:
                if body:
                    stream.send_data(body)
                stream.send_trailers(trailers)
            stream.connection.flush_soon()

    def _send_foreign(self, data: list[bytes], end: bool) -> None:
        """Tells a gRPC client of a response that is not gRPC: in trailers alone, when it is complete."""
        if len(self._said) < MAX_SAID_BYTES:
            self._said += b"".join(data)
        if end:
            fields = [(b"content-type", b"application/grpc"), *error_fields(self._foreign, self._said)]
            head = b"".join(
                [STATUSES[200], *(encode_field(*field) for field in fields), encode_lines(self._kept)]
            )
            self.stream.send_head(head, end=True)
            self.stream.connection.flush_soon()

    def responded(self, request: PipelinedRequest) -> None:
        stream = self.stream
        stream.request = None
        # While data waits, a reset would discard it; `check` looks again.
        if stream.remote_open and not stream.blocked:
            stream.reset(NO_ERROR)  # the rest of the body is not wanted (RFC 9113 8.1)
            stream.connection.flush_soon()

    def abort(self) -> None:
        self.lost = True
        self.stream.request = None
        # Without an end of the stream, the client cannot take what it has for the whole response.
        self.stream.reset(INTERNAL_ERROR)
        self.stream.connection.flush_soon()

    def pause_body(self) -> None:
        self.stream.hold(full=True)

    def resume_body(self) -> None:
        self.stream.hold(full=False)


class RequestStream(Stream):
    """A stream that a client opened.

    Only its request refers to the `StreamClient`, which refers to the stream: no cycle is left for the collector.
    """

    __slots__ = ("_sent_before", "_taken_at", "body", "last_read", "request")

    def __init__(self, connection: StreamOwner, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.request: PipelinedRequest | None = None
        """None once its response is out."""
        self.body = BodyProgress()
        self.last_read = 0.0
        """`perf_counter` when a part of the body last came."""
        self._sent_before = 0
        self._taken_at = 0.0

    def begin(self, request: PipelinedRequest, now: float) -> None:
        """Serve ``request``, whose head is complete."""
        self.request = request
        self.body.since = now
        self.last_read = self._taken_at = now
        if isinstance(request, Refusal):
            request.refuse(request.error)  # a reset ends the body; there is no need to read it
        elif request.head.expects_continue:
            request.client.send_interim(100, [])

    # What arrives -----------------------------------------------------------------------------------
    def on_data(self, data: bytes) -> None:
        request = self.request
        if request is None:
            return
        self.last_read = perf_counter()
        self.body.read += len(data)
        if self.body.read > request.body_limit:
            self._refuse(request, TurnoutError("body_too_large"))
        else:
            request.on_request_data(data)
            if self.body.read == self.expected:  # the end of the stream may come later, or never
                request.on_request_end()

    def on_end(self, trailers: list[Field]) -> None:
        request = self.request
        if request is not None and not request.complete:
            request.on_request_end()

    def on_batch_end(self) -> None:
        if self.request is not None:
            self.request.advance()

    def on_reset(self, code: int) -> None:
        request, self.request = self.request, None
        if request is not None:
            request.client.lost = True
            request.client_lost()

    # Responses --------------------------------------------------------------------------------------
    def on_blocked(self) -> None:
        request = self.request
        if request is not None and not request.client.write_paused:
            request.client.write_paused = True
            request.pause_response()

    def on_drained(self) -> None:
        request = self.request
        if request is not None and request.client.write_paused:
            request.client.write_paused = False
            request.resume_response()

    # Time -------------------------------------------------------------------------------------------
    def check(self, now: float, write_timeout: float) -> None:
        """End what takes too long. Called about once a second."""
        if not self.blocked or self.sent > self._sent_before:
            self._sent_before, self._taken_at = self.sent, now
        elif now - self._taken_at > write_timeout:
            self.reset(CANCEL)
            self.on_reset(CANCEL)
            return
        request = self.request
        if request is None:
            if self.remote_open and not self.blocked:  # see `StreamClient.responded`: now the response is out
                self.reset(NO_ERROR)
            return
        if request.complete:
            return
        if self.held:  # the client is not slow: its bytes have no taker
            self.body.since += now - self.last_read
            self.last_read = now
        elif self.body.too_slow(now, self.last_read, request.client.snapshot.limits):
            self._refuse(request, TurnoutError("request_timeout"))

    def _refuse(self, request: PipelinedRequest, error: TurnoutError) -> None:
        """The rest of the request is not read; its attempt must never look complete to the backend."""
        request.head.close = True
        request.refuse(error)
        request.advance()


def grpc_lines(lines: bytes) -> bytes:
    """``lines`` without those that describe a body."""
    kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"content-")]
    return b"\r\n".join(kept)
