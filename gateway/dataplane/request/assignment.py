"""Who serves a request: its unit, and the variant that the allocation gives it."""

from __future__ import annotations

from gateway.auth.principal import Principal
from gateway.dataplane.request import body_fields
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.head import Head
from gateway.dataplane.request.json_body import JsonBody
from gateway.dataplane.request.request import Request
from gateway.dataplane.request.routing import route_by_body
from gateway.dataplane.snapshot import RoutePlan, UnitSource
from gateway.dataplane.tables import CachedShares, Choice
from gateway.errors import TurnoutError
from policies.allocation.bucketing import hashed, placed


class Assignment:
    """The decision on one request; never changed. A class of slots is read faster than a tuple with names."""

    __slots__ = ("choice", "features", "forced", "sticky", "unit", "variant")

    def __init__(self, choice: Choice, unit: int, features: str, sticky: bool, forced: bool) -> None:
        """
        Args:
            choice: The variant, and its probability.
            unit: 64 bits; of a request that is not sticky, those of its decision.
            features: Canonical JSON; "" if none are read.
            sticky: Whether the unit decided, and not a draw.
            forced: Whether the client named the variant.
        """
        self.choice = choice
        self.variant = choice.variant
        self.unit = unit
        self.features = features
        self.sticky = sticky
        self.forced = forced


def settle_route(request: Request, body: Body) -> None:
    """Sets the route of a request whose body is read as far as rules need it, and what it adds to the body.

    Raises:
        TurnoutError: No route, or one that does not take this body.
    """
    route = route_by_body(request.snapshot, request.head, request.route, body.json)
    request.take(route)
    if body.json.models > 1 and route.reads_model:
        raise TurnoutError("bad_json", "The body names 'model' more than once; send it once.")
    if body.size > route.body_limit:
        raise TurnoutError(
            "body_too_large", f"The body has more than the {route.body_limit} bytes that this route takes."
        )
    chunks = route.requests_usage and request.head.path.endswith(b"/completions")
    body.wants_usage = chunks and body.json.bare_stream


def assign(request: Request, body: JsonBody, u: float) -> Assignment:
    """Decides on a request; the same arguments give the same assignment.

    Args:
        request: With the route that serves it.
        body: What its body says, where the route ``needs_body``.
        u: A draw from [0, 1), used unless the request is sticky.

    Raises:
        TurnoutError: The client forces a variant that it may not, or that does not exist.
    """
    head, route = request.head, request.route
    key = sticky_key(route.unit, head, body) if route.unit is not None else None
    table = route.table
    shares = table.common
    if table.extractor is not None:
        shares = table.shares(table.extractor.extract(head.kept, body.fields, head.length))
    return assign_by(route, shares, key, request.decision, head.variant, head.principal, u)


def assign_by(
    route: RoutePlan,
    shares: CachedShares,
    key: bytes | None,
    decision: bytes,
    forced: bytes | None,
    principal: Principal,
    u: float,
) -> Assignment:
    """Decides by what was read from a request.

    Args:
        route: With the table that ``shares`` are of.
        shares: Of the request's features.
        key: The sticky-unit key, of a route that has ``unit``; None if there is none.
        decision: 16 bytes that name the decision.
        forced: The variant that the client names; None if it names none.
        principal: Who asks.
        u: A draw from [0, 1), used unless there is a ``key``.

    Raises:
        TurnoutError: The client forces a variant that it may not, or that does not exist.
    """
    sticky = key is not None
    if key is not None:
        source = route.unit
        assert source is not None
        unit = hashed(source.keyed, key)
        u = placed(unit, source.placement)
    else:
        unit = int.from_bytes(decision[8:], "big")
    if forced is not None:
        return Assignment(_forced(route, principal, forced), unit, shares.features, sticky, True)
    choice = shares.choices[shares.allocation.pick(u)]
    return Assignment(choice, unit, shares.features, sticky, False)


def sticky_key(source: UnitSource, head: Head, body: JsonBody) -> bytes | None:
    """The sticky-unit key; None if the request has none, or an empty one: those are not of one unit."""
    kind, name = source.kind, source.name
    if kind == "header":
        return head.kept.get(name) or None
    if kind == "principal":
        return head.principal.id.encode() or None
    if kind == "cookie":
        return body_fields.cookie(head.kept.get(b"cookie", b""), name)
    if kind == "query":
        return body_fields.query_value(head.target, name)
    return body_fields.json_value(body, name)


def _forced(route: RoutePlan, principal: Principal, wanted: bytes) -> Choice:
    """The choice of the variant that the client names."""
    if not principal.force:
        raise TurnoutError(
            "forbidden", "The key may not force a variant; use one with the scope 'force-variant'."
        )
    name = wanted.decode("latin-1")
    known = route.table.allocation.variants
    if name in known:
        return route.table.common.choices[known.index(name)]
    variant = route.variants.get(name)
    if variant is None:
        names = ", ".join(route.variants)
        raise TurnoutError("unknown_variant", f"The route has no variant {name[:64]!r}; it has: {names}.")
    return Choice(variant, 0.0, route.table)
