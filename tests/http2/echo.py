"""A server on the layer without I/O that sends each request's body back."""

from __future__ import annotations

from gateway.http2.connection import Connection
from gateway.http2.errors import PROTOCOL_ERROR, ConnectionFault, StreamFault
from gateway.http2.fields import RequestFields
from gateway.http2.hpack import STATUSES, HeaderList
from gateway.http2.limits import Limits
from gateway.http2.stream import Stream
from tests.http2.raw import Reader


class Echo(Stream):
    """Answers with the request's body when it is complete."""

    def __init__(self, connection: Connection, stream_id: int, status: int) -> None:
        super().__init__(connection, stream_id)
        self.status = status
        self.body = b""
        self.answered = False
        self.reset_by = -1

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_reset(self, code: int) -> None:
        self.reset_by = code

    def on_batch_end(self) -> None:
        if not self.answered and (not self.remote_open or self.status != 200) and self.local_open:
            self.answered = True
            self.send_head(STATUSES[self.status], end=not self.body)
            if self.body:
                self.send_data(self.body, end=True)


class Server(Connection):
    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits or Limits(), client=False)
        self.reader = Reader()
        self.written = 0
        self.requests: list[RequestFields] = []
        self.fault: ConnectionFault | None = None
        self.echo = Echo

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self.reader.feed(data)

    def on_head(self, stream_id: int, headers: HeaderList, *, end: bool) -> Stream:
        request = RequestFields(headers.fields)
        stream = self.echo(self, stream_id, 200)
        if headers.oversized:
            stream.status = 431
        elif request.fault:
            raise StreamFault(PROTOCOL_ERROR, request.fault)
        stream.expected = request.length
        self.requests.append(request)
        self.adopt(stream)
        return stream

    def on_ended(self, fault: ConnectionFault | None) -> None:
        self.fault = fault
