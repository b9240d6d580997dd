"""What all connections of one process share: the snapshot, the record's ring, the clock's tick."""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.clock import Clock
from gateway.dataplane.asgi import Application
from gateway.dataplane.shadow import Shadower
from gateway.dataplane.snapshot import Snapshot
from gateway.transport.pool import Address

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange
    from gateway.dataplane.protocol import ClientProtocol

TICK: Final = 0.05
"""Seconds between two looks at the deadlines: one loop over what is in flight instead of a timer each."""
RDHUP: Final = getattr(select, "POLLRDHUP", 0x2000)


class Timed(Protocol):
    """Something with a deadline."""

    deadline: float

    def expire(self, now: float) -> None: ...


class RetryBudget:
    """Retries may be a share of the requests in flight, and always a few (Envoy's retry budget)."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running = 0.0

    def available(self, active: int, share: float, least: int) -> bool:
        return self.running < max(least, share * active)

    def retried(self) -> None:
        self.running += 1.0

    def tick(self, seconds: float) -> None:
        """A retry counts for about a second."""
        self.running = max(0.0, self.running - self.running * min(1.0, seconds))


class Worker:
    """One process of the gateway, as its connections see it."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        snapshot: Snapshot,
        application: Application,
        wall: Clock,
        random: Callable[[], float],
        new_decision: Callable[[float], bytes],
        seal: Callable[[bytes, int, bytes], bytes],
        offer: Callable[[Any], None],
        shadow: Shadower,
    ) -> None:
        self.loop = loop
        self.snapshot = snapshot
        self.application = application
        self.wall = wall
        self.random = random
        self.new_decision = new_decision
        self.seal = seal
        self.offer = offer
        self.shadow = shadow
        self.budget = RetryBudget()
        self.active: set[Timed] = set()
        self.connections: set[ClientProtocol] = set()
        self.unread: set[ClientProtocol] = set()
        """Connections that are not being read, whose end would go unnoticed."""
        self.control_tasks: set[asyncio.Task[None]] = set()
        self.refusals: Counter[str] = Counter()
        self.draining = False
        self.overloaded = False
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0.0
        self.addresses: Callable[[], tuple[Address, ...]] = tuple

    # Connections ------------------------------------------------------------------------------------
    def opened(self, connection: ClientProtocol) -> None:
        self.connections.add(connection)
        self.overloaded = len(self.connections) > self.snapshot.limits.connections

    def closed(self, connection: ClientProtocol) -> None:
        self.connections.discard(connection)
        self.unread.discard(connection)
        self.overloaded = len(self.connections) > self.snapshot.limits.connections

    def refused(self, code: str) -> None:
        """An error answer that concerns no decision."""
        self.refusals[code] += 1

    # Health, as the hot path sees it ------------------------------------------------------------------
    def usable(self, address: Address, exchange: Exchange) -> bool:
        return not address.probed_down or not exchange.route.fallback

    def observe(self, address: Address, code: str, milliseconds: float) -> None:
        """What came of an attempt: "" is a success."""

    # Time -------------------------------------------------------------------------------------------
    def start(self) -> None:
        self._timer = self.loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK, self._tick)
        now = perf_counter()
        due = [x for x in self.active if x.deadline <= now]
        for x in due:
            x.expire(now)
        if self.unread:
            self._notice_gone()
        if now - self._second >= 1.0:
            self.budget.tick(now - self._second)
            self._second = now
            for connection in tuple(self.connections):
                connection.check(now)
            for address in self.addresses():
                address.sweep()

    def _notice_gone(self) -> None:
        """While a connection is not read, neither FIN nor RST is noticed: so ask the kernel."""
        poll = select.poll()
        by_fd = {}
        for connection in self.unread:
            fd = connection.transport.get_extra_info("socket").fileno()
            if fd >= 0:
                by_fd[fd] = connection
                poll.register(fd, RDHUP | select.POLLHUP | select.POLLERR)
        for fd, _ in poll.poll(0):
            by_fd[fd].transport.abort()
