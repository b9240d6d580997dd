"""Backends, their addresses, and the connections that rest between requests.

Decisions are synchronous: a connection is taken, waited for or refused in one call. An `Address` outlives
the configuration that named it, so an edit keeps its connections, its health and its counters.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.transport.connection import BackendConnection, User

CONNECT_TIMEOUT: Final = 10.0
"""The last resort for a connect whose request has gone; requests have their own limit."""


class Waiter(Protocol):
    """A request in the queue of an address."""

    def on_slot(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one backend may be given at once by this process."""

    in_flight: int = 1024
    waiting: int = 1024
    wait: float = 1.0
    """Seconds."""


class Gate:
    """The bound of one backend: so many in flight, a short queue behind, and no more."""

    __slots__ = ("in_flight", "limit", "waiting")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.in_flight = 0
        self.waiting: deque[Waiter] = deque()

    @property
    def full(self) -> bool:
        return self.in_flight >= self.limit.in_flight

    @property
    def crowded(self) -> bool:
        """Whether there is no place left even to wait."""
        return len(self.waiting) >= self.limit.waiting

    def admit(self) -> None:
        """A place became free: the next in the queue gets it."""
        while self.waiting and not self.full:
            self.waiting.popleft().on_slot()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What identifies an address: the same endpoint keeps its state across configurations."""

    scheme: str
    host: str
    port: int
    tls: str = ""
    """A digest of the TLS settings; "" for none."""

    @property
    def authority(self) -> bytes:
        """The Host of requests to it: without the port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = {"http": 80, "https": 443}.get(self.scheme)
        return (host if self.port == own else f"{host}:{self.port}").encode()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Address:
    """One place where a backend listens: its resting connections (last in, first out) and its load."""

    __slots__ = (
        "all", "authority", "connecting", "context", "endpoint", "ewma_ms", "idle", "idle_limit", "idle_most",
        "in_flight", "loop", "name", "outlier", "probed_down", "server_name", "stalled", "started", "time",
    )  # fmt: skip

    def __init__(
        self,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
        *,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        idle_limit: float = 4.0,
        idle_most: int = 512,
    ) -> None:
        self.endpoint = endpoint
        self.name = str(endpoint)
        self.loop = loop
        self.context = context
        self.server_name = server_name
        self.idle: list[BackendConnection] = []
        self.all: set[BackendConnection] = set()
        self.idle_limit = idle_limit
        self.idle_most = idle_most
        self.in_flight = 0
        self.authority = endpoint.authority
        self.connecting: set[asyncio.Task[None]] = set()
        self.time = loop.time
        self.outlier: Outlier | None = None
        self.probed_down = False
        self.stalled = 0
        self.ewma_ms = 0.0
        self.started = loop.time()

    # Taking and giving back -------------------------------------------------------------------------
    def resting(self) -> BackendConnection | None:
        """A connection that is ready for a request, or None."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.closed or connection.transport.is_closing():
                continue
            limit = connection.idle_limit - 1.0 if connection.idle_limit else self.idle_limit
            if self.time() - connection.idle_since > min(limit, self.idle_limit):
                connection.abandon()
                continue
            return connection
        return None

    def release(self, connection: BackendConnection) -> None:
        if len(self.idle) >= self.idle_most:
            connection.abandon()
            return
        connection.idle_since = self.time()
        self.idle.append(connection)

    def forget(self, connection: BackendConnection) -> None:
        """The connection is gone."""
        self.all.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def connect(self, user: User) -> asyncio.Task[None]:
        """Opens a connection for ``user``: it hears on_connected, or on_failure with what went wrong."""
        task = self.loop.create_task(self._connect(user))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)
        return task

    async def _connect(self, user: User) -> None:
        def factory() -> BackendConnection:
            connection = BackendConnection(self, user)
            self.all.add(connection)
            return connection

        endpoint = self.endpoint
        try:
            await self.loop.create_connection(
                factory, endpoint.host, endpoint.port, ssl=self.context, server_hostname=self.server_name
            )
        except ssl.SSLError as error:
            user.on_failure("backend_tls", f"{self.name}: {error.reason or error}", fresh=False)
        except OSError as error:
            user.on_failure("backend_connect", f"{self.name}: {error.strerror or error}", fresh=False)

    def sweep(self) -> None:
        """Closes what has rested too long, oldest first; called about once a second."""
        now = self.time()
        idle = self.idle
        while idle and now - idle[0].idle_since > self.idle_limit:
            idle[0].abandon()
            del idle[0]

    def close(self) -> None:
        for connection in tuple(self.all):
            if connection.user is None:
                connection.abandon()
        self.idle.clear()


class Outlier(Protocol):
    """Passive health of one address."""

    def available(self, now: float) -> bool: ...


Chance = Callable[[], float]


class Backend:
    """The addresses that serve one backend of the configuration, and the choice between them."""

    __slots__ = ("addresses", "chance", "gate", "name", "single")

    def __init__(self, name: str, addresses: Sequence[Address], gate: Gate, chance: Chance) -> None:
        self.name = name
        self.gate = gate
        self.addresses = tuple(addresses)
        self.single = self.addresses[0] if len(self.addresses) == 1 else None
        self.chance = chance

    def pick(self, tried: Sequence[Address] = ()) -> Address:
        """The less loaded of two chosen by chance (power of two choices), an untried one if there is one."""
        if self.single is not None:
            return self.single
        usable = [a for a in self.addresses if a not in tried and not a.probed_down] or [
            a for a in self.addresses if a not in tried
        ]
        if not usable:
            usable = list(self.addresses)
        if len(usable) == 1:
            return usable[0]
        first = int(self.chance() * len(usable))
        second = int(self.chance() * (len(usable) - 1))
        a, b = usable[first], usable[second + (second >= first)]
        return a if a.in_flight <= b.in_flight else b
