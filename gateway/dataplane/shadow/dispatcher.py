"""Shadows: copies of requests to variants whose responses no client sees.

A copy leaves only after the primary's response has gone out, from a queue bounded by count and by bytes, over
connections of its own, with limits of its own (``limits.shadow``); each shadow has an equal part of them, so
that one that hangs leaves room for the others. Under load copies are the first to go. Whatever a shadow does,
the primary does not feel it; and offered = sent + dropped + waiting, always, with a reason for each drop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

from gateway.dataplane.base import Runtime
from gateway.dataplane.exchange.listener import ExchangeListener
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.request import Request
from gateway.dataplane.shadow.comparer import Comparer, Pair, comparable, reason_of, uncompared
from gateway.dataplane.shadow.shadow_request import ShadowRequest
from gateway.dataplane.shadow.sink import PrimaryResult, ShadowSink
from gateway.dataplane.snapshot import RoutePlan, ShadowLimits
from gateway.dataplane.variant import VariantPlan
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.record.events import Shadowed
from gateway.transport.address import Address
from policies import ejection
from policies.allocation.fixed_plans import shadow_due
from policies.comparison.compare import Agreement

MAX_LOOP_LOAD: Final = 0.95
"""Share of a second that the event loop may be busy before copies are dropped for the clients' sake."""
EJECTION: Final = ejection.Settings(
    consecutive_local=5,
    consecutive_remote=0,
    failure_share=2.0,
    base=1.0,
    longest=30.0,
    max_ejected=1.0,
    panic=0.0,
    slow_start=0.0,
)
"""A shadow that can't be reached, hangs or breaks five times in a row is left alone for a growing while."""


class ShadowQueue:
    """Copies for one address of a shadow: those that wait, and the number in flight."""

    __slots__ = ("bytes", "group", "health", "queue", "running")

    def __init__(self, address: Address) -> None:
        self.queue: deque[ShadowRequest] = deque()
        self.running = 0
        self.bytes = 0
        self.group = ejection.Group([address.name], EJECTION)
        self.health = self.group.addresses[address.name]


