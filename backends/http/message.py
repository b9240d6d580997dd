"""Requests and responses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

import orjson

from backends.errors import InvalidInput, MethodNotAllowed, ServerError, Unavailable, UnsupportedVersion

Fields = tuple[tuple[bytes, bytes], ...]

JSON: Final = (b"content-type", b"application/json")
BINARY: Final = (b"content-type", b"application/octet-stream")
JSON_ONLY: Final[Fields] = (JSON,)
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class ResponseWriter(Protocol):
    """The connection of a request; see the methods of `Request` with the same names."""

    @property
    def draining(self) -> bool:
        """Whether the response ends the connection."""
        ...

    def respond(self, request: Request, response: Response) -> None: ...
    def respond_raw(self, request: Request, data: bytes) -> None: ...
    def spawn(self, request: Request, work: Coroutine[None, None, None]) -> None: ...
    def start(self, request: Request, fields: Fields) -> None: ...
    def send(self, request: Request, data: bytes) -> None: ...
    def end(self, request: Request) -> None: ...


class Request:
    """One request on a connection; `respond`, or `start` and `end`, is called once."""

    __slots__ = (
        "abandon",
        "accept_encoding",
        "body",
        "close",
        "connection",
        "content_encoding",
        "expects_continue",
        "header_length",
        "hosts",
        "http10",
        "length",
        "method",
        "of_page",
        "repeated",
        "streaming",
        "target",
        "transfer_encodings",
    )

    def __init__(self, connection: ResponseWriter) -> None:
        self.connection = connection
        self.method = b""
        self.target = b""
        self.body = b""
        self.header_length: bytes | None = None
        """``inference-header-content-length``."""
        self.content_encoding: bytes | None = None
        self.accept_encoding: bytes | None = None
        self.transfer_encodings: list[bytes] | None = None
        self.expects_continue = False
        self.hosts = 0
        self.length = 0
        """As `content-length` says; 0 without one."""
        self.repeated = b""
        """A field that may be there only once and is there twice."""
        self.http10 = False
        self.of_page = False
        """Whether a web page sent it: browsers add `origin` to every POST."""
        self.close = False
        """Whether the connection ends with the response."""
        self.streaming = False
        self.abandon: Callable[[], None] | None = None
        """Called once if the client leaves before the response is complete."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def field(self, name: bytes, value: bytes) -> None:
        """Takes a field of the head; ``name`` as it came."""
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"content-length":
            self.length = int(value) if len(value) < 20 else sys.maxsize
        elif name == b"inference-header-content-length":
            if self.header_length is not None:
                self.repeated = name
            self.header_length = value
        elif name == b"content-encoding":
            if self.content_encoding is not None:
                self.repeated = name
            self.content_encoding = value
        elif name == b"accept-encoding":
            self.accept_encoding = (
                value if self.accept_encoding is None else self.accept_encoding + b"," + value
            )
        elif name == b"transfer-encoding":
            self.transfer_encodings = [*(self.transfer_encodings or ()), value]
        elif name == b"origin":
            self.of_page = True
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"

    def respond(self, response: Response) -> None:
        """Sends a whole response."""
        self.connection.respond(self, response)

    def respond_raw(self, data: bytes) -> None:
        """Sends a whole response that keeps the connection open, head included."""
        self.connection.respond_raw(self, data)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Runs ``work``, which responds; the errors that it raises become the response."""
        self.connection.spawn(self, work)

    def start(self, fields: Fields) -> None:
        """Sends the head of a 200 whose body follows in pieces."""
        self.connection.start(self, fields)

    def send(self, data: bytes) -> None:
        """Sends a piece of the body."""
        self.connection.send(self, data)

    def end(self) -> None:
        """Completes a response begun with `start`."""
        self.connection.end(self)


def check_head(request: Request, version: str, upgrade: bool) -> None:
    """Raises what RFC 9112 demands and the parser leaves to its user."""
    if version not in ("1.0", "1.1"):
        raise UnsupportedVersion("send HTTP/1.1 or HTTP/1.0")
    request.http10 = version == "1.0"
    if upgrade:
        # The parser skips the body of such a request, and would take it for the next one.
        raise InvalidInput("there is nothing to upgrade to; send a plain request")
    codings = request.transfer_encodings
    if codings is not None and (request.http10 or [coding.lower() for coding in codings] != [b"chunked"]):
        raise InvalidInput("transfer-encoding is not chunked, once; send a content-length instead")
    if request.hosts > 1 or (not request.http10 and not request.hosts):
        raise InvalidInput("send one host field")
    if request.repeated:
        raise InvalidInput(f"the field {request.repeated.decode()} is there twice; send it once")


@dataclass(slots=True)
class Response:
    """A whole response."""

    body: bytes
    status: int = 200
    fields: Fields = JSON_ONLY


def head(status: int, fields: Fields, *, close: bool = False, http10: bool = False) -> bytes:
    """The status line and the fields, without the empty line."""
    parts = [_STATUS_LINES[status], *[b"%b: %b\r\n" % field for field in fields]]
    if close:
        parts.append(b"connection: close\r\n")
    elif http10:
        parts.append(b"connection: keep-alive\r\n")
    return b"".join(parts)


def as_json(document: object, status: int = 200) -> Response:
    """``document`` as a JSON response."""
    return Response(orjson.dumps(document), status)


def error_response(error: ServerError) -> Response:
    """``{"error": message}`` under the error's status."""
    fields = JSON_ONLY
    if isinstance(error, Unavailable):
        fields = (JSON, (b"retry-after", b"%d" % error.retry_after))
    elif isinstance(error, MethodNotAllowed):
        fields = (JSON, (b"allow", error.allow.encode()))
    return Response(orjson.dumps({"error": error.message}), error.status, fields)
