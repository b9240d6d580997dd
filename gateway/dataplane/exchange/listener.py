"""Events of an exchange, for what watches it without taking part."""

from __future__ import annotations

from gateway.dataplane.exchange.attempt import Attempt
from gateway.dataplane.variant import VariantPlan
from gateway.record.events import Outcome
from gateway.transport.address import Address


class CopyListener:
    """Hears of one copy for a shadow."""

    __slots__ = ()

    def ended(self, begun: float, sent: float, head: float, status: int, error: str) -> None:
        """It is over. ``sent`` and ``head``: 0.0 if it did not come to that."""
        raise NotImplementedError


class ExchangeListener:
    """Hears of one exchange; an exchange that is not watched has none."""

    __slots__ = ()

    def attempt_ready(self, attempt: Attempt, kind: str) -> None:
        """The head of the request is about to be written for ``attempt``: first | retry | fallback | hedge."""
        raise NotImplementedError

    def attempt_accepted(self, attempt: Attempt, now: float) -> None:
        """The response of ``attempt`` is passed on."""
        raise NotImplementedError

    def attempt_failed(self, attempt: Attempt, kind: str, result: object, spent: float, now: float) -> None:
        """It came to nothing: ``result`` is a status, or what else ended it. ``spent``: seconds."""
        raise NotImplementedError

    def copy_ready(self, plan: VariantPlan, address: Address) -> CopyListener:
        """The head of a copy for a shadow is about to be made."""
        raise NotImplementedError

    def finished(self, outcome: Outcome, last: Attempt | None) -> None:
        """The exchange is over. ``last``: the attempt that was in flight."""
        raise NotImplementedError
