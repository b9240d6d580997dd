"""Requests as bytes, and what the recording backend "a" says to them."""

from __future__ import annotations

from tests.support.client import Client

H = b"host: gateway.test\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
TE = b"transfer-encoding: chunked\r\n"


def get(
    target: bytes = b"/p/x",
    *lines: bytes,
    version: bytes = b"HTTP/1.1",
    method: bytes = b"GET",
    host: bytes = H,
) -> bytes:
    return b"%b %b %b\r\n%b%b\r\n" % (
        method,
        target,
        version,
        host,
        b"".join(each + b"\r\n" for each in lines),
    )


def post(target: bytes, body: bytes, *lines: bytes, length: int | None = None) -> bytes:
    size = b"content-length: %d" % (len(body) if length is None else length)
    return get(target, size, *lines, method=b"POST") + body


def with_lines(
    *lines: bytes, target: bytes = b"/p/x", version: bytes = b"HTTP/1.1", host: bytes = H
) -> bytes:
    return get(target, *lines, version=version, host=host)


def framed(*lines: bytes, body: bytes = b"", method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    """A request whose ``lines`` say how long its ``body`` is, or don't."""
    return get(b"/p/x", *lines, method=method, version=version) + body


PROBE = get(b"/p/probe")


def marker(method: bytes, target: bytes, size: int = 0) -> bytes:
    return b"A|%b|%b|%d" % (method, target, size)


def kept(client: Client, *lines: bytes) -> bool:
    """Whether the connection serves another request."""
    client.send(get(b"/p/probe", *lines))
    return client.answer().body == marker(b"GET", b"/p/probe")
