"""A backend that speaks in raw bytes: it records what really arrived and answers what a test tells it to."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

CLOSE, RESET, EOF, EARLY, HOLD = "close", "reset", "eof", "early", "hold"
"""Steps besides bytes (sent) and numbers (seconds of rest): CLOSE after what was sent went out; RESET at once;
EOF ends our side only; EARLY as the first one: do not wait for the body; HOLD: wait for `RawBackend.release`."""


@dataclass(frozen=True)
class Flood:
    """A step that sends ``size`` bytes, no faster than they are taken; the byte at place n is n // 65536 % 251."""

    size: int


Step = bytes | float | str | Flood


@dataclass
class Request:
    """One request as the backend understood it."""

    connection: int
    """Serial number of the connection it came on."""
    line: bytes
    fields: list[tuple[bytes, bytes]]
    head: bytes
    body: bytes = b""
    trailer: bytes = b""
    complete: bool = False

    @property
    def method(self) -> bytes:
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    def all(self, name: str) -> list[bytes]:
        """The values of every field with this name, in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]


def ok(body: bytes = b"ok", *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A plain answer with a length."""
    head = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), head, body)


def chunked(*chunks: bytes, lines: bytes = b"", end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n%b\r\n%b%b" % (lines, body, end)


@dataclass
class RawBackend:
    """The requests of all its connections, in the order in which their heads came."""

    name: bytes = b"A"
    requests: list[Request] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    """Every connection since `reset`; ``open`` says whether the gateway still holds it."""
    plans: deque[Sequence[Step]] = field(default_factory=deque)
    """Steps for the requests to come, first first; without any a request gets a marker."""
    serial: int = 0
    server: asyncio.Server | None = None
    port: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    paused: bool = False

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", 0, backlog=1024, ssl=context
        )
        self.port = self.server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """Forgets what was; drops the connections that rest."""
        self.paused = False
        self.requests.clear()
        self.plans.clear()
        self.released = asyncio.Event()
        for task in self.tasks:
            task.cancel()
        for connection in self.connections:
            connection.transport.abort()
        self.connections.clear()

    def pause(self) -> None:
        """New connections are not read (beyond what the kernel takes) until `resume`."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        for connection in self.connections:
            connection.transport.resume_reading()

    def marker(self, request: Request) -> bytes:
        """An answer that names its request, so that a swapped one is noticed."""
        self.serial += 1
        body = b"%b|%b|%b|%d" % (self.name, request.method, request.target, len(request.body))
        sent = b"" if request.method == b"HEAD" else body
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx-serial: %d\r\n\r\n%b" % (
            len(body),
            self.serial,
            sent,
        )


class Connection(asyncio.Protocol):
    """Reads requests as leniently as a careless backend would, so that whatever slips through shows."""

    def __init__(self, backend: RawBackend) -> None:
        self.backend = backend
        self.raw = b""
        """All that ever came in on it."""
        self.rest = b""
        self.open = True
        self.lost: BaseException | None = None
        self.current: Request | None = None
        self.left = 0
        self.chunked = False
        self.early = False
        self.tunnel = False
        self.sink = False
        self.swallowed = 0
        self.tail = b""
        self.steps: Sequence[Step] | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.number = len(self.backend.connections)
        self.backend.connections.append(self)
        if self.backend.paused:
            self.transport.pause_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.open = False
        self.lost = exc

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self.sink:
            self._swallow(data)
            return
        self.raw += data
        if self.tunnel:
            return
        self.rest += data
        while self._advance():
            pass

    def _swallow(self, data: bytes) -> None:
        """A large body is counted, not kept."""
        request = self.current
        assert request is not None
        self.swallowed += len(data)
        self.tail = (self.tail + data[-7:])[-7:]  # the last chunk may come in pieces
        if self.swallowed == self.left or (self.chunked and self.tail == b"\r\n0\r\n\r\n"):
            self.sink, request.complete, self.current = False, True, None
            self._answer(request)

    def _advance(self) -> bool:
        if self.current is None:
            head, found, rest = self.rest.partition(b"\r\n\r\n")
            if not found:
                return False
            self.rest = rest
            self._begin(head)
        request = self.current
        assert request is not None
        if self.sink:
            return False
        if self.chunked:
            if not self._take_chunks(request):
                return False
        else:
            piece, self.rest = self.rest[: self.left], self.rest[self.left :]
            request.body += piece
            self.left -= len(piece)
            if self.left:
                return False
        request.complete = True
        self.current = None
        if not self.early:
            self._answer(request)
        return bool(self.rest)

    def _begin(self, head: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        fields = [(k, v.strip()) for k, _, v in (each.partition(b":") for each in lines)]
        request = self.current = Request(self.number, line, fields, head)
        self.backend.requests.append(request)
        coding = b",".join(request.all("transfer-encoding")).lower()
        lengths = request.all("content-length")
        self.chunked = b"chunked" in coding
        self.left = int(lengths[0]) if lengths and not self.chunked else 0
        self.steps = self.backend.plans.popleft() if self.backend.plans else None
        if request.target == b"/large" and request.method == b"POST":
            self.swallowed = len(self.rest)
            self.rest, self.sink = b"", True
        self.early = bool(self.steps) and self.steps[0] == EARLY  # type: ignore[index]
        if self.early:
            self._answer(request)

    def _take_chunks(self, request: Request) -> bool:
        while True:
            match = re.match(rb"([0-9a-fA-F]+)[^\r\n]*\r\n", self.rest)
            if match is None:
                return False
            size = int(match[1], 16)
            if size == 0:
                trailer, found, rest = self.rest[match.end() - 2 :].partition(b"\r\n\r\n")
                if not found:
                    return False
                request.trailer, self.rest = trailer.removeprefix(b"\r\n"), rest
                return True
            if len(self.rest) < match.end() + size + 2:
                return False
            request.body += self.rest[match.end() : match.end() + size]
            self.rest = self.rest[match.end() + size + 2 :]

    def _answer(self, request: Request) -> None:
        steps = self.steps if self.steps is not None else (self.backend.marker(request),)
        if all(isinstance(step, bytes) for step in steps):
            self.transport.write(b"".join(cast("Sequence[bytes]", steps)))
            return
        task = asyncio.get_running_loop().create_task(self._play(steps, self.backend.released))
        self.backend.tasks.add(task)
        task.add_done_callback(self.backend.tasks.discard)

    async def _play(self, steps: Sequence[Step], released: asyncio.Event) -> None:
        for step in steps:
            if not self.open:
                return
            if isinstance(step, bytes):
                if step.startswith(b"HTTP/1.1 101"):
                    self.tunnel = True
                self.transport.write(step)
            elif isinstance(step, Flood):
                await self._flood(step.size)
            elif isinstance(step, int | float):
                await asyncio.sleep(step)
            elif step == HOLD:
                await released.wait()
            elif step == CLOSE:
                self.transport.close()
            elif step == EOF:
                self.transport.write_eof()
            elif step == RESET:
                reset(self.transport)

    async def _flood(self, size: int) -> None:
        for place in range(0, size, 65536):
            await self.writable.wait()
            if not self.open:
                return
            self.transport.write(bytes([place // 65536 % 251]) * min(65536, size - place))
            await asyncio.sleep(0)


def reset(transport: Any) -> None:
    """Ends the connection with a RST instead of a FIN."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
