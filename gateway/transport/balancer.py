"""The choice between the addresses of one backend."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal

from gateway.transport.address import Address
from gateway.transport.health import Health
from gateway.transport.limiter import ConcurrencyLimiter

Balance = Literal["least_load", "round_robin", "random"]
Chance = Callable[[], float]


class Backend:
    """The addresses of one backend of the configuration, and the choice between them."""

    __slots__ = ("addresses", "balance", "chance", "health", "limiter", "name", "shadows", "single", "turn")

    def __init__(
        self,
        name: str,
        addresses: Sequence[Address],
        limiter: ConcurrencyLimiter,
        chance: Chance,
        *,
        health: Health,
        balance: Balance = "least_load",
        shadows: Sequence[Address] = (),
    ) -> None:
        """``shadows``: the same addresses with the connections that are kept for shadow requests."""
        self.name = name
        self.addresses = tuple(addresses)
        self.single = self.addresses[0] if len(self.addresses) == 1 else None
        self.shadows = tuple(shadows)
        self.limiter = limiter
        self.chance = chance
        self.health = health
        self.balance = balance
        self.turn = 0

    def pick(self, now: float, tried: Sequence[Address] = (), *, elsewhere: bool = False) -> Address | None:
        """The address for a request: a healthy one, and one that was not ``tried`` if possible.

        ``elsewhere``: another variant can serve the request, so a doubtful address is not worth a try.
        None if no address may be used.
        """
        health = self.health
        usable: Sequence[Address] = self.addresses
        if health.degraded:
            usable = health.usable(now, strict=elsewhere)
        if tried:
            # Where all were tried, a second try is better than none.
            usable = [a for a in usable if a not in tried] or usable
        if health.degraded and health.stall_detection and any(a.stalled for a in usable):
            for address in usable:
                if address.stalled and address.may_probe(now, rescued=elsewhere or len(usable) > 1):
                    return address
            usable = [a for a in usable if not a.stalled] or (() if elsewhere else usable)
        if len(usable) < 2:
            return usable[0] if usable else None
        return self._balanced(usable, now)

    def _balanced(self, usable: Sequence[Address], now: float) -> Address:
        if self.balance == "least_load":
            return self._less_loaded(usable, now)
        if self.balance == "round_robin":
            return self._next_in_turn(usable, now)
        if not self.health.degraded:
            return usable[int(self.chance() * len(usable))]
        edges = list(accumulate(self.health.weight(address, now) for address in usable))
        return usable[min(bisect_right(edges, self.chance() * edges[-1]), len(usable) - 1)]

    def _next_in_turn(self, usable: Sequence[Address], now: float) -> Address:
        """The next address; one in slow start is skipped with one minus its weight as the probability."""
        for _ in usable:
            self.turn += 1
            address = usable[self.turn % len(usable)]
            if not self.health.degraded or self.chance() < self.health.weight(address, now):
                break
        return address

    def _less_loaded(self, usable: Sequence[Address], now: float) -> Address:
        """The less loaded of two addresses chosen by chance (power of two choices)."""
        first = int(self.chance() * len(usable))
        # Of the others: comparing an address with itself would choose it regardless of its load.
        second = int(self.chance() * (len(usable) - 1))
        a, b = usable[first], usable[second + (second >= first)]
        if not self.health.degraded:
            return a if a.in_flight <= b.in_flight else b
        # The load of an address in slow start counts for more; between two idle ones chance decides.
        weight, other = self.health.weight(a, now), self.health.weight(b, now)
        if weight == other:
            return a if a.in_flight <= b.in_flight else b
        # With this request counted, or an idle address would win whatever its weight.
        if (a.in_flight + 1) * other == (b.in_flight + 1) * weight or not (a.in_flight or b.in_flight):
            return a if self.chance() * (weight + other) < weight else b
        return a if (a.in_flight + 1) * other < (b.in_flight + 1) * weight else b
