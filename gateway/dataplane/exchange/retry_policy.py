"""What may be done after a failed attempt: decided here, acted on by `gateway.dataplane.exchange.exchange`.

By the type of the error and by what is known to have been sent:

- what was never sent is safe to send anywhere;
- what was sent is repeated at the same variant only where the route says ``replayable``;
- fallback re-executes at another variant, where the route lists one and names that kind of failure;
- a connection that had rested and dies before a byte of the answer is nobody's fault (the idle-close race).

Nothing is repeated once a byte of the answer went out, or when the client has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from gateway.dataplane.snapshot import Fixed, VariantPlan
from gateway.errors import CODES
from gateway.http.fields import IDEMPOTENT

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange


def following(x: Exchange) -> VariantPlan | Fixed | None:
    """The next of the fallback list that was not tried yet."""
    tried = {x.choice.variant.name, x.plan.name}
    if x.attempts:
        tried.update(cast("str", attempt[0]) for attempt in x.attempts)
    for entry in x.route.fallback:
        if isinstance(entry, Fixed) or entry.name not in tried:
            return entry
    return None


def retry_wanted(x: Exchange, code: str, status: int, *, sent: bool) -> bool:
    """Whether to try the same variant again. ``status``: of a bad answer, 0 where there was none."""
    route = x.route
    if status not in route.retry_statuses if status else code not in route.retry_codes:
        return False
    if not CODES[code].retryable:
        return False
    # Where the only address has failed and another variant stands by, that one is the better retry.
    if x.plan.backend.single is not None and following(x) is not None:
        return False
    return (
        x.retries < route.retry_attempts
        and (not sent or (route.replayable and x.replayable))
        and x.plan.backend.limiter.may_retry(route.retry_share, route.retry_least)
    )


def other_address(x: Exchange) -> bool:
    """Whether the backend has an address that was not tried and is not under suspicion."""
    return any(a is not x.address and a not in x.tried and not a.stalled for a in x.plan.backend.addresses)


def elsewhere(x: Exchange) -> bool:
    """Whether another variant, or a fixed answer, stands by for a request that was not sent."""
    return "backend_unhealthy" in x.route.fallback_codes and following(x) is not None


def fallback_to(x: Exchange, code: str, status: int, *, sent: bool) -> VariantPlan | Fixed | None:
    """The variant or fixed answer that stands in, or None."""
    route = x.route
    named = status in route.fallback_statuses if status else code in route.fallback_codes
    if not named or (sent and not x.replayable):
        return None
    return following(x)


def repeat_safe(x: Exchange) -> bool:
    """Whether the idle-close race may be answered by sending once more, though the backend may have read it."""
    return x.head.method in IDEMPOTENT or x.route.replayable or bool(x.route.fallback)


def moves_on(x: Exchange, status: int) -> bool:
    """Whether an answer with this status is not passed on, because something better can be tried."""
    return (
        retry_wanted(x, "backend_status", status, sent=True)
        or fallback_to(x, "backend_status", status, sent=True) is not None
    )
