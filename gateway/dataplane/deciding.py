"""Who gets a request: its unit, a bisection of the allocation, the shadows whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dataplane import bodies
from gateway.dataplane.snapshot import Choice, RoutePlan
from gateway.errors import TurnoutError
from policies.assign import point, unit_hash

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange


def choose(x: Exchange) -> None:
    """Sets the choice and all that the record says of it. One hash or one draw, one bisection.

    Raises TurnoutError.
    """
    head, route, worker = x.head, x.route, x.worker
    if route.needs_body:
        x.route = route = bodies.choose_route(x, worker)
    x.principal = head.principal
    if x.body_bytes > route.body_limit:
        raise TurnoutError(
            "body_too_large", f"The body has more than the {route.body_limit} bytes that this route takes."
        )
    x.revision = worker.snapshot.revision
    raw = unit_of(x, route) if route.unit is not None else None
    if raw is not None:
        x.unit = unit_hash(route.salt, raw)
        u = point(x.unit)
        x.sticky = True
    else:
        x.unit = int.from_bytes(x.decision[8:], "big")
        u = worker.random()
        x.sticky = False
    if head.variant is None:
        x.forced = False
        x.choice = route.table.pick(u, x)
    else:
        x.forced = True
        x.choice = _forced(x, head.variant)
    x.plan = x.choice.variant
    if route.shadows and not x.upgrade:  # a copy of a handshake says nothing of what follows it
        x.shadows = worker.shadow.due(x)
        if x.shadows:
            x.captured = []


def unit_of(x: Exchange, route: RoutePlan) -> bytes | None:
    """Whom to keep on one variant; None where the request does not say."""
    assert route.unit is not None
    kind, name = route.unit
    if kind == "header":
        return x.head.kept.get(name)
    if kind == "principal":
        return x.principal.id.encode() or None
    if kind == "cookie":
        return bodies.cookie(x.head.kept.get(b"cookie", b""), name)
    if kind == "query":
        return bodies.query_value(x.head.target, name)
    return bodies.json_value(x.chunks, name)


def _forced(x: Exchange, wanted: bytes) -> Choice:
    if not x.principal.force:
        raise TurnoutError(
            "forbidden", "The key may not force a variant; use one with the scope 'force-variant'."
        )
    name = wanted.decode("latin-1")
    table = x.route.table
    table.note(x)
    found = table.by_name.get(name)
    if found is None:
        plan = x.route.variants.get(name)
        if plan is None:
            known = ", ".join(x.route.variants)
            raise TurnoutError("unknown_variant", f"The route has no variant {name!r}; it has: {known}.")
        found = Choice(plan, 0.0, table)
    return found
