"""Reading the rest of an unwanted answer, so that its connection can serve again."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.transport.connection import Answer, BackendConnection

if TYPE_CHECKING:
    from gateway.dataplane.worker import Worker

MOST: Final = 65_536
"""Bytes; an answer that is longer costs its connection."""
LONGEST: Final = 1.0
"""Seconds."""


class Discarding:
    """Reads the rest of an unwanted answer, within bounds, so that its connection can serve again."""

    __slots__ = ("connection", "deadline", "left", "upgrade", "worker")

    def __init__(self, connection: BackendConnection, worker: Worker) -> None:
        self.connection = connection
        self.worker = worker
        self.left = MOST
        self.upgrade = b""
        self.deadline = perf_counter() + LONGEST

    @classmethod
    def start(cls, connection: BackendConnection, worker: Worker) -> None:
        sink = cls(connection, worker)
        worker.active.add(sink)
        connection.discard(sink)

    def on_connected(self, connection: BackendConnection) -> None: ...
    def on_interim(self, status: int, lines: list[bytes]) -> None: ...
    def on_head(self, answer: Answer) -> None: ...
    def flush(self) -> None: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...

    def on_data(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            self.expire(0.0)

    def on_end(self) -> None:
        self.worker.active.discard(self)

    def on_failure(self, code: str, detail: str, *, fresh: bool) -> None:
        self.worker.active.discard(self)

    def on_tunnel(self, answer: Answer, data: bytes) -> None:
        self.expire(0.0)

    def expire(self, now: float) -> None:
        self.worker.active.discard(self)
        self.connection.abandon()
