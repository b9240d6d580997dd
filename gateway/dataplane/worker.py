"""One process of the gateway, as its connections see it: what they share, and the tick of their clock."""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from gateway.clock import Clock
from gateway.dataplane.base import ClientConnection, Runtime
from gateway.dataplane.exchange.failure_log import FailureLog
from gateway.dataplane.request.json_body import JsonBody
from gateway.dataplane.shadow.sink import ShadowSink
from gateway.dataplane.snapshot import Snapshot
from gateway.dataplane.timed import Timed
from gateway.record.usage import UsageReader
from gateway.runtime.loop_load import Load
from gateway.runtime.side_process import SideProcess
from gateway.transport.address import PROBE_INTERVAL_S, Address
from gateway.transport.health import Health

TICK_S: Final = 0.05
"""Between two looks at the deadlines: one loop over what is in flight instead of a timer each."""
MAX_LATENESS_S: Final = 0.05
"""A tick that is later than this shows that the loop was held up."""
MIN_STALLED_REQUESTS: Final = 3
"""Requests that must wait without a byte for it to mean anything: one alone may simply take long."""
MAX_WAITING_BODIES: Final = 64
"""Large JSON bodies that may wait to be read."""
MIN_SURPLUS: Final = 16
"""Connections beyond the limit, and an eighth of it, that still get an error response."""
RDHUP: Final = getattr(select, "POLLRDHUP", 0x2000)
HELD_UP: Final = float("inf")
"""When the next tick is due while the loop is known to have been held up: never too late."""


class Worker(Runtime):
    """The one process, or one of several."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        snapshot: Snapshot,
        application: Callable[..., Any],
        wall: Clock,
        random: Callable[[], float],
        new_decision: Callable[[float], bytes],
        seal: Callable[[bytes, int, bytes], bytes],
        offer: Callable[[Any], None],
        offer_usage: Callable[[Any, bytes, UsageReader], None] = lambda *_: None,
        shadow: ShadowSink,
    ) -> None:
        """See `Runtime`."""
        self.loop = loop
        self.snapshot = snapshot
        self.application = application
        self.wall = wall
        self.random = random
        self.new_decision = new_decision
        self.seal = seal
        self.offer = offer
        self.offer_usage = offer_usage
        self.shadow = shadow
        self.failure_log = FailureLog()
        self.body_reader = SideProcess[JsonBody](MAX_WAITING_BODIES)
        self.active: set[Timed] = set()
        self.connections: set[ClientConnection] = set()
        self.unread: set[ClientConnection] = set()
        self.tunnels: set[Any] = set()
        self.control_tasks: set[asyncio.Task[None]] = set()
        self.undecided: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0.0
        self._due = 0.0
        self._awake = 0.0
        """When the loop was last held up: what it did not hear before then says nothing."""
        self.load = Load()
        self.addresses: Callable[[], tuple[Address, ...]] = tuple
        self.healths: Callable[[], tuple[Health, ...]] = tuple

    # Connections ------------------------------------------------------------------------------------
    def opened(self, connection: ClientConnection) -> bool:
        self.connections.add(connection)
        limit = self.snapshot.limits.connections
        surplus = len(self.connections) - limit
        if surplus > limit // 8 + MIN_SURPLUS:
            self.refusals["too_many_connections"] += 1
            connection.transport.abort()
        return surplus > 0

    def closed(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        self.unread.discard(connection)

    # Time -------------------------------------------------------------------------------------------
    def start(self) -> None:
        self._second = perf_counter()
        self.load.measure(self._second)
        self._due = self._second + TICK_S
        self._timer = self.loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.shadow.close()
        self.body_reader.close()

    def _tick(self) -> None:
        now = perf_counter()
        if now - self._due > MAX_LATENESS_S:
            # The loop was held up. What has come meanwhile is read before anything counts as too late.
            self._awake = now
            self._due = HELD_UP
            self._timer = self.loop.call_later(0.001, self._tick)
            return
        self._due = now + TICK_S
        self._timer = self.loop.call_later(TICK_S, self._tick)
        for work in [work for work in self.active if work.deadline <= now]:
            work.expire(now)
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
        """Finds addresses that have stalled while requests wait there."""
        for address in self.addresses():
            silent = now - max(address.last_byte_at, self._awake)
            if address.stalled or (address.in_flight and silent > address.stall_timeout()):
                self._on_silence(address, now)

    def _on_silence(self, address: Address, now: float) -> None:
        timeout = address.stall_timeout()
        queues = {work: n for work in self.active if (n := work.waits_at(address, now - timeout))}
        waiting = len(queues)
        if not address.stalled:
            # Each counts itself and its queue, which is the same for all of one backend.
            if not waiting or waiting - 1 + max(queues.values()) < MIN_STALLED_REQUESTS:
                return
            address.stalled = True
            address.next_probe_at = now + PROBE_INTERVAL_S
            for health in self.healths():
                health.report_stall(address, waiting, timeout)
        for work in queues:
            work.on_silence()

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
