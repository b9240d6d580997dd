"""Passive outlier ejection: an address that keeps failing gets no requests for a while.

Two kinds of failure are kept apart, for they mean different things: `LOCAL` (no connection, a timeout,
a reset: the request may never have arrived) and `REMOTE` (the backend responded with 5xx: it is reachable, and
unhealthy). Either ejects by a run of failures without a success between, or by its share within an interval.

The first ejection lasts `Settings.base` seconds, each further one twice as long as the one before, up to
`Settings.longest`; the back-off multiplier decays one step per `base` seconds without failures. An address that
returns gets its full share only after a slow start. Never more than `Settings.max_ejected` of the
addresses are ejected at the same time, and when fewer than `Settings.panic` of them are usable, all are used:
then the failures say more about the gateway's view, or the load, than about any address.

Pure: time is an argument, in seconds of any steady clock. `Group.observe` is on the hot path and O(1);
only an ejection, and the first look after one ends, cost O(addresses).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

OK: Final = 0
LOCAL: Final = 1
REMOTE: Final = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """When to eject, for how long, and how many. Times in seconds, shares in [0, 1]."""

    consecutive_local: int = 3
    """Local failures in a row; 0: never by this."""
    consecutive_remote: int = 5
    """Remote failures in a row; 0: never by this."""
    interval: float = 10.0
    """Over which shares of failures are counted."""
    failure_share: float = 0.5
    """Of one kind, within the interval; above 1: never by this."""
    min_requests: int = 20
    """Within the interval before its share of failures means anything."""
    base: float = 10.0
    longest: float = 300.0
    max_ejected: float = 0.5
    panic: float = 0.5
    slow_start: float = 10.0
    """How long the weight takes to grow back to 1."""
    least_weight: float = 0.1
    """The weight with which a slow start begins."""


class Address:
    """One address of a backend: what was seen of it, and until when it is ejected."""

    __slots__ = (
        "ejected_until",
        "ejections",
        "failures",
        "healthy",
        "name",
        "reason",
        "requests",
        "returned",
        "runs",
        "window",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.healthy = True
        """What active probes say."""
        self.ejected_until = -math.inf
        self.returned = -math.inf
        """When the last ejection ended, or will end."""
        self.ejections = 0
        """How many steps the ejection time has grown."""
        self.reason = ""
        """Why it was last ejected."""
        self.window = -math.inf
        self.requests = 0
        self.failures = [0, 0, 0]
        """Within the window, by kind; the first is unused."""
        self.runs = [0, 0, 0]
        """In a row, by kind; the first is unused."""

    def __repr__(self) -> str:
        return f"Address({self.name!r}, ejections={self.ejections}, healthy={self.healthy})"

    def ejected(self, now: float) -> bool:
        return now < self.ejected_until

    def weight(self, now: float, settings: Settings) -> float:
        """This address's share relative to a settled one: grows from `least_weight` to 1 after a return."""
        age = now - self.returned
        if age >= settings.slow_start or not settings.slow_start:
            return 1.0
        return max(settings.least_weight, age / settings.slow_start)


class Group:
    """All addresses of one backend."""

    __slots__ = ("_changes", "_usable", "addresses", "settings")

    def __init__(self, names: Iterable[str], settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.addresses: dict[str, Address] = {name: Address(name) for name in names}
        self._usable: tuple[Address, ...] = ()
        self._changes = -math.inf

    def update(self, names: Iterable[str], settings: Settings | None = None) -> None:
        """Takes over a new configuration; what is known of the addresses that stay is kept."""
        old: Mapping[str, Address] = self.addresses
        self.addresses = {name: old.get(name) or Address(name) for name in names}
        self.settings = settings or self.settings
        self._changes = -math.inf

    def mark(self, address: Address, *, healthy: bool) -> None:
        """What an active probe found."""
        address.healthy = healthy
        self._changes = -math.inf

    def observe(self, address: Address, result: int, now: float) -> str:
        """One attempt's result (`OK`, `LOCAL` or `REMOTE`): "" or, if it ejects the address, why.

        O(1) but for the ejection itself.
        """
        if now - address.window >= self.settings.interval:
            address.window = now
            address.requests = address.failures[LOCAL] = address.failures[REMOTE] = 0
        address.requests += 1
        if result == OK:
            address.runs[LOCAL] = address.runs[REMOTE] = 0
            return ""
        # What was sent before the ejection and failed after it is not news.
        if now < address.ejected_until:
            return ""
        address.failures[result] += 1
        address.runs[result] += 1
        reason = self._fault(address, result)
        return self._eject(address, reason, now) if reason else ""

    def usable(self, now: float) -> tuple[Address, ...]:
        """The addresses that may be used now; all of them in a panic. The same tuple until something changes."""
        if now >= self._changes:
            self._usable, self._changes = self._select(now)
        return self._usable

    def panicking(self, now: float) -> bool:
        """Whether so few addresses are well that all are used."""
        return len(self._well(now)) < self.settings.panic * len(self.addresses)

    def _fault(self, address: Address, result: int) -> str:
        settings = self.settings
        run = settings.consecutive_local if result == LOCAL else settings.consecutive_remote
        kind = "connection failures or timeouts" if result == LOCAL else "error responses"
        if run and address.runs[result] >= run:
            return f"{address.runs[result]} {kind} in a row"
        failed = address.failures[result]
        if address.requests >= settings.min_requests and failed >= settings.failure_share * address.requests:
            return f"{failed} of {address.requests} requests ended in {kind}"
        return ""

    def _eject(self, address: Address, reason: str, now: float) -> str:
        settings = self.settings
        ejected = sum(other.ejected(now) for other in self.addresses.values())
        if ejected + 1 > settings.max_ejected * len(self.addresses):
            return ""
        if address.ejections:
            behaved = max(0.0, now - address.returned)
            address.ejections -= min(address.ejections, int(behaved / settings.base))
        address.ejected_until = now + min(settings.base * 2.0 ** min(address.ejections, 60), settings.longest)
        address.returned = address.ejected_until
        address.ejections += 1
        address.reason = reason
        address.runs[LOCAL] = address.runs[REMOTE] = 0
        address.requests = address.failures[LOCAL] = address.failures[REMOTE] = 0
        self._changes = -math.inf
        return reason

    def _well(self, now: float) -> tuple[Address, ...]:
        return tuple(a for a in self.addresses.values() if a.healthy and not a.ejected(now))

    def _select(self, now: float) -> tuple[tuple[Address, ...], float]:
        everything = tuple(self.addresses.values())
        changes = min((a.ejected_until for a in everything if a.ejected(now)), default=math.inf)
        return (everything if self.panicking(now) else self._well(now)), changes
