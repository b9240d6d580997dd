"""What the head of a request says."""

from __future__ import annotations

import sys
from typing import Final

from backends.errors import InvalidInput, UnsupportedVersion

MAX_KNOWN_HEADS: Final = 1024
MAX_KNOWN_HEAD_BYTES: Final = 1024


class RequestHead:
    """Not changed once it is complete: `KnownHeads` gives it to other requests."""

    __slots__ = (
        "accept_encoding",
        "close",
        "content_encoding",
        "expects_continue",
        "header_length",
        "hosts",
        "http10",
        "length",
        "method",
        "model",
        "of_page",
        "repeated",
        "target",
        "transfer_encodings",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.model: tuple[str, str] | None = None
        """Model and version ("": the newest) of an inference request; the application sets it."""
        self.header_length: bytes | None = None
        """``inference-header-content-length``."""
        self.content_encoding: bytes | None = None
        self.accept_encoding: bytes | None = None
        self.transfer_encodings: list[bytes] | None = None
        self.expects_continue = False
        self.hosts = 0
        self.length = 0
        """Bytes, as `content-length` says; 0 without one."""
        self.repeated = b""
        """A field that may be there only once and is there twice."""
        self.http10 = False
        self.of_page = False
        """Whether a web page sent it: browsers add `origin` to every POST."""
        self.close = False
        """Whether the connection ends with the response."""

    def __str__(self) -> str:
        return f"{self.method.decode()} {self.path}"

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def field(self, name: bytes, value: bytes) -> None:
        """Takes a field; ``name`` as it came."""
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"content-length":
            # Python refuses to read a number of more than 4,300 digits; no body is that long.
            self.length = int(value) if len(value) < 20 else sys.maxsize
        elif name == b"inference-header-content-length":
            if self.header_length is not None:
                self.repeated = name
            self.header_length = value
        elif name == b"content-encoding":
            if self.content_encoding is not None:
                self.repeated = name
            self.content_encoding = value
        elif name == b"accept-encoding":
            self.accept_encoding = (
                value if self.accept_encoding is None else self.accept_encoding + b"," + value
            )
        elif name == b"transfer-encoding":
            self.transfer_encodings = [*(self.transfer_encodings or ()), value]
        elif name == b"origin":
            self.of_page = True
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.length > 0 or self.transfer_encodings is not None

    def framing(self) -> bytes:
        """A head with the same body and end of the connection, and nothing else."""
        return b"POST / HTTP/1.1\r\nconnection: %b\r\n%b\r\n\r\n" % (
            b"close" if self.close else b"keep-alive",
            b"content-length: %d" % self.length
            if self.transfer_encodings is None
            else b"transfer-encoding: chunked",
        )

    def check(self, version: str) -> None:
        """Raises what RFC 9112 demands and the parser leaves to its user: InvalidInput, UnsupportedVersion."""
        if version not in ("1.0", "1.1"):
            raise UnsupportedVersion("send HTTP/1.1 or HTTP/1.0")
        self.http10 = version == "1.0"
        if self.method == b"CONNECT":
            raise InvalidInput("this server is not a proxy; send a plain request")
        codings = self.transfer_encodings
        if codings is not None and (self.http10 or [coding.lower() for coding in codings] != [b"chunked"]):
            raise InvalidInput("transfer-encoding is not a single 'chunked'; send a content-length instead")
        if self.hosts > 1 or (not self.http10 and not self.hosts):
            raise InvalidInput("send one host field")
        if self.repeated:
            raise InvalidInput(f"the field {self.repeated.decode()} is there twice; send it once")


class KnownHeads:
    """Heads by their exact bytes: most clients repeat them, and equal bytes mean the same."""

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """Head and body, if ``data`` is exactly one request with a known head."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(data[:end])
        if head is None or head.length != len(data) - end:
            return None
        return head, data[end:]

    def add(self, data: bytes, head: RequestHead) -> None:
        """Keeps ``head``, the last one in ``data``, if that is exactly one request."""
        end = data.find(b"\r\n\r\n") + 4
        if (
            end <= MAX_KNOWN_HEAD_BYTES
            and head.length == len(data) - end
            # Only a head that alone says where its request ends, and needs nothing but a response.
            and not (head.transfer_encodings or head.expects_continue or head.close)
        ):
            if len(self._heads) >= MAX_KNOWN_HEADS:
                self._heads.clear()
            self._heads[data[:end]] = head
