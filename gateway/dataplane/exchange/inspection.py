"""Whose fault a response with a server status is, where a rule on its body decides.

Some servers respond with 500 to a request that the client got wrong (a wrong shape, an unknown input). Such a response
must not count against the variant. Its beginning is held until it is known which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.dataplane.exchange.attempt import ResponseSink
from gateway.transport.base import ResponseHead

MAX_INSPECTED_BYTES: Final = 16_384
"""Bytes of a body that are searched; what comes later does not count."""
Texts = tuple[bytes, ...]
"""Any of these in the body says that the fault is the client's."""


def is_client_fault(body: bytes, texts: Texts) -> bool:
    """Whether ``body`` holds one of ``texts`` within `MAX_INSPECTED_BYTES`."""
    body = body[:MAX_INSPECTED_BYTES]
    return any(text in body for text in texts)


class Inspection(ResponseSink):
    """Holds the beginning of one response."""

    __slots__ = ("_decided", "_size", "_texts", "head_at", "pieces", "response")

    def __init__(
        self, response: ResponseHead, texts: Texts, now: float, decided: Callable[[Inspection, bool], None]
    ) -> None:
        """
        Args:
            response: Its head.
            texts: What to look for.
            now: `perf_counter` when the head came.
            decided: Called once, with whether the fault is the client's.
        """
        self._decided = decided
        self._texts = texts
        self._size = 0
        self.response = response
        self.head_at = now
        self.pieces: list[bytes] = []

    def on_data(self, data: bytes) -> None:
        self.pieces.append(data)
        self._size += len(data)
        if self._size >= MAX_INSPECTED_BYTES:
            self.complete()

    def flush(self) -> bool:
        return False

    def complete(self) -> None:
        """Decides: the response has ended, or enough of it has come."""
        self._decided(self, is_client_fault(b"".join(self.pieces), self._texts))
