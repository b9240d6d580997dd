"""uvicorn's HTTP protocol, without the hole that it has for upgrades, and with a limit on the head.

httptools skips the body of a request that asks for an upgrade, and what follows it would be read as
the next request: behind a proxy that shares connections, a client could so speak in another's name.
There is nothing to upgrade to here, so these are refused and the connection ends.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 64 * 1024
"""Bytes; httptools itself has no limit."""


class Protocol(HttpToolsProtocol):
    """Refuses what must not reach the application."""

    _in_head = False
    _head_size = 0

    def data_received(self, data: bytes) -> None:
        # Counted from the second piece on: the first may hold the end of the body before.
        continued = self._in_head
        super().data_received(data)
        if continued and self._in_head:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self.send_400_response("The request head is too large; send fewer or smaller fields.")

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade():
            raise ValueError("nothing to upgrade to")  # data_received answers 400 and closes
        super().on_headers_complete()
