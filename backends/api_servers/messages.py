"""What an API server and the main process tell each other, and the socket between them.

A message is a tuple that `marshal` can write: both run the same interpreter, and reading it runs no code.
"""

from __future__ import annotations

import asyncio
import marshal
from collections.abc import Callable
from typing import Any, Final, cast

from backends.api_servers.shared import SharedMemory

SIZE_BYTES: Final = 8
FORMAT: Final = 2
"""Of `marshal`: later ones look for equal objects, which costs more than they save."""

Message = tuple[Any, ...]
"""What it is, the number of the call, and the rest as the kind says."""


class FromApiServer:
    """Messages to the main process."""

    INFER: Final = 0
    """Model, version ("": the newest), serial of the version that the request was checked against (0: none),
    and `Work`; None: the request does not match that version."""
    CALL: Final = 1
    """Any other request: method, target, content encoding, whether a web page sent it, body."""
    ABANDON: Final = 2
    """The client has left."""
    PONG: Final = 3
    """The response to a ping."""


class FromMain:
    """Messages to an API server."""

    OUTPUTS: Final = 0
    """Of an inference: the shape and the values of each output."""
    DESCRIPTION: Final = 1
    """The inference was checked against another version: serial, number and configuration of the right one."""
    REFUSED: Final = 2
    """The inference indeed does not match the version."""
    RESPONSE: Final = 3
    """Status, fields, body."""
    START: Final = 4
    """Fields of a response whose body follows in pieces."""
    PIECE: Final = 5
    END: Final = 6
    DRAIN: Final = 7
    """Responses end their connections."""
    STOP: Final = 8
    """The number is the milliseconds that requests in flight may take."""
    PING: Final = 9
    """To be returned."""


Work = tuple[int, float, int, tuple[tuple[int, ...], ...], list[Any]]
"""Arrival, timeout, rows, key and inputs of an `Entry`."""


class MessageSocket(asyncio.Protocol):
    """One end of the socket. The messages of one turn of the event loop are sent together.

    With them go the places in ``memory`` that are no longer read here, and those that the messages name.
    """

    def __init__(self, received: Callable[[Message], None], memory: SharedMemory) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the other end has gone."""
        self.heard = False
        """Whether bytes have come since this was last set to False."""
        self._received = received
        self._memory = memory
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[Message] = []
        self._incoming = bytearray()

    def send(self, *message: Any) -> None:
        """Sends ``message`` at the end of the turn."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(message)

    def close(self) -> None:
        """Sends what waits, and ends the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        incoming, memory = self._incoming, self._memory
        incoming += data
        while len(incoming) >= SIZE_BYTES:
            end = SIZE_BYTES + int.from_bytes(incoming[:SIZE_BYTES], "big")
            if len(incoming) < end:
                return
            released, added, messages = marshal.loads(memoryview(incoming)[SIZE_BYTES:end])
            del incoming[:end]
            for start in released:
                memory.outgoing.release(start)
            memory.incoming.arrive(added)
            for message in messages:
                self._received(message)
            memory.incoming.forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._received = _ignore  # which lets go of what the other process has sent
        if not self.lost.done():
            self.lost.set_result(None)

    def _flush(self) -> None:
        if self._transport is None or not self._outgoing:
            return
        memory = self._memory
        frame = marshal.dumps((memory.incoming.released(), memory.outgoing.added(), self._outgoing), FORMAT)
        self._outgoing = []
        self._transport.writelines((len(frame).to_bytes(SIZE_BYTES, "big"), frame))


def _ignore(message: Message) -> None:
    """For messages behind the end."""
