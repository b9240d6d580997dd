"""What all connections of one process share: the snapshot, the record's ring, the clock's tick."""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.clock import Clock
from gateway.dataplane.client.asgi import Application
from gateway.dataplane.exchange.failure_log import FailureLog
from gateway.dataplane.request.json_body import JsonBody
from gateway.dataplane.shadow.dispatcher import Shadower
from gateway.dataplane.snapshot import Snapshot
from gateway.runtime.loop_load import Load
from gateway.runtime.side_process import SideProcess
from gateway.transport.address import PROBE_INTERVAL_S, Address
from gateway.transport.health import Health

if TYPE_CHECKING:
    from gateway.dataplane.client.protocol import ClientProtocol
    from gateway.dataplane.exchange.tunnel import Tunnel

TICK: Final = 0.05
"""Seconds between two looks at the deadlines: one loop over what is in flight instead of a timer each."""
LATE: Final = 0.05
"""Seconds by which a tick may come late before the loop counts as having been held up."""
ENOUGH: Final = 3
"""Requests that must wait in silence for it to mean anything: one alone may simply take long."""
BODIES_WAITING: Final = 64
"""Large JSON bodies that may wait to be read."""
MIN_SURPLUS: Final = 16
"""Connections beyond the limit, and an eighth of it, that are still answered."""
RDHUP: Final = getattr(select, "POLLRDHUP", 0x2000)


class Timed(Protocol):
    """Something with a deadline."""

    deadline: float

    def expire(self, now: float) -> None: ...

    def waits_at(self, address: Address, since: float) -> bool:
        """Whether it has waited for a byte from ``address`` since before ``since``."""
        ...

    def behind(self) -> int:
        """How many wait in the queue of the backend that it is at."""
        ...

    def on_silence(self) -> None:
        """The address that it waits at has fallen silent."""
        ...


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
        self.failure_log = FailureLog()
        self.body_reader = SideProcess[JsonBody](BODIES_WAITING)
        self.active: set[Timed] = set()
        self.connections: set[ClientProtocol] = set()
        self.unread: set[ClientProtocol] = set()
        """Connections that are not being read, whose end would go unnoticed."""
        self.tunnels: set[Tunnel] = set()
        self.control_tasks: set[asyncio.Task[None]] = set()
        self.refusals: Counter[str] = Counter()
        self.draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0.0
        self._due = 0.0
        self._held_up = False
        self._awake = 0.0
        """When the loop last had been held up: what it did not hear before then says nothing."""
        self.load = Load()
        self.addresses: Callable[[], tuple[Address, ...]] = tuple
        self.healths: Callable[[], tuple[Health, ...]] = tuple

    # Connections ------------------------------------------------------------------------------------
    def opened(self, connection: ClientProtocol) -> bool:
        """Whether it is one too many; those that were there before are served on.

        A few too many are told so; the rest are closed unread.
        """
        self.connections.add(connection)
        limit = self.snapshot.limits.connections
        surplus = len(self.connections) - limit
        if surplus > limit // 8 + MIN_SURPLUS:
            self.refused("too_many_connections")
            connection.transport.abort()
        return surplus > 0

    @property
    def tunnels_full(self) -> bool:
        """Whether there are as many WebSockets as there may be."""
        return len(self.tunnels) >= self.snapshot.limits.websockets

    def closed(self, connection: ClientProtocol) -> None:
        self.connections.discard(connection)
        self.unread.discard(connection)

    def refused(self, code: str) -> None:
        """An error answer that concerns no decision."""
        self.refusals[code] += 1

    # Time -------------------------------------------------------------------------------------------
    def start(self) -> None:
        self._second = perf_counter()
        self.load.measure(self._second)
        self._due = self._second + TICK
        self._timer = self.loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.shadow.close()
        self.body_reader.close()

    def _tick(self) -> None:
        now = perf_counter()
        if now - self._due > LATE and not self._held_up:
            # The loop was held up. What has come meanwhile is read before anything counts as too late.
            self._held_up = True
            self._awake = now
            self._timer = self.loop.call_later(0.001, self._tick)
            return
        self._held_up = False
        self._due = now + TICK
        self._timer = self.loop.call_later(TICK, self._tick)
        due = [x for x in self.active if x.deadline <= now]
        for x in due:
            x.expire(now)
        self._listen(now)
        if self.unread:
            self._notice_gone()
        if now - self._second >= 1.0:
            self._every_second(now)

    def _every_second(self, now: float) -> None:
        self._second = now
        self.load.measure(now)
        for connection in tuple(self.connections):
            connection.check(now)
        for address in self.addresses():
            address.sweep()
        for health in self.healths():
            health.tick(now)
        self.shadow.tick()

    def _listen(self, now: float) -> None:
        """Finds addresses that have fallen silent while requests wait there."""
        for address in self.addresses():
            silent = now - max(address.last_byte_at, self._awake)
            if address.stalled or (address.in_flight and silent > address.stall_timeout()):
                self._silent(address, now)

    def _silent(self, address: Address, now: float) -> None:
        since = now - address.stall_timeout()
        waiting = [x for x in self.active if x.waits_at(address, since)]
        if not address.stalled:
            if not waiting or len(waiting) + max(x.behind() for x in waiting) < ENOUGH:
                return
            address.stalled = True
            address.next_probe_at = now + PROBE_INTERVAL_S
            for health in self.healths():
                health.report_stall(address, len(waiting), address.stall_timeout())
        for x in waiting:
            x.on_silence()

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
