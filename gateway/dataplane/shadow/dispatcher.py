"""Shadows: copies of requests to variants whose answers no client sees.

A copy leaves only after the primary's answer has gone out, from a queue bounded by count and by bytes, over
connections of its own, with limits of its own (``limits.shadow``); each shadow has an equal part of them, so
that one that hangs leaves room for the others. Under load copies are the first to go. Whatever a shadow does,
the primary does not feel it; and offered = sent + dropped + waiting, always, with a reason for each drop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.dataplane.exchange.states import READING
from gateway.dataplane.shadow.comparer import Comparer, Pair, comparable, reason_of, uncompared
from gateway.dataplane.shadow.shadow_request import Copy, Original, ShadowCall
from gateway.dataplane.snapshot import ShadowLimits, VariantPlan
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.record.events import Shadowed
from gateway.transport.address import Address
from gateway.transport.base import ResponseHead
from policies import ejection
from policies.allocation.fixed_plans import shadow_due
from policies.comparison.compare import Agreement

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange
    from gateway.dataplane.worker import Worker

BUSY: Final = 0.95
"""The share of a second that the event loop may be busy before copies are dropped for the clients' sake."""
DEAD: Final = ejection.Settings(
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


class Lane:
    """What waits for one address of a shadow, and is under way there."""

    __slots__ = ("bytes", "group", "health", "queue", "running")

    def __init__(self, address: Address) -> None:
        self.queue: deque[Copy] = deque()
        self.running = 0
        self.bytes = 0
        self.group = ejection.Group([address.name], DEAD)
        self.health = self.group.addresses[address.name]


class Shadower:
    """The queue, and what is under way."""

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
        self.worker: Worker | None = None
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """By (route, shadow, offered | sent | failed | dropped:REASON | uncompared:REASON)."""
        self._pool = pool
        self._record = record
        self._comparer = comparer
        self._lanes: dict[Address, Lane] = {}
        self._bytes = 0
        self._running: set[ShadowCall] = set()
        self._seen: dict[tuple[str, str], int] = {}
        """Requests that were counted, by (route, shadow)."""

    @property
    def waiting(self) -> int:
        """Copies that wait to be sent."""
        return sum(len(lane.queue) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """Copies under way."""
        return len(self._running)

    @property
    def comparing(self) -> bool:
        """Whether responses wait to be compared."""
        return self._comparer.pending

    @property
    def held(self) -> int:
        """Bytes of requests and kept answers, waiting and under way."""
        return self._bytes

    # Which requests ---------------------------------------------------------------------------------
    def due(self, exchange: Exchange) -> list[VariantPlan] | None:
        """The shadows whose turn it is: exact shares by counting, not by chance."""
        found: list[VariantPlan] | None = None
        route = exchange.route
        for plan, share in route.shadows:
            key = (route.name, plan.name)
            number = self._seen.get(key, 0)
            self._seen[key] = number + 1
            if shadow_due(number, share) and exchange.choice.variant is not plan:
                found = found or []
                found.append(plan)
        if found:
            self.limits = exchange.client.snapshot.limits.shadow
            for plan in found:
                self.counts[route.name, plan.name, "offered"] += 1
            if self._loaded():
                self.drop(exchange, found, "load")
                return None
        return found

    def _loaded(self) -> bool:
        worker = self.worker
        assert worker is not None
        return worker.load.busy > BUSY or len(worker.active) - len(self._running) > self.limits.load

    def drop(self, exchange: Exchange, shadows: list[VariantPlan] | None, reason: str) -> None:
        """Counts copies that are not made, by the reason."""
        for plan in shadows or ():
            self._drop(exchange.route.name, plan, reason)

    def _drop(self, route: str, plan: VariantPlan, reason: str) -> None:
        self.counts[route, plan.name, f"dropped:{reason}"] += 1

    # The queue --------------------------------------------------------------------------------------
    def offer(self, exchange: Exchange) -> None:
        """Takes the copies of a finished request, or counts why not."""
        shadows = exchange.shadows
        if not exchange.complete or exchange.state == READING:
            self.drop(exchange, shadows, "request_incomplete")
            return
        original = Original(exchange)
        for plan in shadows or ():
            reason = self._queue(exchange, original, plan)
            if reason:
                self._drop(exchange.route.name, plan, reason)
        self._next()

    def _queue(self, exchange: Exchange, original: Original, plan: VariantPlan) -> str:
        """Queues a copy, or says why not; ``internal``: a fault of ours, which the client must not feel."""
        try:
            copy = Copy(exchange, original, plan, self._pool(plan))
            reason = self._refuse(copy)
        except Exception as error:  # noqa: BLE001 - the primary must not feel it
            INTERNAL_ERRORS.report(error)
            return "internal"
        if not reason:
            self._take(copy)
        return reason

    def _refuse(self, copy: Copy) -> str:
        """Why there is no place for it; "" if there is."""
        limits, original = self.limits, copy.original
        lane = self._lanes.get(copy.address)
        if lane is None:
            lane = self._lanes[copy.address] = Lane(copy.address)
        lanes = len(self._lanes)
        if lane.health.ejected(perf_counter()):
            return "unhealthy"
        if len(lane.queue) >= max(1, limits.waiting // lanes):
            return "queue_full"
        size = copy.size + (0 if original.holders else original.size)
        whole = copy.size + original.size
        if self._bytes + size > limits.bytes or (lane.bytes and lane.bytes + whole > limits.bytes // lanes):
            return "queue_bytes"
        return ""

    def _take(self, copy: Copy) -> None:
        original = copy.original
        lane = self._lanes[copy.address]
        lane.queue.append(copy)
        lane.bytes += copy.size + original.size
        self._bytes += copy.size + (0 if original.holders else original.size)
        original.holders += 1

    def _let_go(self, copy: Copy) -> None:
        original = copy.original
        lane = self._lanes.get(copy.address)
        if lane is not None:
            lane.bytes -= copy.size + original.size
        original.holders -= 1
        self._bytes -= copy.size + (0 if original.holders else original.size)

    def _next(self) -> None:
        """Sends what may be sent, a copy of each shadow in turn."""
        limits = self.limits
        share = max(1, limits.in_flight // max(1, len(self._lanes)))
        sent = True
        while sent:
            sent = False
            for lane in self._lanes.values():
                if lane.queue and lane.running < share and len(self._running) < limits.in_flight:
                    sent = True
                    self._send(lane, lane.queue.popleft())

    def _send(self, lane: Lane, copy: Copy) -> None:
        lane.running += 1
        self.counts[copy.original.route.name, copy.plan.name, "sent"] += 1
        call = ShadowCall(self, copy, timeout=self.limits.timeout, limit=self.limits.answer)
        self._running.add(call)
        assert self.worker is not None
        self.worker.active.add(call)
        call.start()

    # Ends -------------------------------------------------------------------------------------------
    def ended(self, call: ShadowCall, error: str, body: bytes | None) -> None:
        """One copy is done with; what its answer says goes to the record."""
        if call not in self._running:
            return
        self._running.discard(call)
        assert self.worker is not None
        self.worker.active.discard(call)
        copy = call.copy
        if error:
            self.counts[copy.original.route.name, copy.plan.name, "failed"] += 1
        self._judge(copy, error)
        self._let_go(copy)
        call.tell_trace(error)
        self._compare(call, error, body)
        self._next()

    def _judge(self, copy: Copy, error: str) -> None:
        lane = self._lanes.get(copy.address)
        if lane is None:
            return
        lane.running -= 1
        bad = error not in ("", "backend_status", "shadow_answer_too_large", "internal")
        if lane.group.observe(lane.health, ejection.LOCAL if bad else ejection.OK, perf_counter()):
            while lane.queue:
                waiting = lane.queue.popleft()
                self._let_go(waiting)
                self._drop(waiting.original.route.name, waiting.plan, "unhealthy")

    def _compare(self, call: ShadowCall, error: str, body: bytes | None) -> None:
        original, response, spent = call.copy.original, call.response, call.milliseconds

        def record(found: Agreement | None) -> None:
            self._store(call.copy, response, error, spent, found)

        if error or body is None or response is None:
            record(None)
            return
        reason = original.uncompared()
        if reason or original.answer is None:
            record(uncompared(reason))
            return
        first = comparable(original.lines, b"".join(original.answer))
        pair = Pair(first, comparable(response.lines, body), original.route.comparison)
        self._comparer.compare(original.status, response.status, pair, record)

    def _store(
        self, copy: Copy, response: ResponseHead | None, error: str, spent: float, found: Agreement | None
    ) -> None:
        original, worker = copy.original, self.worker
        assert worker is not None
        if found is not None and (reason := reason_of(found)):
            self.counts[original.route.name, copy.plan.name, f"uncompared:{reason}"] += 1
        self._record(
            Shadowed(
                decision=original.decision,
                time=worker.wall(),
                route=original.route.name,
                shadow=copy.plan.name,
                primary=original.primary,
                status=response.status if response is not None else 0,
                error=error,
                latency_ms=spent,
                primary_ms=original.primary_ms,
                agrees=found.agrees if found is not None else None,
                difference=found.difference if found is not None else None,
                detail=found.detail if found is not None else "",
            )
        )

    # Life -------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Forgets shadows that get no copies any more, so that the others have their part; once a second."""
        for address in [
            a for a, lane in self._lanes.items() if not (lane.queue or lane.running or lane.bytes)
        ]:
            lane = self._lanes[address]
            if not lane.health.ejected(perf_counter()) and not lane.health.runs[ejection.LOCAL]:
                del self._lanes[address]

    def close(self) -> None:
        """The gateway ends: what waits is dropped, what is under way is cut."""
        for lane in self._lanes.values():
            while lane.queue:
                copy = lane.queue.popleft()
                self._let_go(copy)
                self._drop(copy.original.route.name, copy.plan, "shutdown")
        for call in tuple(self._running):
            call.expire(0.0)
        self._comparer.close()
