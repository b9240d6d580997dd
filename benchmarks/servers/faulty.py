"""A backend that misbehaves on command.

    python -m benchmarks.servers.faulty --port 9101 --control 9102

A line on the control port sets what it does with every request from then on, and is answered with a line:

    well            answers at once
    hang            never answers
    reset           resets the connection
    503             answers 503
    garbage         answers with what is no HTTP
    cut             begins an answer of 100 bytes, sends 10 and closes
    race MS         closes every connection at some moment within so many milliseconds after an answer
    capacity N MS   serves N requests at once, each for so many milliseconds
    huge BYTES      answers with so many bytes
    closed          stops listening and drops every connection; `well` listens again
    report          changes nothing; answers `REQUESTS OPEN LAST_LOST_NS`
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import socket
import struct
import time
from typing import cast

import uvloop

from benchmarks import traffic
from benchmarks.servers.odd import answer

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_WELL = b"".join(answer(traffic.INFER_ANSWER.encode()))
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
_CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789"


class Faulty:
    """The server; what all its connections share."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.mode: list[str] = ["well"]
        self.connections: set[Connection] = set()
        self.requests = 0
        self.last_lost = 0
        self.chance = random.Random(7)
        self.places = asyncio.Semaphore(1)
        self.huge = b""
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, backlog=4096
        )

    async def set(self, mode: list[str]) -> str:
        if mode[0] == "report":
            return f"{self.requests} {len(self.connections)} {self.last_lost}"
        self.mode = mode
        if mode[0] == "capacity":
            self.places = asyncio.Semaphore(int(mode[1]))
        if mode[0] == "huge":
            self.huge = b"".join(answer(bytes(int(mode[1]))))
        if mode[0] == "closed" and self._server is not None:
            self._server.close()
            self._server = None
            for connection in tuple(self.connections):
                connection.transport.abort()
        elif mode[0] != "closed" and self._server is None:
            await self.listen()
        return "ok"


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, server: Faulty) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self._data = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)
        self.server.last_lost = time.monotonic_ns()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._data, 0, end)
        size = end + (int(length[1]) if length else 0)
        if len(self._data) >= size:
            self._data = self._data[size:]
            self._answer()

    def _answer(self) -> None:
        server = self.server
        server.requests += 1
        mode = server.mode
        kind = mode[0]
        if kind == "well":
            self.transport.write(_WELL)
        elif kind == "503":
            self.transport.write(_BUSY)
        elif kind == "garbage":
            self.transport.write(b"\x00\x01 what is this\r\n\r\n")
        elif kind == "cut":
            self.transport.write(_CUT)
            self.transport.close()
        elif kind == "huge":
            self.transport.write(server.huge)
        elif kind == "reset":
            self._reset()
        elif kind == "race":
            self.transport.write(_WELL)
            rest = server.chance.random() * float(mode[1]) / 1e3
            asyncio.get_running_loop().call_later(rest, self.transport.close)
        elif kind == "capacity":
            self._task = asyncio.get_running_loop().create_task(self._later(float(mode[2]) / 1e3))

    async def _later(self, seconds: float) -> None:
        async with self.server.places:
            await asyncio.sleep(seconds)
        self.transport.write(_WELL)

    def _reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def serve(port: int, control: int) -> None:
    """Until it is ended."""
    faulty = Faulty(port)
    await faulty.listen()

    async def steer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write((await faulty.set(line.decode().split())).encode() + b"\n")
        writer.close()

    async with await asyncio.start_server(steer, "127.0.0.1", control) as steering:
        await steering.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.control))


if __name__ == "__main__":
    main()
