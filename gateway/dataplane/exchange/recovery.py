"""What may be done after a failed attempt: decided here, acted on by `gateway.dataplane.exchange.exchange`.

By the kind of the error (`gateway.errors`) and by what is known to have been sent:

- what was never sent is safe to send anywhere;
- what was sent is repeated at the same variant only where the route says ``replayable``;
- fallback executes again at another variant, where the route lists one and names that kind of failure;
- a connection that had been idle and ends before a byte of the response is not a failure (the idle-close race).

Nothing is repeated once a byte of the response went out, or when the client has left.
"""

from __future__ import annotations

from gateway.dataplane.exchange.attempt import Attempt
from gateway.dataplane.exchange.states import CONNECTING, RELAYING, WAITING
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.request import Request
from gateway.dataplane.variant import FixedResponse, VariantPlan
from gateway.errors import CODES
from gateway.http.fields import IDEMPOTENT
from gateway.transport.address import Address


class Recovery:
    """What one request has tried so far, and what it may still try."""

    __slots__ = ("_assigned", "_body", "_request", "fixed", "records", "retries", "tried", "waited")

    def __init__(self, request: Request, body: Body, assigned: VariantPlan) -> None:
        self._request = request
        self._body = body
        self._assigned = assigned
        self.records: list[list[object]] = []
        """Of each attempt that failed, for the record: variant, address, result, milliseconds."""
        self.retries = 0
        """At the variant that is tried now."""
        self.tried: list[Address] = []
        """Addresses of that variant that failed."""
        self.waited = 0.0
        """Seconds that went into failed attempts, queues and back-offs."""
        self.fixed = False
        """Whether a fixed response stood in."""

    def note(self, attempt: Attempt, result: object, now: float) -> float:
        """Keeps what came of an attempt; returns the seconds that it took."""
        under_way = attempt.state in (CONNECTING, WAITING, RELAYING)
        spent = now - attempt.since if under_way else 0.0
        name = attempt.address.name if attempt.address is not None else ""
        self.records.append([attempt.plan.name, name, result, round(spent * 1e3, 3)])
        return spent

    def next_variant(self, plan: VariantPlan) -> VariantPlan | FixedResponse | None:
        """The next of the fallback list that was not tried yet; ``plan`` is being tried."""
        tried = {self._assigned.name, plan.name, *(record[0] for record in self.records)}
        for entry in self._request.route.fallback:
            if isinstance(entry, FixedResponse) or entry.name not in tried:
                return entry
        return None

    def may_retry(self, failed: Attempt, code: str, status: int, *, sent: bool) -> bool:
        """Whether to try the same variant again. ``status``: of a response that is an error, else 0."""
        retry, plan = self._request.route.retry, failed.plan
        if not (retry.on.has(code, status) and CODES[code].retryable):
            return False
        # Where the only address has failed and another variant stands by, that one is the better retry.
        if plan.backend.single is not None and self.next_variant(plan) is not None:
            return False
        return (
            self.retries < retry.attempts
            and (not sent or (retry.replayable and self._body.replayable))
            and plan.backend.limiter.may_retry(retry.share, retry.least, again=failed.retrying)
        )

    def fallback(
        self, plan: VariantPlan, code: str, status: int, *, sent: bool
    ) -> VariantPlan | FixedResponse | None:
        """The variant or fixed response that stands in, or None."""
        named = self._request.route.fallback_on.has(code, status)
        if not named or (sent and not self._body.replayable):
            return None
        return self.next_variant(plan)

    def moves_on(self, attempt: Attempt, status: int) -> bool:
        """Whether a response with this status is not passed on, because something better can be tried."""
        return (
            self.may_retry(attempt, "backend_status", status, sent=True)
            or self.fallback(attempt.plan, "backend_status", status, sent=True) is not None
        )

    def leaves_stalled(self, attempt: Attempt, *, sent: bool) -> bool:
        """Whether a request whose address has stalled can go elsewhere."""
        plan = attempt.plan
        other = any(
            a is not attempt.address and a not in self.tried and not a.stalled for a in plan.backend.addresses
        )
        again = other and self.may_retry(attempt, "backend_stalled", 0, sent=sent)
        return again or self.fallback(plan, "backend_stalled", 0, sent=sent) is not None

    def stands_by(self, plan: VariantPlan) -> bool:
        """Whether another variant, or a fixed response, is there for a request that could not be sent."""
        named = self._request.route.fallback_on.has("backend_unhealthy", 0)
        return named and self.next_variant(plan) is not None

    def may_repeat(self, attempt: Attempt) -> bool:
        """Whether to send once more after the idle-close race, though the backend may have read the request."""
        # Once: a backend that closes every connection is a failure, not a race.
        if attempt.repeated or not self._body.replayable:
            return False
        if attempt.connection is not None and attempt.connection.unread:
            return True
        route = self._request.route
        return self._request.head.method in IDEMPOTENT or route.retry.replayable or bool(route.fallback)
