"""Base classes between a backend's connection and the requests that it serves.

They are classes and not protocols: mypyc calls the methods of a class through a table, those of a protocol by
name. Compiled classes have no interpreted subclasses, so every handler belongs to a module that is compiled.

The order of calls for one request:

    on_interim*  on_head  on_data*  on_end          a whole response
    ...          on_failure                         anything else, exactly once

``flush`` follows each batch of calls that came out of one read, so that a handler can pass many small pieces
on with one write.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class ResponseHead:
    """Status and fields of a response, checked."""

    __slots__ = (
        "bodiless", "chunked", "judged", "length", "lines", "request_id", "status", "status_due", "statusless",
        "until_close"
    )  # fmt: skip

    def __init__(
        self, status: int, lines: list[bytes], length: int, chunked: bool, bodiless: bool, until_close: bool
    ) -> None:
        self.status = status
        self.judged = status
        """The status by which the response is judged: 503 for a gRPC response that is UNAVAILABLE, for example."""
        self.status_due = False
        """Whether the status of a gRPC call is to follow the body: without one, clients take it for UNKNOWN."""
        self.statusless = False
        """Whether the response is over already, and no gRPC status came behind the head."""
        self.lines = lines
        """Whole field lines, ready to be written, without framing, hop-by-hop and gateway fields."""
        self.length = length
        """Content-Length; -1 if absent."""
        self.chunked = chunked
        self.bodiless = bodiless
        self.until_close = until_close
        """Whether the body ends with the connection."""
        self.request_id = b""
        """The backend's own X-Request-Id; b"" if it sent none."""


class ResponseHandler:
    """The sender of a request, which receives the response."""

    __slots__ = ("fresh", "upgrade")

    fresh: bool
    """Whether only a new connection will do."""
    upgrade: bytes
    """The lower-cased protocol that the request asks to change to; b"" for none: a 101 is then an error."""

    def on_connected(self, connection: Connection) -> None:
        """The connection that was asked for is open, or another has become free; ignored by default."""

    def on_interim(self, status: int, lines: list[bytes]) -> None:
        """A 1xx response other than 101 came; ignored by default."""

    def on_head(self, response: ResponseHead) -> None:
        """The head of the final response came; ignored by default."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body came; ignored by default."""

    def on_end(self, trailers: bytes) -> None:
        """The response is complete, with these field lines behind its body; ignored by default."""

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        """No whole response will come, for the reason ``code``.

        ``idle_close``: the connection had served before and ended without a byte, as if it had been idle for
        too long.
        """
        raise NotImplementedError

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        """The connection has changed to the protocol ``upgrade``; ``data`` came behind the head."""
        raise NotImplementedError

    def flush(self) -> None:
        """A read is over that has not ended the response; ignored by default."""

    def pause_upload(self) -> None:
        """The backend reads more slowly than the body comes; ignored by default."""

    def resume_upload(self) -> None:
        """The backend has read what waited; ignored by default."""


class RawHandler(Protocol):
    """The receiver of a connection's bytes once it has changed to another protocol."""

    def data_received(self, data: bytes) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Connection(asyncio.Protocol):
    """A connection to a backend, as its handler uses it."""

    __slots__ = ("closed", "handler", "sent_whole", "transport", "tunnel", "unread")

    transport: asyncio.Transport
    handler: ResponseHandler | None
    """None while the connection is idle."""
    closed: bool
    sent_whole: bool
    """Whether the request is complete."""
    unread: bool
    """Whether it is known that the backend has not read the last request."""
    tunnel: RawHandler | None
    """Set once the connection has changed to another protocol."""

    def send_request(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes]
    ) -> None:
        """Sends a whole request.

        Args:
            handler: Who receives the response.
            head_only: Whether the method is HEAD, so that no body follows the response's head.
            head: Parts of its head, written in HTTP/1.1; may be changed. The first begins with the request line and
                the host; the last has what frames the message, and is of this request alone.
            body: Pieces of its body.
        """
        raise NotImplementedError

    def begin_request(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes], chunked: bool
    ) -> None:
        """Sends the head and the first pieces of a body that goes on. ``chunked``: the head announces chunks."""
        raise NotImplementedError

    def send_body(self, pieces: list[bytes], end: bool) -> None:
        """Sends more of a body that was begun. ``end``: it is complete with this."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def abandon(self) -> None:
        """Ends the connection immediately, which is how the backend learns that the request was cancelled."""
        raise NotImplementedError
