"""Forwarded (RFC 7239), X-Forwarded-* and Via (RFC 9110 7.6.3): what a backend gets to know of the client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final

from gateway.dataplane.request.head import Head
from gateway.http.browsers import is_loopback
from gateway.http.fields import FORWARDED, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO

MAX_REMEMBERED_HOSTS: Final = 8
"""Hosts whose lines one connection remembers."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _quoted(value: bytes) -> bytes:
    """As a quoted string, in which nothing can pass for a further element (RFC 9110 5.6.4)."""
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


class Forwarding:
    """The forwarding fields of one client connection; nearly always the same for all its requests."""

    __slots__ = ("_remembered", "_version", "near", "peer", "scheme")

    def __init__(self, peer: str, scheme: bytes, version: bytes = b"1.1") -> None:
        """
        Args:
            peer: The client's address, "" where it has none (a Unix socket).
            scheme: Of the connection.
            version: Of HTTP, for Via; requests of HTTP/1.0 say so themselves.
        """
        self._version = version
        self.peer = peer
        self.near = is_loopback(peer)
        """Whether the peer is on this machine."""
        self.scheme = scheme
        self._remembered: dict[bytes, bytes] = {}

    @classmethod
    def of(cls, transport: asyncio.BaseTransport, version: bytes = b"1.1") -> Forwarding:
        """The fields of the connection on ``transport``."""
        peername = transport.get_extra_info("peername")
        peer = peername[0] if isinstance(peername, tuple) else ""
        secure = transport.get_extra_info("sslcontext") is not None
        return cls(peer, b"https" if secure else b"http", version)

    def lines(self, head: Head, trusted: Callable[[str], bool]) -> bytes:
        """The field lines for one request; what a peer that is not ``trusted`` says of itself is not passed on."""
        if head.proxy_fields and trusted(self.peer):
            return self._through(head)
        if head.http10:
            return self._lines(b"1.0", self.scheme, head.host, (), ())
        lines = self._remembered.get(head.host)
        if lines is None:
            # The host is the client's to choose: one that changes it each time must not fill memory.
            if len(self._remembered) >= MAX_REMEMBERED_HOSTS:
                self._remembered.clear()
            lines = self._remembered[head.host] = self._lines(self._version, self.scheme, head.host, (), ())
        return lines

    def _through(self, head: Head) -> bytes:
        """For a request of a trusted proxy: what it said is kept, and added to."""
        given = {
            kind: value for kind, value in head.proxy_fields if kind in (FORWARDED_PROTO, FORWARDED_HOST)
        }
        return self._lines(
            b"1.0" if head.http10 else self._version,
            given.get(FORWARDED_PROTO, self.scheme),
            given.get(FORWARDED_HOST, head.host),
            [value for kind, value in head.proxy_fields if kind == FORWARDED_FOR],
            [value for kind, value in head.proxy_fields if kind == FORWARDED],
        )

    def _lines(
        self, version: bytes, scheme: bytes, host: bytes, chain: Sequence[bytes], elements: Sequence[bytes]
    ) -> bytes:
        address = self.peer.encode()
        # RFC 7239 6: an IPv6 address stands in brackets, and so in quotes.
        node = b'"[%b]"' % address if b":" in address else address or b"unknown"
        # What a trusted proxy says of scheme and host may be what its client told it.
        element = b"for=%b;proto=%b" % (node, scheme if _TOKEN.fullmatch(scheme) else _quoted(scheme))
        if host:
            element += b";host=" + _quoted(host)
        return b"".join(
            (
                b"forwarded: %b\r\n" % b", ".join((*elements, element)),
                b"x-forwarded-for: %b\r\n" % b", ".join((*chain, address or b"unknown")),
                b"x-forwarded-proto: %b\r\n" % scheme,
                b"x-forwarded-host: %b\r\n" % host if host else b"",
                b"via: %b turnout\r\n" % version,
            )
        )
