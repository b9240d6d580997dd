"""A client that speaks in raw bytes, and a strict reader of answers that shares nothing with the gateway."""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

PATIENCE = 30.0
"""Seconds that a test waits for something that should come at once."""


class Cut(Exception):
    """The connection ended before the answer did."""

    def __init__(self, got: bytes, *, was_reset: bool = False) -> None:
        super().__init__(got)
        self.got = got
        self.was_reset = was_reset


@dataclass
class Answer:
    """One answer as a strict client understood it."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    framing: str
    """"none", "length", "chunked" or "close"."""
    trailer: bytes = b""
    chunks: int = 0

    def all(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    @property
    def code(self) -> str:
        """The code of an error of the gateway's own."""
        found: Any = json.loads(self.body)
        assert set(found) == {"error"}
        assert set(found["error"]) == {"code", "message", "request_id"}
        assert [found["error"]["request_id"].encode("latin-1")] == self.all("x-request-id")
        assert self.all("content-type") == [b"application/json"]
        assert parsedate_to_datetime(self.all("date")[0].decode()).tzinfo is not None
        assert len(self.all("date")) == 1
        return str(found["error"]["code"])


_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e]*)")


class Client:
    """One connection to the gateway."""

    def __init__(self, port: int, *, receive_buffer: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE)
        if context is not None:
            self.socket = context.wrap_socket(
                self.socket, server_hostname="localhost", suppress_ragged_eofs=False
            )
        self.buffer = b""
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    # Sending ----------------------------------------------------------------------------------------
    def send(self, *segments: bytes | float) -> None:
        """Bytes go out as a segment each; a number is a rest in seconds."""
        for segment in segments:
            if isinstance(segment, bytes):
                try:
                    self.socket.sendall(segment)
                except (ConnectionResetError, BrokenPipeError):
                    return  # the gateway has had enough; what it said can still be read
            else:
                time.sleep(segment)

    def finish(self) -> None:
        """Ends our side only."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Goes with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # Reading ----------------------------------------------------------------------------------------
    def _more(self) -> bool:
        """Reads on; False at the end. Raises Cut where the end is a reset."""
        if self.ended:
            return False
        try:
            data = self.socket.recv(1 << 16)
        except (ConnectionResetError, ssl.SSLEOFError):
            self.ended = True
            raise Cut(self.buffer, was_reset=True) from None
        self.buffer += data
        self.ended = not data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """What comes before ``mark``, which is taken too."""
        while mark not in self.buffer:
            if not self._more():
                raise Cut(self.buffer)
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._more():
                raise Cut(self.buffer)
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def answer(self, method: bytes = b"GET") -> Answer:
        """The next answer, interim ones included. Raises Cut, or AssertionError where it is no valid HTTP."""
        line, *lines = self.until(b"\r\n\r\n").split(b"\r\n")
        match = _STATUS.fullmatch(line)
        assert match is not None, f"no status line: {line!r}"
        answer = Answer(int(match[1]), match[2], list(_fields(lines)), b"", "none")
        status = answer.status
        lengths, codings = answer.all("content-length"), answer.all("transfer-encoding")
        assert len(lengths) <= 1
        assert not (lengths and codings), "length and coding"
        if status < 200 or status == 204:
            assert not lengths
            assert not codings
            return answer
        if method == b"HEAD" or status == 304:
            return answer
        if codings:
            assert codings == [b"chunked"]
            answer.framing = "chunked"
            self._chunks(answer)
        elif lengths:
            answer.framing = "length"
            assert lengths[0].isdigit()
            answer.body = self._exactly(int(lengths[0]))
        else:
            answer.framing = "close"
            while self._more():
                pass
            answer.body, self.buffer = self.buffer, b""
        return answer

    def _chunks(self, answer: Answer) -> None:
        while True:
            size = self.until(b"\r\n")
            assert re.fullmatch(rb"[0-9a-f]+", size), f"no chunk size: {size!r}"
            if int(size, 16) == 0:
                break
            answer.chunks += 1
            try:
                answer.body += self._exactly(int(size, 16))
                assert self._exactly(2) == b"\r\n"
            except Cut as cut:
                raise Cut(answer.body + cut.got, was_reset=cut.was_reset) from None
        while line := self.until(b"\r\n"):
            answer.trailer += line + b"\r\n"

    def at_end(self) -> bool:
        """Whether the gateway has ended the connection, and sent nothing more before."""
        try:
            while self._more():
                pass
        except Cut:
            return not self.buffer
        except TimeoutError:
            return False
        return not self.buffer

    def quiet(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes (and nothing ends) for a while."""
        if self.buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self.buffer += self.socket.recv(1 << 16)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False


def _fields(lines: Iterable[bytes]) -> Iterable[tuple[bytes, bytes]]:
    for line in lines:
        match = _FIELD.fullmatch(line)
        assert match is not None, f"no field: {line!r}"
        yield match[1], match[2]
