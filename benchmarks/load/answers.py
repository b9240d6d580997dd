"""A client's side of one keep-alive connection: sends raw bytes, knows when the answer is whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One request at a time. ``done(connection, good)`` is called when its answer is whole, or lost."""

    __slots__ = ("_buffer", "_done", "busy", "sent_at", "transport")

    def __init__(self, done: Callable[[Connection, bool], None]) -> None:
        self._done = done
        self._buffer = b""
        self.busy = False
        self.sent_at = 0
        """The intended moment of the request in flight; nanoseconds of `time.monotonic_ns`."""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def send(self, request: bytes, at_ns: int) -> None:
        self.busy = True
        self.sent_at = at_ns
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        good = complete(data)
        if good is None:
            self._buffer = data
            return
        self._buffer = b""
        self.busy = False
        self._done(self, good)

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self._done(self, False)


def complete(data: bytes) -> bool | None:
    """None while the answer is not whole; else whether it is exactly one answer with a status of 200."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(data, 0, end + 2)
    if length is not None:
        missing = end + 4 + int(length[1]) - len(data)
        return None if missing > 0 else missing == 0 and data[9:12] == b"200"
    return data[9:12] == b"200" if data.endswith(_LAST_CHUNK) else None
