"""Who gets a request: its unit, a bisection of the allocation, the shadows whose turn it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.dataplane.exchange.local_reply import fail
from gateway.dataplane.exchange.states import CONNECTING, DONE, READING, RELAYING
from gateway.dataplane.request import body_fields as bodies
from gateway.dataplane.request.json_body import JsonBody, read, read_scalars
from gateway.dataplane.snapshot import Choice, RoutePlan
from gateway.errors import TurnoutError
from gateway.internal_errors import INTERNAL_ERRORS
from policies.allocation.bucketing import point, unit_hash

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange


def read_body(x: Exchange) -> None:
    """Reads the JSON body, a large one in another process, and decides."""
    data = b"".join(x.chunks) if x.complete else b""
    if bodies.quick_to_read(data):
        _on_body(x, read(data))
        return
    x.deadline = x.total_deadline
    keys = bodies.wanted(x.client.snapshot.candidates(x.head.path))
    x.task = x.worker.body_reader.submit(
        read_scalars, (data, keys), partial(_on_body, x), partial(_unread, x)
    )


def _on_body(x: Exchange, body: JsonBody) -> None:
    x.task = None
    if x.state == READING:
        x.body = body
        decide(x)


def _unread(x: Exchange, reason: str) -> None:
    x.task = None
    if x.state == READING:
        fail(x, TurnoutError("gateway_overloaded", retry_after=1.0))


def decide(x: Exchange) -> None:
    """Decides, and makes the first attempt."""
    try:
        choose(x)
        x.state = CONNECTING  # from here on there is a decision, and whatever happens is recorded
        x.attempt()
    except TurnoutError as error:
        fail(x, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a response
        _broken(x, error)


def _broken(x: Exchange, error: Exception) -> None:
    """A fault of ours: 500, counted, and charged to no backend."""
    INTERNAL_ERRORS.report(error)
    if x.state in (RELAYING, DONE):
        x.client_lost()
        x.client.abort()
        return
    x.cancel_attempt()
    if x.state != READING:
        x.error = "internal"
    elif x.shadows:
        x.worker.shadow.drop(x, x.shadows, "internal")
    fail(x, TurnoutError("internal"))


def choose(x: Exchange) -> None:
    """Sets the choice and all that the record says of it. One hash or one draw, one bisection.

    Raises TurnoutError.
    """
    head, route, worker = x.head, x.route, x.worker
    if route.needs_body:
        x.route = route = bodies.choose_route(x, x.body)
        if x.body.models > 1 and route.reads_model:
            raise TurnoutError("bad_json", "The body names 'model' more than once; send it once.")
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
    """The sticky-unit key; None if the request has none, or an empty one."""
    assert route.unit is not None
    kind, name = route.unit
    if kind == "header":
        return x.head.kept.get(name) or None
    if kind == "principal":
        return x.principal.id.encode() or None
    if kind == "cookie":
        return bodies.cookie(x.head.kept.get(b"cookie", b""), name)
    if kind == "query":
        return bodies.query_value(x.head.target, name)
    return bodies.json_value(x.body, name)


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
            raise TurnoutError("unknown_variant", f"The route has no variant {name[:64]!r}; it has: {known}.")
        found = Choice(plan, 0.0, table)
    return found
