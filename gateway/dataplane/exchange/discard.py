"""Answers that nobody waits for any more: read to their end within bounds, or waited for as a sign of life."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHandler, ResponseHead

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange
    from gateway.dataplane.worker import Worker

MOST: Final = 65_536
"""Bytes; an answer that is longer costs its connection."""
LONGEST: Final = 1.0
"""Seconds."""
STRAGGLERS: Final = 4
"""Requests that are left with an address under suspicion, to see whether it still answers."""


class Discarding(ResponseHandler):
    """Reads the rest of an unwanted answer, within bounds, so that its connection can serve again."""

    __slots__ = ("connection", "deadline", "left", "worker")

    def __init__(self, connection: Connection, worker: Worker) -> None:
        self.connection = connection
        self.worker = worker
        self.left = MOST
        self.upgrade = b""
        self.deadline = perf_counter() + LONGEST

    @classmethod
    def start(cls, connection: Connection, worker: Worker) -> None:
        sink = cls(connection, worker)
        worker.active.add(sink)
        connection.handler = sink

    def on_silence(self) -> None: ...

    def waits_at(self, address: Address, since: float) -> bool:
        return False

    def behind(self) -> int:
        return 0

    def on_data(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            self.expire(0.0)

    def on_end(self) -> None:
        self._end()

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        self._end()

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        self.expire(0.0)

    def expire(self, now: float) -> None:
        self._end()
        self.connection.abandon()

    def _end(self) -> None:
        self.worker.active.discard(self)


class Straggler(Discarding):
    """A request whose client was answered otherwise, left with an address that has fallen silent.

    Whatever becomes of it says that something has changed there: so the next request may try at once.
    """

    __slots__ = ("address",)

    def __init__(self, connection: Connection, worker: Worker, address: Address, deadline: float) -> None:
        super().__init__(connection, worker)
        self.address = address
        self.deadline = deadline

    @staticmethod
    def wanted(address: Address) -> bool:
        return address.stragglers < STRAGGLERS

    @classmethod
    def start(cls, connection: Connection, x: Exchange) -> None:  # type: ignore[override]
        assert x.address is not None
        sink = cls(connection, x.worker, x.address, x.deadline)
        x.address.stragglers += 1
        x.worker.active.add(sink)
        connection.handler = sink

    def on_head(self, response: ResponseHead) -> None:
        self.address.last_byte_at = now = perf_counter()
        self.address.next_probe_at = now
        self.deadline = now + LONGEST

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        self.address.next_probe_at = perf_counter()
        super().on_failure(code, detail, idle_close=idle_close)

    def _end(self) -> None:
        if self in self.worker.active:
            self.address.stragglers -= 1
        super()._end()
