"""What a process looks at again and again: deadlines, backends that have stalled, clients that are gone."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from time import perf_counter
from typing import Final

from gateway.dataplane.base import Runtime
from gateway.dataplane.timed import NEVER
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.transport.address import PROBE_INTERVAL_S, Address
from gateway.transport.health import Health

TICK_S: Final = 0.05
"""Between two looks at the deadlines: one loop over what is in flight instead of a timer each."""
MAX_LATENESS_S: Final = 0.05
"""A tick that is later than this shows that the loop was held up."""
MIN_STALLED_REQUESTS: Final = 3
"""Requests that must wait without a byte for it to mean anything: one alone may simply take long."""
RDHUP: Final = getattr(select, "POLLRDHUP", 0x2000)
HELD_UP: Final = float("inf")
"""When the next tick is due while the loop is known to have been held up: never too late."""


class Ticker:
    """The clock of one process."""

    __slots__ = ("_addresses", "_awake", "_due", "_healths", "_runtime", "_second", "_timer")

    def __init__(
        self,
        runtime: Runtime,
        addresses: Callable[[], tuple[Address, ...]],
        healths: Callable[[], tuple[Health, ...]],
    ) -> None:
        """``addresses`` and ``healths``: those in force."""
        self._runtime = runtime
        self._addresses = addresses
        self._healths = healths
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0.0
        self._due = 0.0
        self._awake = 0.0
        """When the loop was last held up: what it did not hear before then says nothing."""

    def start(self) -> None:
        self._second = perf_counter()
        self._runtime.load.measure(self._second)
        self._due = self._second + TICK_S
        self._timer = self._runtime.loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now, loop = perf_counter(), self._runtime.loop
        if now - self._due > MAX_LATENESS_S:
            # The loop was held up. What has come meanwhile is read before anything counts as too late.
            self._awake = now
            self._due = HELD_UP
            self._timer = loop.call_later(0.001, self._tick)
            return
        self._due = now + TICK_S
        # Before the work: an exception must not stop the clock.
        self._timer = loop.call_later(TICK_S, self._tick)
        for work in [work for work in self._runtime.active if work.deadline <= now]:
            # The end of one may have given another its slot, with a new deadline, or have ended it.
            if work in self._runtime.active and work.deadline <= now:
                try:
                    work.expire(now)
                except Exception as error:  # noqa: BLE001 - in each tick it would hold up all others
                    INTERNAL_ERRORS.report(error)
                    work.deadline = NEVER  # type: ignore[misc]  # its classes have it
        self._listen(now)
        if self._runtime.unread:
            self._notice_gone()
        if now - self._second >= 1.0:
            self._every_second(now)

    def _every_second(self, now: float) -> None:
        self._second = now
        self._runtime.load.measure(now)
        for connection in tuple(self._runtime.connections):
            try:
                connection.check(now)
            except Exception as error:  # noqa: BLE001 - all others and all addresses would not be looked at
                INTERNAL_ERRORS.report(error)
                connection.transport.abort()
        for address in self._addresses():
            address.sweep()
        for health in self._healths():
            health.tick(now)
        self._runtime.shadow.tick()

    def _listen(self, now: float) -> None:
        """Finds addresses that have stalled while requests wait there."""
        for address in self._addresses():
            silent = now - max(address.last_byte_at, self._awake)
            if address.stalled or (address.in_flight and silent > address.stall_timeout()):
                self._on_silence(address, now)

    def _on_silence(self, address: Address, now: float) -> None:
        timeout = address.stall_timeout()
        queues = {work: n for work in self._runtime.active if (n := work.waits_at(address, now - timeout))}
        waiting = len(queues)
        if not address.stalled:
            # Each counts itself and its queue, which is the same for all of one backend.
            if not waiting or waiting - 1 + max(queues.values()) < MIN_STALLED_REQUESTS:
                return
            address.stalled = True
            address.next_probe_at = now + PROBE_INTERVAL_S
            for health in self._healths():
                health.report_stall(address, waiting, timeout)
        for work in queues:
            work.on_silence()

    def _notice_gone(self) -> None:
        """While a connection is not read, neither FIN nor RST is noticed: so ask the kernel."""
        poll = select.poll()
        by_fd = {}
        for connection in self._runtime.unread:
            fd = connection.transport.get_extra_info("socket").fileno()
            if fd >= 0:
                by_fd[fd] = connection
                poll.register(fd, RDHUP | select.POLLHUP | select.POLLERR)
        for fd, _ in poll.poll(0):
            by_fd[fd].transport.abort()
