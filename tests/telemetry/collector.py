"""A collector: a real HTTP server that takes OTLP and reads it with the published protobuf classes."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

KINDS = {Message.SPAN_KIND_SERVER: "server", Message.SPAN_KIND_CLIENT: "client"}
FAILED = Status.STATUS_CODE_ERROR


@dataclass(frozen=True)
class Span:
    """One span, as a collector sees it. Ids in hexadecimal, times in seconds since the epoch."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    state: str
    flags: int
    begun: float
    ended: float
    failed: bool
    attributes: dict[str, Any]
    events: dict[str, float]
    links: list[tuple[str, str]]
    resource: dict[str, Any] = field(repr=False)

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    assert kind is not None
    return getattr(pair.value, kind)


def _values(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    found = {pair.key: _value(pair) for pair in pairs}
    assert len(found) == len(pairs), "an attribute is there twice"
    return found


def decode(body: bytes) -> Iterator[Span]:
    """The spans of an ExportTraceServiceRequest; AssertionError for what a strict collector would complain of."""
    message = ExportTraceServiceRequest.FromString(body)
    message.DiscardUnknownFields()
    assert message.ByteSize() == len(body), "it holds fields that are not of the protocol"
    for resource in message.resource_spans:
        about = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            assert (scope.scope.name, bool(scope.scope.version)) == ("turnout", True)
            for span in scope.spans:
                assert (len(span.trace_id), len(span.span_id)) == (16, 8)
                assert len(span.parent_span_id) in (0, 8)
                yield Span(
                    name=span.name,
                    kind=KINDS[span.kind],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    state=span.trace_state,
                    flags=span.flags,
                    begun=span.start_time_unix_nano / 1e9,
                    ended=span.end_time_unix_nano / 1e9,
                    failed=span.status.code == FAILED,
                    attributes=_values(span.attributes),
                    events={event.name: event.time_unix_nano / 1e9 for event in span.events},
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    resource=about,
                )


Answer = tuple[int, Mapping[str, str], bytes]
GOOD: Answer = (200, {"content-type": "application/x-protobuf"}, b"")


def partial(rejected: int, why: str) -> Answer:
    """It took all but so many."""
    message = ExportTraceServiceResponse()
    message.partial_success.rejected_spans = rejected
    message.partial_success.error_message = why
    return 200, {"content-type": "application/x-protobuf"}, message.SerializeToString()


class Collector:
    """What came, and what is answered: ``answer`` may be replaced at any time."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._decoded: dict[bytes, list[Span]] = {}
        self.heads: list[tuple[str, dict[str, str]]] = []
        """(path, lower-cased fields) of each delivery."""
        self.answer: Callable[[], Answer] = lambda: GOOD
        self.raw: bytes | None = None
        """Sent in place of an answer."""
        self.port = 0

    @property
    def spans(self) -> list[Span]:
        bodies = tuple(self.bodies)  # another thread takes more
        for body in bodies:
            if body not in self._decoded:
                self._decoded[body] = list(decode(body))
        return [span for body in bodies for span in self._decoded[body]]

    def wait(self, number: int, seconds: float = 60.0) -> list[Span]:
        """The spans, once there are so many; AssertionError if there never are, or soon after if there are more."""
        end = time.monotonic() + seconds
        while len(found := self.spans) < number:
            assert time.monotonic() < end, f"{len(found)} of {number} spans came"
            time.sleep(0.02)
        assert len(found) == number, [span.name for span in found]
        return found


@contextmanager
def collector(port: int = 0, *, context: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """A collector on a port of the loopback interface."""
    made = Collector()
    taken: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.heads.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            if made.raw is not None:
                self.wfile.write(made.raw)
                self.close_connection = True
                return
            status, fields, answer = made.answer()
            if status == 200:
                made.bodies.append(body)
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Tests are told of what matters by what came."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

        def process_request(self, request: Any, client_address: Any) -> None:
            taken.append(request)
            super().process_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A gateway that gave up waiting is part of some tests."""

    server = Server(("127.0.0.1", port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for connection in taken:  # those that rest would be served on by their threads
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
