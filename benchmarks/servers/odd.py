"""A backend for what nginx can't do: timed event streams, and shadows that hang or answer at length.

    python -m benchmarks.servers.odd --ports 9101 9102 --answer plain|hang|huge

``GET …/sse?count=N&gap=MS`` sends N events, one every MS milliseconds (0: as fast as they are taken),
each with the moment it was written. ``GET …/source/16m`` answers with so
many bytes. Any other request, chunked or with a length, is read to its end and answered as ``--answer`` says.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop

from benchmarks import traffic
from benchmarks.children import Child, free_ports

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\A[^\n]*\r\n(?:[^\r\n]+\r\n)*?transfer-encoding:[ \t]*chunked\r\n", re.IGNORECASE)
_STREAM = re.compile(rb"^GET [^ ]*/sse\?count=(\d+)&gap=(\d+) ")
_SOURCE = re.compile(rb"^GET [^ ]*/source/(\w+) ")
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
HUGE = 4 * 2**20
"""Bytes of a huge answer."""
_TOKEN = b'","choices":[{"index":0,"delta":{"content":" seven"}}]}\n\n'


def event(now_ns: int) -> bytes:
    """One event of a token stream, about 90 bytes, with the moment it was written (`time.monotonic_ns`)."""
    return b'data: {"t":"%d%s' % (now_ns, _TOKEN)


def answer(body: bytes) -> tuple[bytes, bytes]:
    """Head and body."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body), body


SOURCES = {"1m": 2**20, "16m": 2**24}
"""What `GET …/source/WORD` answers with, in bytes."""
ANSWERS: dict[str, tuple[bytes, ...]] = {
    "plain": answer(traffic.INFER_ANSWER.encode()),
    "another": answer(traffic.ANOTHER_ANSWER.encode()),
    "huge": answer(bytes(HUGE)),
    "hang": (),
    **{word: answer(bytes(size)) for word, size in SOURCES.items()},
}


class Server(asyncio.Protocol):
    """One connection; one request at a time, no pipelining."""

    def __init__(self, reply: Sequence[bytes]) -> None:
        self._reply = reply
        self._head = b""
        self._missing = 0
        self._may_write = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            if not self._missing:
                self._answer(self._head)
            return
        self._head += data
        if _CHUNKED.search(self._head):  # Envoy's spans come so, and no chunk ends like the last one
            if self._head.endswith(b"\r\n0\r\n\r\n"):
                self._answer(self._head)
            return
        end = self._head.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._head, 0, end)
        self._missing = (int(length[1]) if length else 0) - (len(self._head) - end)
        if not self._missing:
            self._answer(self._head)

    def _answer(self, head: bytes) -> None:
        self._head = b""
        stream, source = _STREAM.match(head), _SOURCE.match(head)
        if stream:
            self._stream = asyncio.create_task(self._send_stream(int(stream[1]), int(stream[2]) / 1e3))
        elif source:
            self._transport.writelines(ANSWERS[source[1].decode()])
        else:
            self._transport.writelines(self._reply)

    async def _send_stream(self, count: int, gap: float) -> None:
        self._transport.write(_STREAM_HEAD)
        due = time.monotonic()
        for _ in range(count):
            due += gap
            await asyncio.sleep(max(0.0, due - time.monotonic()) if gap else 0)
            await self._may_write.wait()
            data = event(time.monotonic_ns())
            self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._transport.write(b"0\r\n\r\n")


async def serve(ports: Sequence[int], reply: Sequence[bytes]) -> None:
    """Listens on each of ``ports`` of the loopback until it is ended."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Server(reply), "127.0.0.1", port, backlog=4096) for port in ports
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def start(
    directory: Path, cores: Sequence[int], kind: str = "plain", priority: str = "0"
) -> tuple[Child, tuple[int, int]]:
    """The running backend and its two ports."""
    first, second = free_ports(2)
    words = ["-m", "benchmarks.servers.odd", "--answer", kind, "--ports", str(first), str(second)]
    child = Child(
        f"odd-{kind}",
        [sys.executable, *words],
        cores=cores,
        log=directory / f"odd-{kind}-{first}.log",
        priority=priority,
    )
    try:
        child.wait_listening(second)
    except BaseException:
        child.stop()
        raise
    return child, (first, second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, nargs=2, required=True)
    parser.add_argument("--answer", choices=list(ANSWERS), default="plain")
    given = parser.parse_args()
    uvloop.run(serve(given.ports, ANSWERS[given.answer]))


if __name__ == "__main__":
    main()
