"""A raw HTTP/2 client on a socket."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Self

from tests.http2.raw import HELLO, Reader, Reply

PATIENCE = 30.0


class Client:
    """Sends bytes as they are; reads until something has happened."""

    def __init__(self, port: int, *, hello: bytes = HELLO, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = Reader()
        self.closed = False
        if hello:
            self.send(hello)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """A connection that the server has closed takes nothing more."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True

    def read_until(self, happened: Callable[[Reader], bool]) -> Reader:
        """Raises AssertionError if it does not happen in time, or the server closes before."""
        deadline = time.monotonic() + PATIENCE
        while not happened(self.reader):
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._read()
            assert data, f"closed; last frames: {self.reader.frames[-3:]}"
            self.reader.feed(data)
        return self.reader

    def read_to_end(self) -> Reader:
        """Until the server closes."""
        self.socket.settimeout(PATIENCE)
        while data := self._read():
            self.reader.feed(data)
        return self.reader

    def _read(self) -> bytes:
        try:
            return self.socket.recv(65_536)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    def reply(self, stream: int = 1) -> Reply:
        """The response on ``stream``, complete or reset."""
        self.read_until(lambda reader: stream in reader.replies and ended(reader.replies[stream]))
        return self.reader.replies[stream]

    def request(self, data: bytes, stream: int = 1) -> Reply:
        self.send(data)
        return self.reply(stream)


def ended(reply: Reply) -> bool:
    return reply.ended or bool(reply.reset)
