"""A place among the requests that a backend is given: waited for, held, given back."""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway.dataplane.exchange.states import BACKOFF, ENDED, QUEUED
from gateway.dataplane.variant import VariantPlan
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHandler


class SlotHolder(ResponseHandler):
    """An attempt as the limits of its backend see it."""

    __slots__ = (
        "address", "connection", "deadline", "has_slot", "plan", "retrying", "since", "state", "task",
        "total_deadline", "waited",
    )  # fmt: skip

    plan: VariantPlan
    """The variant that is tried."""
    deadline: float
    """`perf_counter` at which the state must be over."""
    total_deadline: float
    """`perf_counter` at which all of it must be over."""
    state: int
    """See `gateway.dataplane.exchange.states`."""
    address: Address | None
    connection: Connection | None
    since: float
    """When the state began; while WAITING, when the request's last byte was sent."""
    waited: float
    """Seconds in the queue and in the back-off."""
    has_slot: bool
    """Whether it counts among the requests in flight at the backend."""
    retrying: bool
    """Whether it counts among the backend's retries."""
    task: asyncio.Task[None] | asyncio.TimerHandle | None
    """What makes the connection, or ends the back-off."""

    def pick(self) -> Address | None:
        """Returns the address to use, or None after there being none was dealt with."""
        raise NotImplementedError

    def on_queue_full(self) -> None:
        """There is neither a slot nor a place to wait for one."""
        raise NotImplementedError

    def go(self, address: Address) -> None:
        """Sends the request to ``address`` on an idle connection, or makes a new one."""
        raise NotImplementedError

    def start(self) -> None:
        """Picks an address and sends the request, immediately or from the queue."""
        backend = self.plan.backend
        address = backend.single
        if address is None or backend.health.degraded:
            address = self.pick()
            if address is None:
                return
        limiter = backend.limiter
        if limiter.in_flight >= limiter.limit.in_flight:
            self._queue()
            return
        self.has_slot = True
        limiter.in_flight += 1
        address.in_flight += 1
        self.go(address)

    def delay(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Starts as a retry, ``seconds`` from now."""
        self.state = BACKOFF
        self.since = perf_counter()
        self.retrying = True
        self.plan.backend.limiter.retrying += 1
        self.task = loop.call_later(seconds, self.on_turn)

    def _queue(self) -> None:
        limiter = self.plan.backend.limiter
        # Better 503 now than after a wait that is likely to be in vain.
        if limiter.queue_full or limiter.would_time_out():
            self.on_queue_full()
            return
        self.state = QUEUED
        limiter.waiting.append(self)
        self.since = perf_counter()
        self.deadline = min(self.since + limiter.limit.wait, self.total_deadline)

    def on_turn(self) -> None:
        """The back-off is over, or a slot is free and the attempt has left the queue."""
        self.task = None
        now = perf_counter()
        self.waited += now - self.since
        self.since = now
        self.start()

    def reserve(self, address: Address) -> None:
        """Takes a slot of the backend and goes to ``address``."""
        self.has_slot = True
        self.plan.backend.limiter.in_flight += 1
        address.in_flight += 1
        self.go(address)

    def release(self) -> None:
        """Gives back the slot, or the place in the queue."""
        limiter, address = self.plan.backend.limiter, self.address
        if self.retrying:
            self.retrying = False
            limiter.retrying -= 1
        if self.has_slot and address is not None:
            self.has_slot = False
            address.in_flight -= 1
            limiter.in_flight -= 1
            if limiter.waiting:
                limiter.admit(perf_counter())
        elif self.state == QUEUED and self in limiter.waiting:
            limiter.waiting.remove(self)

    def observe_failure(self, code: str) -> None:
        """Reports the failure ``code`` to the health of the backend."""
        if self.address is not None and code != "internal":
            self.plan.backend.health.failed(self.address, code, perf_counter())

    def observe_bad(self, status: int, now: float) -> None:
        """Reports a failing response to the health of the backend. Below 500 its address works."""
        assert self.address is not None
        self.address.last_byte_at = now
        if status >= 500:
            self.observe_failure("backend_status")
        else:
            self.plan.backend.health.good(self.address, now)

    # Ends -------------------------------------------------------------------------------------------
    def cancel(self) -> None:
        """Ends immediately what is in flight at the backend; the slot is kept until `leave`."""
        connection, self.connection = self.connection, None
        task, self.task = self.task, None
        if connection is not None:
            connection.abandon()
        if task is not None:
            task.cancel()

    def leave(self) -> None:
        """Is over."""
        self.release()
        self.state = ENDED
