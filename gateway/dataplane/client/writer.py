"""Framing of the responses on an HTTP/1.1 connection."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from gateway.dataplane.base import ClientConnection, PipelinedRequest, Role, Runtime
from gateway.dataplane.client.timeouts import WriteProgress
from gateway.http.fields import STATUS_LINES

PLAIN: Final = 0
"""How a body is sent: as it is;"""
CHUNKED: Final = 1
"""in chunks;"""
BODILESS: Final = 2
"""not at all."""


class ResponseWriter(ClientConnection):
    """The half of a connection that writes; one response at a time is in flight."""

    __slots__ = ("_framing", "_head", "progress")

    def __init__(self, runtime: Runtime, role: Role) -> None:
        self.runtime = runtime
        self.snapshot = runtime.snapshot
        self.transport = cast("asyncio.Transport", None)
        self.role = role
        self.surplus = self.lost = self.write_paused = False
        self.now = 0.0
        self.progress = WriteProgress()
        self._head: list[bytes] = []
        """The head of a response that leaves with the next `send`, in parts."""
        self._framing = PLAIN

    def write(self, data: bytes) -> None:
        if not self.lost:
            self.progress.written += len(data)
            self.transport.write(data)

    def send_interim(self, status: int, lines: list[bytes]) -> None:
        self.write(b"".join((STATUS_LINES[status], *lines, b"\r\n")))

    def begin_response(
        self, request: PipelinedRequest, status: int, lines: list[bytes], length: int, bodiless: bool
    ) -> None:
        head = request.head
        framing = b""
        self._framing = BODILESS if bodiless else PLAIN
        if length >= 0:
            # RFC 9110 8.6: a 204 has no Content-Length.
            if status != 204:
                framing = b"content-length: %d\r\n" % length
        elif not bodiless:
            # It knows no chunks: the end of the connection ends the body.
            if head.http10:
                head.close = True
            else:
                self._framing = CHUNKED
                framing = b"transfer-encoding: chunked\r\n"
        if head.close or self.runtime.draining:
            head.close = True
            connection = b"connection: close\r\n"
        else:
            # HTTP/1.0 closes unless both sides say so.
            connection = b"connection: keep-alive\r\n" if head.http10 else b""
        lines.insert(0, STATUS_LINES[status])
        lines += (framing, connection, b"\r\n")
        self._head = lines

    def send(self, data: list[bytes], end: bool) -> None:
        parts, self._head = self._head, []
        if self._framing == PLAIN:
            parts += data
        elif self._framing == CHUNKED:
            size = sum(map(len, data))
            # An empty chunk would be the end of the body.
            if size:
                parts.append(b"%x\r\n" % size)
                parts += data
                parts.append(b"\r\n0\r\n\r\n" if end else b"\r\n")
            elif end:
                parts.append(b"0\r\n\r\n")
        if parts and not self.lost:
            piece = b"".join(parts)
            self.progress.written += len(piece)
            self.transport.write(piece)
