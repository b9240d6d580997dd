"""The listening socket, its connections, and an end that resets none of them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import resource
import socket
import struct
from collections.abc import Coroutine
from time import monotonic
from typing import Any, Final, cast

from backends.forks import FORKS
from backends.http.connection import Connection
from backends.http.host import Application, Host
from backends.http.request_head import KnownHeads

BACKLOG: Final = 1024
MAX_CONNECTIONS: Final = 10_000
RESERVED_FILES: Final = 64
SWEEP_INTERVAL_S: Final = 1.0
ACCEPT_TAIL_S: Final = 0.1
"""From refusing new handshakes to closing the socket: those under way complete, and are accepted."""
IDLE_GRACE_S: Final = 1.0
"""For requests that are on their way on idle connections when the socket is closed."""
MAX_ACCEPT_S: Final = 5.0
"""For accepting what waits then, on a busy machine; a connection that is not accepted is reset by the close."""


class Listener(Host):
    """Accepts connections on one socket."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.draining = False
        self.buffered = 0
        self.heads = KnownHeads()
        self.connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Files are needed for models and logs as well; without one, accepting fails for all.
        self._most = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FILES)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()

    async def start(self, host: str, port: int) -> str:
        """Listens; the address, with the port that the system chose. Raises OSError."""
        (listening,) = await bind(host, port, 1)
        await self.serve(listening)
        return address_of(listening)

    async def serve(self, listening: socket.socket) -> None:
        """Accepts the connections of ``listening``."""
        loop = asyncio.get_running_loop()
        self._socket = listening
        self._server = await loop.create_server(lambda: Connection(self), sock=listening, backlog=BACKLOG)
        self._sweeper = loop.create_task(self._sweep())

    def opened(self, connection: asyncio.Protocol) -> bool:
        self.connections.add(cast("Connection", connection))
        return len(self.connections) <= self._most

    def closed(self, connection: asyncio.Protocol) -> None:
        self.connections.discard(cast("Connection", connection))
        if not self.connections:
            self._empty.set()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drain(self) -> None:
        """Lets responses end their connections."""
        self.draining = True

    async def stop(self, limit: float) -> None:
        """Stops listening, and lets requests in flight finish within ``limit`` seconds."""
        self.drain()
        if self._server is not None and self._socket is not None:
            _refuse_handshakes(self._socket)
            await asyncio.sleep(ACCEPT_TAIL_S)
            end = monotonic() + MAX_ACCEPT_S
            while _accept_queue(self._socket) and monotonic() < end:  # noqa: ASYNC110  the kernel sends no event
                await asyncio.sleep(0.01)
            self._server.close()
        grace = min(limit, IDLE_GRACE_S)
        await self._wait_until_empty(grace)
        for connection in list(self.connections):
            connection.drain()
        await self._wait_until_empty(limit - grace)
        for connection in list(self.connections):
            connection.transport.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _wait_until_empty(self, limit: float) -> None:
        self._empty.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), limit)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = monotonic()
            for connection in list(self.connections):
                connection.check(now)


async def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Listening sockets on one address, among which the system divides the connections. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, *_, address = infos[0]
    sockets = [_bound(family, address)]
    address = sockets[0].getsockname()
    if count > 1:
        # A shared port is not refused when another server shares it, too; the first bind has checked that.
        sockets[0].close()
        sockets = [_bound(family, address, shared=True) for _ in range(count)]
    for listening in sockets:
        listening.listen(BACKLOG)
        listening.setblocking(False)
    FORKS.serve(address[1])
    return sockets


def _bound(family: int, address: Any, *, shared: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def address_of(listening: socket.socket) -> str:
    """``host:port``."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if listening.family == socket.AF_INET6 else f"{host}:{port}"


def _accept_queue(listening: socket.socket) -> int:
    """How many connections wait to be accepted from ``listening``; 0 where the system does not say."""
    tcp_info = getattr(socket, "TCP_INFO", None)
    if tcp_info is None:
        return 0
    unacked = 24  # offset of tcpi_unacked, which for a listening socket is the length of its accept queue
    return int(struct.unpack_from("I", listening.getsockopt(socket.IPPROTO_TCP, tcp_info, 104), unacked)[0])


def _refuse_handshakes(listening: socket.socket) -> None:
    """Drops SYN packets to ``listening`` from now on (Linux).

    Closing a listening socket resets the connections that the kernel has accepted and the process has not.
    With a packet filter on the socket none are added, so the accept queue can be emptied before the close.
    """
    instructions = (
        (0x30, 0, 0, 13),  # load the byte of TCP flags
        (0x54, 0, 0, 0x12),  # keep SYN and ACK
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFF),  # pass
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    attach_filter = 26  # SO_ATTACH_FILTER
    with contextlib.suppress(OSError):
        listening.setsockopt(
            socket.SOL_SOCKET,
            attach_filter,
            struct.pack("HP", len(instructions), ctypes.addressof(program)),
        )
