"""Backends, their addresses, and the connections that rest between requests.

Decisions are synchronous: a connection is taken, waited for or refused in one call. An `Address` outlives
the configuration that named it, so an edit keeps its connections, its health and its counters.
"""

from __future__ import annotations

import asyncio
import ssl
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, Protocol

from gateway.transport.connection import BackendConnection, User
from gateway.transport.health import Health

Balance = Literal["least_load", "round_robin", "random"]

LEARNED: Final = 20
"""Answers after which an address's usual latency means something."""
SEVERAL: Final = 3.0
"""Times the usual (mean and four mean deviations): so long may an address be silent."""


class Waiter(Protocol):
    """A request in the queue of a backend."""

    def on_slot(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one backend may be given at once by this process."""

    in_flight: int
    waiting: int
    wait: float
    """Seconds."""


class Gate:
    """The bound of one backend: so many in flight, a short queue behind, and no more.

    It also counts the repetitions under way, which may be a share of what is in flight (Envoy's retry
    budget): when everything fails, retries must not double the load.
    """

    __slots__ = ("_freed", "in_flight", "interval", "limit", "retrying", "waiting")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.in_flight = 0
        self.retrying = 0
        self.waiting: deque[Waiter] = deque()
        self.interval = 0.0
        """Seconds between two places that became free while somebody waited, smoothed."""
        self._freed = 0.0

    def may_retry(self, share: float, least: int) -> bool:
        return self.retrying < max(least, share * self.in_flight)

    def hopeless(self) -> bool:
        """Whether a request that joins the queue now would be turned away anyway once its time is over."""
        return len(self.waiting) * self.interval > self.limit.wait

    def drained_after(self) -> float:
        """Seconds until the queue as it stands is likely to be empty."""
        return len(self.waiting) * self.interval

    @property
    def full(self) -> bool:
        return self.in_flight >= self.limit.in_flight

    @property
    def crowded(self) -> bool:
        """Whether there is no place left even to wait."""
        return len(self.waiting) >= self.limit.waiting

    def admit(self, now: float) -> None:
        """A place became free: the next in the queue gets it."""
        since, self._freed = now - self._freed, now
        if since < self.limit.wait:  # else nobody was waiting meanwhile
            self.interval += (since - self.interval) / 16
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
        "all", "authority", "connecting", "context", "endpoint", "heard", "idle", "idle_limit", "idle_most",
        "in_flight", "learned", "loop", "mean", "name", "next_probe", "probes", "server_name", "silence", "spread",
        "suspect", "time",
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
        self.heard = 0.0
        """`perf_counter` when an answer last began or went on; 0.0: never."""
        self.learned = 0
        self.mean = self.spread = 0.0
        """Of the milliseconds to an answer's head: smoothed mean and mean deviation (as TCP estimates its
        round trip, RFC 6298)."""
        self.silence = 0.0
        """Seconds below which silence never counts; 0.0: this address is never taken for hung."""
        self.suspect = False
        """Requests wait, and it has been silent for several times the usual."""
        self.next_probe = 0.0
        """When the next request may try a suspect address."""
        self.probes = 0
        """Requests left with a suspect address, though their clients were answered otherwise."""

    # What is usual ----------------------------------------------------------------------------------
    def answered(self, milliseconds: float, now: float) -> None:
        """The head of a good answer came, so long after the request."""
        self.heard = now
        off = milliseconds - self.mean
        self.mean += off * 0.0625
        self.spread += ((off if off > 0.0 else -off) - self.spread) * 0.0625
        self.learned += 1

    def patience(self) -> float:
        """Seconds of silence that are still usual; infinite while too little is known."""
        if self.learned < LEARNED or not self.silence:
            return float("inf")
        return max(self.silence, SEVERAL * (self.mean + 4.0 * self.spread) / 1e3)

    def reconsider(self, health: Health, milliseconds: float, now: float) -> None:
        """A suspect address has answered: as quickly as it used to, or it is given another chance at once."""
        if milliseconds <= self.patience() * 1e3:
            self.suspect = False
            health.cleared(self)
        else:
            self.next_probe = now

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
        connection = BackendConnection(self, user)
        self.all.add(connection)
        endpoint = self.endpoint
        made = False
        try:
            await self.loop.create_connection(
                lambda: connection,
                endpoint.host,
                endpoint.port,
                ssl=self.context,
                server_hostname=self.server_name,
            )
            made = True
        except ssl.SSLError as error:
            user.on_failure("backend_tls", f"{self.name}: {error.reason or error}", fresh=False)
        except OSError as error:
            user.on_failure("backend_connect", f"{self.name}: {error.strerror or error}", fresh=False)
        except UnicodeError as error:  # a host that is no name, which only its look-up finds out
            user.on_failure("backend_connect", f"{self.name}: {error}", fresh=False)
        finally:
            if not made:  # nobody will tell that it is gone
                self.all.discard(connection)

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


Chance = Callable[[], float]


class Backend:
    """The addresses that serve one backend of the configuration, and the choice between them."""

    __slots__ = ("addresses", "balance", "chance", "gate", "health", "name", "shadows", "single", "turn")

    def __init__(
        self,
        name: str,
        addresses: Sequence[Address],
        gate: Gate,
        chance: Chance,
        *,
        health: Health,
        balance: Balance = "least_load",
        shadows: Sequence[Address] = (),
    ) -> None:
        """``shadows``: the same addresses with the connections that are kept for copies."""
        self.name = name
        self.shadows = tuple(shadows)
        self.gate = gate
        self.addresses = tuple(addresses)
        self.single = self.addresses[0] if len(self.addresses) == 1 else None
        self.chance = chance
        self.health = health
        self.balance = balance
        self.turn = 0

    def pick(self, now: float, tried: Sequence[Address] = (), *, elsewhere: bool = False) -> Address | None:
        """Where a request goes: an address that is well, and one that was not ``tried`` if there is one.

        ``elsewhere``: another variant stands by, so that nothing need be tried that is known to be ill.
        None where no address may be used.
        """
        health = self.health
        found: Sequence[Address] = self.addresses
        if health.troubled:
            found = health.usable(now, strict=elsewhere)
        if tried:
            found = [a for a in found if a not in tried] or found
        if health.troubled and health.wary and any(a.suspect for a in found):
            for address in found:
                if address.suspect and may_probe(address, now, rescued=elsewhere or len(found) > 1):
                    return address
            found = [a for a in found if not a.suspect] or (() if elsewhere else found)
        if len(found) < 2:
            return found[0] if found else None
        return self._balanced(found, now)

    def _balanced(self, found: Sequence[Address], now: float) -> Address:
        if self.balance == "least_load":
            return self._less_loaded(found, now)
        if self.balance == "round_robin":
            return self._next_in_turn(found, now)
        if not self.health.troubled:
            return found[int(self.chance() * len(found))]
        edges = list(accumulate(self.health.weight(address, now) for address in found))
        return found[min(bisect_right(edges, self.chance() * edges[-1]), len(found) - 1)]

    def _next_in_turn(self, found: Sequence[Address], now: float) -> Address:
        """Whoever starts slowly is passed over now and then."""
        for _ in found:
            self.turn += 1
            address = found[self.turn % len(found)]
            if not self.health.troubled or self.chance() < self.health.weight(address, now):
                break
        return address

    def _less_loaded(self, found: Sequence[Address], now: float) -> Address:
        """The less loaded of two chosen by chance (power of two choices)."""
        first = int(self.chance() * len(found))
        second = int(self.chance() * (len(found) - 1))
        a, b = found[first], found[second + (second >= first)]
        if not self.health.troubled:
            return a if a.in_flight <= b.in_flight else b
        # While one of them starts slowly, its load counts for more, and where neither has any, chance decides.
        weight, other = self.health.weight(a, now), self.health.weight(b, now)
        if weight == other:
            return a if a.in_flight <= b.in_flight else b
        if (a.in_flight + 1) * other == (b.in_flight + 1) * weight or not (a.in_flight or b.in_flight):
            return a if self.chance() * (weight + other) < weight else b
        return a if (a.in_flight + 1) * other < (b.in_flight + 1) * weight else b


PROBE_EVERY: Final = 0.25
"""Seconds between two requests that try a suspect address, where they can be served elsewhere if it is silent."""


def may_probe(address: Address, now: float, *, rescued: bool) -> bool:
    """Whether one request may try a suspect address; if so, the next one only later.

    ``rescued``: it can be served elsewhere when nothing comes. Where it can't, one tries at a time.
    """
    if now < address.next_probe or not (rescued or not address.in_flight):
        return False
    address.next_probe = now + PROBE_EVERY
    return True
