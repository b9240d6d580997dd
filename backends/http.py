"""ASGI without a framework: reading a body within a limit, and sending an answer in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from backends.errors import ClientLeft, InvalidInput, MethodNotAllowed, ServerError, TooLarge, Unavailable
from backends.wire.compression import unpack

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
BINARY: Final = (b"content-type", b"application/octet-stream")
OFFLOAD: Final = 256 * 1024
"""Bytes from which (de)compression moves to a thread; zlib lets the event loop run meanwhile."""


@dataclass(slots=True)
class Response:
    """An answer, whole."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


def as_json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status)


def error_response(error: ServerError) -> Response:
    """``{"error": message}`` under the error's status."""
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)
    if isinstance(error, Unavailable):
        headers = (JSON, (b"retry-after", b"%d" % error.retry_after))
    elif isinstance(error, MethodNotAllowed):
        headers = (JSON, (b"allow", error.allow.encode()))
    return Response(orjson.dumps({"error": error.message}), error.status, headers)


def header(headers: Headers, name: bytes) -> bytes | None:
    """The value of the field ``name`` (lower case). Raises InvalidInput when it is there more than once."""
    found = None
    for key, value in headers:
        if key == name:
            if found is not None:
                raise InvalidInput(f"the field {name.decode()} is there twice; send it once")
            found = value
    return found


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The request's body without content encoding. Raises TooLarge, ClientLeft, and as `unpack` does."""
    length = header(headers, b"content-length")
    if length is not None and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") or message["type"] != "http.request":
        body = await _rest(message, body, receive, limit)
    if len(body) > limit:
        raise too_large(limit)
    encoding = header(headers, b"content-encoding")
    if encoding is None:
        return body
    if len(body) > OFFLOAD:
        return await asyncio.to_thread(unpack, body, encoding.decode("latin-1"), limit)
    return unpack(body, encoding.decode("latin-1"), limit)


async def _rest(message: MutableMapping[str, Any], first: bytes, receive: Receive, limit: int) -> bytes:
    parts, size = [first], len(first)
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)


def too_large(limit: int) -> TooLarge:
    """The error for a body of more than ``limit`` bytes."""
    return TooLarge(f"the body has more than {limit} bytes; send fewer rows at a time")


async def send_response(response: Response, send: Send, extra: Headers) -> None:
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body)), *extra]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
