"""One process of the gateway, as its connections see it: what they share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from gateway.clock import Clock
from gateway.dataplane.base import ClientConnection, Runtime
from gateway.dataplane.exchange.failure_log import FailureLog
from gateway.dataplane.request.json_body import JsonBody
from gateway.dataplane.shadow.sink import ShadowSink
from gateway.dataplane.snapshot import Snapshot
from gateway.dataplane.ticker import Ticker
from gateway.dataplane.timed import Timed
from gateway.record.usage import UsageReader
from gateway.runtime.loop_load import Load
from gateway.runtime.side_process import SideProcess
from gateway.transport.address import Address
from gateway.transport.health import Health

MAX_WAITING_BODIES: Final = 64
"""Large JSON bodies that may wait to be read."""
MIN_SURPLUS: Final = 16
"""Connections beyond the limit, and an eighth of it, that still get an error response."""


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
        addresses: Callable[[], tuple[Address, ...]],
        healths: Callable[[], tuple[Health, ...]] = tuple,
    ) -> None:
        """See `Runtime` and `Ticker`."""
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
        self.load = Load()
        self._ticker = Ticker(self, addresses, healths)

    # Connections ------------------------------------------------------------------------------------
    def opened(self, connection: ClientConnection) -> bool:
        self.connections.add(connection)
        limit = self.snapshot.limits.connections
        surplus = len(self.connections) - limit
        # Error responses cost memory and time as well, so these, too, are bounded.
        if surplus > limit // 8 + MIN_SURPLUS:
            self.refusals["too_many_connections"] += 1
            connection.transport.abort()
        return surplus > 0

    def closed(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        self.unread.discard(connection)

    # Life -------------------------------------------------------------------------------------------
    def start(self) -> None:
        self._ticker.start()

    def stop(self) -> None:
        self._ticker.stop()
        self.shadow.close()
        self.body_reader.close()
