"""What a connection needs of the server around it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Protocol

from backends.errors import ServerError
from backends.http.message import Request, failure_response
from backends.http.request_head import KnownHeads, RequestHead


class Application(Protocol):
    """The server behind the HTTP connections."""

    def body_limit(self, head: RequestHead) -> int:
        """Maximum bytes of the body of a request with this ``head``."""
        ...

    def too_large(self, head: RequestHead, limit: int) -> ServerError:
        """The error for a body beyond ``limit``."""
        ...

    def handle(self, request: Request) -> None:
        """Respond to a whole request, now or later. Raises ServerError instead."""
        ...


class Host:
    """The owner of connections."""

    app: Application
    draining: bool
    """Whether responses end their connections."""
    buffered: int
    """Bytes of unfinished request bodies."""
    heads: KnownHeads

    def opened(self, connection: asyncio.Protocol) -> bool:
        """Register ``connection``; False if there are too many."""
        raise NotImplementedError

    def closed(self, connection: asyncio.Protocol) -> None:
        """Remove ``connection``."""
        raise NotImplementedError

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run ``work`` as a task that the garbage collector leaves alone."""
        raise NotImplementedError


def handle(app: Application, request: Request) -> None:
    """Has ``app`` handle ``request``, which gets a response whatever that raises."""
    try:
        app.handle(request)
    except Exception as error:  # noqa: BLE001  a fault of ours, too
        request.respond(failure_response(str(request.head), error))
