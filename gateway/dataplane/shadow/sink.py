"""What an exchange hands over for its shadows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gateway.dataplane.exchange.listener import ExchangeListener
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.request import Request
from gateway.dataplane.snapshot import RoutePlan, ShadowLimits
from gateway.dataplane.variant import VariantPlan


@dataclass(slots=True, eq=False, kw_only=True)
class PrimaryResult:
    """What all copies of one request share: its body, and the primary's response to compare with."""

    decision: bytes
    route: RoutePlan
    body: list[bytes]
    """Whole."""
    served: str
    """The variant whose response the client got; "" if none did."""
    status: int
    latency_ms: float
    """Until the head of the response."""
    lines: list[bytes]
    """Field lines of the response."""
    captured: list[bytes] | None
    """Body of the response; None if there is none, or it was too long to be kept."""
    whole: bool
    """Whether the response was sent to its end."""
    size: int
    """Bytes held: of ``body`` and ``captured``."""
    holders: int = 0
    """Copies that are waiting or in flight."""

    def uncompared(self) -> str:
        """Why a shadow's response can't be compared with the primary's (see `comparer.UNCOMPARED`); "" if it can."""
        if not self.served:
            return "no_variant"
        if not self.whole:
            return "cut_short"
        return "too_large" if self.captured is None else ""


class ShadowSink:
    """Takes copies of requests; `gateway.dataplane.shadow.dispatcher` implements it."""

    counts: Counter[tuple[str, str, str]]
    """By (route, shadow, offered | sent | failed | dropped:REASON | uncompared:REASON)."""

    def sampled(
        self, route: RoutePlan, primary: VariantPlan, limits: ShadowLimits
    ) -> list[VariantPlan] | None:
        """Returns the shadows that get a copy of this request."""
        raise NotImplementedError

    def drop(self, route: str, shadows: list[VariantPlan], reason: str) -> None:
        """Counts copies that are not made, by the reason."""
        raise NotImplementedError

    def offer(
        self,
        request: Request,
        body: Body,
        result: PrimaryResult,
        shadows: list[VariantPlan],
        listener: ExchangeListener | None,
    ) -> None:
        """Takes the copies of a finished request, or counts why not."""
        raise NotImplementedError

    def large_bodies(self) -> tuple[int, dict[str, int]]:
        """How many copies were due, and by route how many of them had a body above ``buffer_limit``."""
        due, dropped = 0, dict[str, int]()
        for (route, _, event), count in self.counts.items():
            if event == "offered":
                due += count
            elif event == "dropped:body_too_large":
                dropped[route] = dropped.get(route, 0) + count
        return due, dropped

    def tick(self) -> None:
        """Is called once a second."""
        raise NotImplementedError

    def close(self) -> None:
        """The gateway ends: what waits is dropped, what is in flight is cut."""
        raise NotImplementedError
