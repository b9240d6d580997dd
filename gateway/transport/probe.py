"""The request of an active health check."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.transport.base import Connection, ResponseHandler, ResponseHead


class ProbeResult(NamedTuple):
    """What a probe has found: a status, or an error's code and what went wrong."""

    status: int = 0
    code: str = ""
    detail: str = ""
    idle_close: bool = False


class ProbeRequest(ResponseHandler):
    """Sends one request and keeps the status of its response; the body is discarded."""

    __slots__ = ("_connection", "_request", "result")

    def __init__(self, request: list[bytes]) -> None:
        """``request``: its head, and the pieces of its body."""
        self.upgrade = b""
        self.fresh = True
        self._request = request
        self._connection: Connection | None = None
        self.result: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()

    def on_connected(self, connection: Connection) -> None:
        self._connection = connection
        head, *body = self._request
        connection.send_request(self, head.startswith(b"HEAD "), [head], body)

    def on_head(self, response: ResponseHead) -> None:
        self._resolve(ProbeResult(response.status))

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        self._resolve(ProbeResult(0, code, detail, idle_close))

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        self._resolve(ProbeResult(0, "backend_protocol", "it switched protocols without being asked to"))

    def _resolve(self, result: ProbeResult) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def abandon(self) -> None:
        """Ends the connection, if there is one."""
        if self._connection is not None:
            self._connection.abandon()