class ShadowDispatcher(ShadowSink):
    """The queues of all shadows, and what is in flight."""

    def __init__(
        self,
        *,
        limits: ShadowLimits,
        pool: Callable[[VariantPlan], Address],
        record: Callable[[Shadowed], None],
        comparer: Comparer,
    ) -> None:
        """``pool``: an address for a shadow, apart from those that serve clients."""
        self.limits = limits
        self.worker: Runtime | None = None
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """By (route, shadow, offered | sent | failed | dropped:REASON | uncompared:REASON)."""
        self._pool = pool
        self._record = record
        self._comparer = comparer
        self._queues: dict[Address, ShadowQueue] = {}
        self._bytes = 0
        self._running: set[ShadowRequest] = set()
        self._seen: dict[tuple[str, str], int] = {}
        """Requests of a route that has a shadow, by (route, shadow)."""

    @property
    def waiting(self) -> int:
        """Copies that wait to be sent."""
        return sum(len(queue.queue) for queue in self._queues.values())

    @property
    def running(self) -> int:
        """Copies in flight."""
        return len(self._running)

    @property
    def comparing(self) -> bool:
        """Whether responses wait to be compared."""
        return self._comparer.pending

    @property
    def held(self) -> int:
        """Bytes of requests and kept responses, waiting and in flight."""
        return self._bytes

    # Which requests ---------------------------------------------------------------------------------
    def sampled(
        self, route: RoutePlan, primary: VariantPlan, limits: ShadowLimits
    ) -> list[VariantPlan] | None:
        sampled: list[VariantPlan] | None = None
        for plan, share in route.shadows:
            key = (route.name, plan.name)
            number = self._seen.get(key, 0)
            self._seen[key] = number + 1
            if shadow_due(number, share) and plan is not primary:
                self.counts[route.name, plan.name, "offered"] += 1
                if sampled is None:
                    sampled = [plan]
                else:
                    sampled.append(plan)
        if sampled is not None:
            self.limits = limits
            if self._loaded():
                self.drop(route.name, sampled, "load")
                return None
        return sampled

    def _loaded(self) -> bool:
        worker = self.worker
        assert worker is not None
        others = len(worker.active) - len(self._running)  # the request itself is not among them yet
        return worker.load.busy > MAX_LOOP_LOAD or others >= self.limits.load

    def drop(self, route: str, shadows: list[VariantPlan], reason: str) -> None:
        for plan in shadows:
            self._drop(route, plan, reason)

    def _drop(self, route: str, plan: VariantPlan, reason: str) -> None:
        self.counts[route, plan.name, f"dropped:{reason}"] += 1

    # The queue --------------------------------------------------------------------------------------
    def offer(
        self,
        request: Request,
        body: Body,
        result: PrimaryResult,
        shadows: list[VariantPlan],
        listener: ExchangeListener | None,
    ) -> None:
        for plan in shadows:
            reason = self._offer(request, body, result, plan, listener)
            if reason:
                self._drop(request.route.name, plan, reason)
        self._next()

    def _offer(
        self,
        request: Request,
        body: Body,
        result: PrimaryResult,
        plan: VariantPlan,
        listener: ExchangeListener | None,
    ) -> str:
        """Queues a copy, or says why not; ``internal``: a fault of ours, which the client must not feel."""
        try:
            copy = ShadowRequest(request, body, result, plan, self._pool(plan), listener)
            reason = self._refuse(copy)
        except Exception as error:  # noqa: BLE001 - the primary must not feel it
            INTERNAL_ERRORS.report(error)
            return "internal"
        if not reason:
            self._take(copy)
        return reason

    def _refuse(self, copy: ShadowRequest) -> str:
        """Why there is no place for it; "" if there is."""
        limits, primary = self.limits, copy.primary
        queue = self._queues.get(copy.address)
        if queue is None:
            queue = self._queues[copy.address] = ShadowQueue(copy.address)
        queues = len(self._queues)
        if queue.health.ejected(perf_counter()):
            return "unhealthy"
        if len(queue.queue) >= max(1, limits.waiting // queues):
            return "queue_full"
        size = copy.size + (0 if primary.holders else primary.size)
        whole = copy.size + primary.size
        if self._bytes + size > limits.bytes or (
            queue.bytes and queue.bytes + whole > limits.bytes // queues
        ):
            return "queue_bytes"
        return ""

    def _take(self, copy: ShadowRequest) -> None:
        primary = copy.primary
        queue = self._queues[copy.address]
        queue.queue.append(copy)
        queue.bytes += copy.size + primary.size
        self._bytes += copy.size + (0 if primary.holders else primary.size)
        primary.holders += 1

    def _let_go(self, copy: ShadowRequest) -> None:
        primary = copy.primary
        self._queues[copy.address].bytes -= copy.size + primary.size
        primary.holders -= 1
        self._bytes -= copy.size + (0 if primary.holders else primary.size)

    def _next(self) -> None:
        """Sends what may be sent, a copy of each shadow in turn."""
        limits = self.limits
        share = max(1, limits.in_flight // max(1, len(self._queues)))
        sent = True
        while sent:
            sent = False
            for queue in self._queues.values():
                if queue.queue and queue.running < share and len(self._running) < limits.in_flight:
                    sent = True
                    self._send(queue, queue.queue.popleft())

    def _send(self, queue: ShadowQueue, copy: ShadowRequest) -> None:
        assert self.worker is not None
        queue.running += 1
        self.counts[copy.primary.route.name, copy.plan.name, "sent"] += 1
        attempt = copy.start(timeout=self.limits.timeout, limit=self.limits.answer, ended=self._ended)
        self._running.add(copy)
        self.worker.active.add(attempt)
        attempt.go(copy.address)

    # Ends -------------------------------------------------------------------------------------------
    def _ended(self, copy: ShadowRequest, error: str, body: bytes | None) -> None:
        """One copy is over; what its response says goes to the record."""
        if copy not in self._running:
            return
        self._running.discard(copy)
        assert self.worker is not None
        self.worker.active.discard(copy.attempt)
        if error:
            self.counts[copy.primary.route.name, copy.plan.name, "failed"] += 1
        self._judge(copy, error)
        self._let_go(copy)
        copy.report(error)
        self._compare(copy, error, body)
        self._next()

    def _judge(self, copy: ShadowRequest, error: str) -> None:
        queue = self._queues[copy.address]
        queue.running -= 1
        bad = error not in ("", "backend_status", "shadow_answer_too_large", "internal")
        if queue.group.observe(queue.health, ejection.LOCAL if bad else ejection.OK, perf_counter()):
            while queue.queue:
                waiting = queue.queue.popleft()
                self._let_go(waiting)
                self._drop(waiting.primary.route.name, waiting.plan, "unhealthy")

    def _compare(self, copy: ShadowRequest, error: str, body: bytes | None) -> None:
        primary, response, latency_ms = copy.primary, copy.response, copy.latency_ms

        def record(agreement: Agreement | None) -> None:
            self._store(copy, error, latency_ms, agreement)

        if error or body is None or response is None:
            record(None)
            return
        reason = primary.uncompared()
        if reason or primary.captured is None:
            record(uncompared(reason))
            return
        first = comparable(primary.lines, b"".join(primary.captured))
        pair = Pair(first, comparable(response.lines, body), primary.route.comparison)
        self._comparer.compare(primary.status, response.judged, pair, record)

    def _store(self, copy: ShadowRequest, error: str, latency_ms: float, agreement: Agreement | None) -> None:
        primary, response = copy.primary, copy.response
        assert self.worker is not None
        if agreement is not None and (reason := reason_of(agreement)):
            self.counts[primary.route.name, copy.plan.name, f"uncompared:{reason}"] += 1
        self._record(
            Shadowed(
                decision=primary.decision,
                time=self.worker.wall(),
                route=primary.route.name,
                shadow=copy.plan.name,
                primary=primary.served,
                status=response.judged if response is not None else 0,
                error=error,
                latency_ms=latency_ms,
                primary_ms=primary.latency_ms,
                agrees=agreement.agrees if agreement is not None else None,
                difference=agreement.difference if agreement is not None else None,
                detail=agreement.detail if agreement is not None else "",
            )
        )

    # Life -------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Forgets shadows that get no copies any more, so that the others have their part; once a second."""
        for address in [
            a for a, queue in self._queues.items() if not (queue.queue or queue.running or queue.bytes)
        ]:
            queue = self._queues[address]
            if not queue.health.ejected(perf_counter()) and not queue.health.runs[ejection.LOCAL]:
                del self._queues[address]

    def close(self) -> None:
        for queue in self._queues.values():
            while queue.queue:
                copy = queue.queue.popleft()
                self._let_go(copy)
                self._drop(copy.primary.route.name, copy.plan, "shutdown")
        for copy in tuple(self._running):
            copy.attempt.expire(0.0)
        self._comparer.close()
