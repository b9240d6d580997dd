"""Requests and responses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol

import orjson

from backends.errors import MethodNotAllowed, ServerError, Unavailable
from backends.http.request_head import RequestHead

log = logging.getLogger("turnout.backend")

Fields = tuple[tuple[bytes, bytes], ...]

JSON: Final = (b"content-type", b"application/json")
BINARY: Final = (b"content-type", b"application/octet-stream")
JSON_ONLY: Final[Fields] = (JSON,)
MIN_PIECE_BYTES: Final = 4096
"""Smaller pieces of a body are joined as they come: a chunk of a byte would cost fifty as an object of its own."""
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class ResponseWriter(Protocol):
    """The connection of a request; see the methods of `Request` with the same names."""

    def respond(self, request: Request, response: Response) -> None: ...
    def spawn(self, request: Request, work: Coroutine[None, None, None]) -> None: ...
    def start(self, request: Request, fields: Fields) -> None: ...
    def send(self, request: Request, data: bytes) -> None: ...
    def end(self, request: Request) -> None: ...


class Request:
    """One request on a connection; `respond`, or `start` and `end`, is called once."""

    __slots__ = ("abandon", "body", "close", "connection", "head")

    def __init__(self, connection: ResponseWriter, head: RequestHead, body: bytes = b"") -> None:
        self.connection = connection
        self.head = head
        self.body = body
        self.close = head.close
        """Whether the connection ends with the response."""
        self.abandon: Callable[[], None] | None = None
        """Called once if the client leaves before the response is complete."""

    def respond(self, response: Response) -> None:
        """Sends a whole response."""
        self.connection.respond(self, response)

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


def add_piece(pieces: list[bytes | bytearray], data: bytes) -> None:
    """Appends ``data`` to the ``pieces`` of a body."""
    if len(data) >= MIN_PIECE_BYTES or not pieces:
        pieces.append(data)
    elif isinstance(pieces[-1], bytearray):
        pieces[-1] += data
    else:
        pieces.append(bytearray(data))


@dataclass(slots=True)
class Response:
    """A whole response."""

    body: bytes
    status: int = 200
    fields: Fields = JSON_ONLY


@lru_cache(256)
def response_head(status: int, fields: Fields, close: bool, http10: bool = False) -> bytes:
    """The status line and the fields, without the empty line."""
    parts = [_STATUS_LINES[status], *[b"%b: %b\r\n" % field for field in fields]]
    if close:
        parts.append(b"connection: close\r\n")
    elif http10:
        parts.append(b"connection: keep-alive\r\n")
    return b"".join(parts)


def as_json(document: object, status: int = 200) -> Response:
    """``document`` as a JSON response."""
    try:
        return Response(orjson.dumps(document), status)
    except TypeError:  # a name in the model repository that is not UTF-8
        return Response(json.dumps(document, ensure_ascii=False).encode(errors="replace"), status)


def error_response(error: ServerError) -> Response:
    """``{"error": message}`` under the error's status."""
    fields = JSON_ONLY
    if isinstance(error, Unavailable):
        fields = (JSON, (b"retry-after", b"%d" % error.retry_after))
    elif isinstance(error, MethodNotAllowed):
        fields = (JSON, (b"allow", error.allow.encode()))
    return Response(orjson.dumps({"error": error.message}), error.status, fields)


def failure_response(request: str, error: Exception) -> Response:
    """The response to ``request``, which raised ``error``; what is not a `ServerError` goes into the log only."""
    if not isinstance(error, ServerError):
        log.error("%s failed", request, exc_info=error)
        error = ServerError()
    return error_response(error)


async def guarded(request: Request, work: Coroutine[None, None, None]) -> None:
    """Awaits ``work``; whatever it raises, ``request`` gets a response."""
    try:
        await work
    except Exception as error:  # noqa: BLE001  a fault of ours, too
        request.respond(failure_response(str(request.head), error))
