"""Shadows: copies of requests to variants whose answers no client sees.

A copy leaves only after the primary's answer has gone out, from a queue bounded by count and by bytes, over
connections of its own, with limits of its own. Whatever a shadow does, the primary does not feel it; and
offered = sent + dropped + waiting, always.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.dataplane.snapshot import VariantPlan
from gateway.record.events import Shadowed
from gateway.transport.connection import Answer, BackendConnection
from gateway.transport.pool import Address

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange
    from gateway.dataplane.worker import Worker

ANSWER_LIMIT: Final = 1 << 20
"""Most bytes of an answer that are kept for comparison; a longer one is cut off and not compared."""


class Copy:
    """One request to one shadow, with the primary's answer to compare with."""

    __slots__ = (
        "address", "body", "decision", "plan", "primary", "primary_body", "primary_lines", "primary_ms", "primary_status",
        "request", "route", "size",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, plan: VariantPlan, address: Address) -> None:
        self.address = address
        self.plan = plan
        self.route = exchange.route
        self.decision = exchange.decision
        self.request = exchange.shadow_head(plan, address)
        self.body = exchange.chunks
        self.primary = exchange.served
        self.primary_status = exchange.status
        self.primary_ms = exchange.backend_ms
        self.primary_lines = exchange.answer_lines
        self.primary_body = exchange.captured
        kept = exchange.answer_bytes if exchange.captured is not None else 0
        self.size = exchange.body_bytes + len(self.request) + kept


Compare = Callable[[Copy, Answer | None, bytes | None], tuple[bool | None, float | None, str]]


class ShadowCall:
    """One copy under way; the `User` of a connection of the shadow's own pool."""

    __slots__ = ("_address", "_answer", "_connection", "_out", "_size", "_started", "_task", "copy", "deadline",
                 "shadower", "upgrade")  # fmt: skip

    def __init__(self, shadower: Shadower, copy: Copy, address: Address) -> None:
        self.shadower = shadower
        self.copy = copy
        self.upgrade = b""
        self._address = address
        self._answer: Answer | None = None
        self._out: list[bytes] = []
        self._size = 0
        self._connection: BackendConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = perf_counter()
        timeouts = copy.route.timeouts
        self.deadline = self._started + min(
            timeouts.total or shadower.time_limit,
            shadower.time_limit,
            timeouts.connect + (timeouts.first_byte or 30.0),
        )

    def start(self) -> None:
        connection = self._address.resting()
        if connection is not None:
            self.on_connected(connection)
        else:
            self._task = self._address.connect(self)

    def on_connected(self, connection: BackendConnection) -> None:
        self._task = None
        self._connection = connection
        connection.begin(self, head=self.copy.request.startswith(b"HEAD "))
        connection.transport.writelines([self.copy.request, *self.copy.body])
        connection.sent_whole = True

    def on_interim(self, status: int, lines: list[bytes]) -> None: ...
    def flush(self) -> None: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...

    def on_head(self, answer: Answer) -> None:
        self._answer = answer

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > ANSWER_LIMIT:
            self._cut("shadow_answer_too_large")
        else:
            self._out.append(data)

    def on_end(self) -> None:
        answer = self._answer
        assert answer is not None
        error = "backend_status" if answer.status >= 500 else ""
        self.shadower.ended(self, error, answer, b"".join(self._out), self._spent())

    def on_failure(self, code: str, detail: str, *, fresh: bool) -> None:
        self.shadower.ended(self, code, None, None, self._spent())

    def on_tunnel(self, answer: Answer, data: bytes) -> None:
        self._cut("backend_protocol")

    def expire(self, now: float) -> None:
        self._cut("backend_total_timeout")

    def _cut(self, code: str) -> None:
        if self._connection is not None:
            self._connection.abandon()
        if self._task is not None:
            self._task.cancel()
        self.shadower.ended(self, code, self._answer, None, self._spent())

    def _spent(self) -> float:
        return (perf_counter() - self._started) * 1e3


class Shadower:
    """The queue, and what is under way."""

    def __init__(
        self,
        *,
        pool: Callable[[VariantPlan], Address],
        compare: Compare,
        record: Callable[[Shadowed], None],
        concurrent: int = 32,
        waiting: int = 256,
        waiting_bytes: int = 64 << 20,
        time_limit: float = 30.0,
    ) -> None:
        self.answer_limit = ANSWER_LIMIT
        self.time_limit = time_limit
        self._pool = pool
        self._compare = compare
        self._record = record
        self._concurrent = concurrent
        self._waiting = waiting
        self._waiting_bytes = waiting_bytes
        self._queue: deque[Copy] = deque()
        self._bytes = 0
        self._running: set[ShadowCall] = set()
        self._due: dict[tuple[str, str], float] = {}
        self.worker: Worker | None = None
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """By (route, shadow, offered | sent | failed | dropped:REASON)."""

    def due(self, exchange: Exchange) -> list[VariantPlan] | None:
        """The shadows whose turn it is: exact shares by counting, not by chance."""
        found: list[VariantPlan] | None = None
        route = exchange.route
        for plan, share in route.shadows:
            key = (route.name, plan.name)
            count = self._due.get(key, 0.0) + share
            if count >= 1.0 - 1e-9:
                count -= 1.0
                if exchange.choice.variant is not plan:
                    found = found or []
                    found.append(plan)
            self._due[key] = count
        return found

    def offer(self, exchange: Exchange) -> None:
        """Takes copies of a finished request, or counts why not."""
        for plan in exchange.shadows or ():
            route = exchange.route.name
            self.counts[route, plan.name, "offered"] += 1
            if len(self._queue) >= self._waiting:
                self._drop(route, plan.name, "queue_full")
                continue
            copy = Copy(exchange, plan, self._pool(plan))
            if self._bytes + copy.size > self._waiting_bytes:
                self._drop(route, plan.name, "queue_bytes")
                continue
            self._queue.append(copy)
            self._bytes += copy.size
        self._next()

    def _drop(self, route: str, shadow: str, reason: str) -> None:
        self.counts[route, shadow, f"dropped:{reason}"] += 1

    def _next(self) -> None:
        while self._queue and len(self._running) < self._concurrent:
            copy = self._queue.popleft()
            self._bytes -= copy.size
            self.counts[copy.route.name, copy.plan.name, "sent"] += 1
            call = ShadowCall(self, copy, copy.address)
            self._running.add(call)
            assert self.worker is not None
            self.worker.active.add(call)
            call.start()

    def ended(
        self, call: ShadowCall, error: str, answer: Answer | None, body: bytes | None, milliseconds: float
    ) -> None:
        """One copy is done with; what its answer says goes to the record."""
        if call not in self._running:
            return
        self._running.discard(call)
        assert self.worker is not None
        self.worker.active.discard(call)
        copy = call.copy
        if error:
            self.counts[copy.route.name, copy.plan.name, "failed"] += 1
        agrees, difference, detail = self._compare(copy, answer, body)
        self._record(
            Shadowed(
                decision=copy.decision,
                time=self.worker.wall(),
                route=copy.route.name,
                shadow=copy.plan.name,
                primary=copy.primary,
                status=answer.status if answer is not None else 0,
                error=error,
                latency_ms=milliseconds,
                primary_ms=copy.primary_ms,
                agrees=agrees,
                difference=difference,
                detail=detail,
            )
        )
        self._next()
