"""Processes for `test_noisy_clients`: a backend that reads and answers, and clients that send one request for ever.

``python -m tests.e2e.noisy backend PORT`` or ``python -m tests.e2e.noisy KIND PORT``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Final, cast

CONNECTIONS: Final = 2
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LISTS: Final = b"[[],[]],"
"""What costs a JSON parser most for its length."""


def request(target: bytes, body: bytes = b"", *lines: bytes) -> bytes:
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n%b\r\n%b" % (
        target, len(body), fields, body,
    )  # fmt: skip


KINDS: Final = {
    "lists": request(b"/body", b'{"user": "u", "x": [' + LISTS * 120_000 + b"1]}"),
    "short lists": request(b"/body", b'{"user": "u", "x": [' + LISTS * 2000 + b"1]}"),
    "fields": request(b"/body", b"{" + b",".join([b'"":1'] * 3000) + b"}"),
    "parameters": request(b"/query?" + b"&%75se%72%32=1" * 1100),
    "cookies": request(b"/cookie", b"", b"cookie: " + b"user1=1;" * 7000),
    "rewards": request(b"/-/feedback", b'{"items": [' + LISTS * 120_000 + b"1]}"),
    "chunks": b"POST /cookie HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n%b"
    % (b"1\r\na\r\n" * 80_000 + b"0\r\n\r\n"),
    "too long": request(b"/body", b'{"x": [' + LISTS * 4_000_000 + b"1]}"),
}


LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Backend(asyncio.Protocol):
    """Reads requests by their length, or up to the last chunk."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.head = b""
        self.left = 0
        self.chunked = False

    def data_received(self, data: bytes) -> None:
        while data or self.head:
            if self.chunked:
                _, found, rest = (self.head + data).partition(LAST_CHUNK)
                if not found:
                    self.head = (self.head + data)[1 - len(LAST_CHUNK) :]
                    return
                self.head, data, self.chunked = b"", rest, False
            elif self.left:
                size = len(data)
                data, self.left = data[self.left :], max(0, self.left - size)
                if self.left:
                    return
            else:
                head, found, data = (self.head + data).partition(b"\r\n\r\n")
                if not found:
                    self.head = head
                    return
                self.head = b""
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                self.left = int(length[1]) if length else 0
                self.chunked = b"chunked" in head.lower()
            if not self.left and not self.chunked:
                self.transport.write(OK)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port)
    await server.serve_forever()


async def attack(port: int, sent: bytes) -> None:
    """Sends it again as soon as it is answered, on a new connection where the old one ended."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(sent)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                await reader.readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            await asyncio.sleep(0.002)


async def main(kind: str, port: int) -> None:
    if kind == "backend":
        await serve(port)
    else:
        await asyncio.gather(*(attack(port, KINDS[kind]) for _ in range(CONNECTIONS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
