"""Which route a request belongs to."""

from __future__ import annotations

from typing import Final

from gateway.dataplane.request.head import Head
from gateway.dataplane.request.json_body import MODEL, JsonBody, scalar_at
from gateway.dataplane.snapshot import Condition, RoutePlan, Snapshot
from gateway.errors import TurnoutError

MAX_SHOWN_BYTES: Final = 100
"""Of a path in an error message."""
MAX_COMPARED: Final = 500
"""Routes that a path without one is compared with, for the message alone: a flood of them must not hold up others."""
_SEND: Final = "send a path (and method, host and headers) that 'match' of a route in the configuration names"


def find_route(snapshot: Snapshot, head: Head) -> RoutePlan:
    """Returns the most specific route that matches; a condition on the body counts as met until the body is read.

    Raises:
        TurnoutError: "unknown_route".
    """
    for route in snapshot.candidates(head.path):
        if route.condition is None or meets(route.condition, head):
            return route
    raise TurnoutError("unknown_route", f"No route matches {_asked(head)}; {_SEND}.")


def nearest(snapshot: Snapshot, head: Head) -> str:
    """What to send instead of a request that no route matches: not for clients that may not know the routes."""
    known = snapshot.candidates(head.path)
    if known:
        wanted = f"the route {known[0].name!r} has this path, but asks for another method, host or header"
        return f"No route matches {_asked(head)}: {wanted}; see its 'match' in the configuration."
    best, length = None, 0
    for route in snapshot.ranked[:MAX_COMPARED]:
        needed = max(length, len(route.prefix) // 2) + 1
        if head.path.startswith(route.prefix[:needed]):  # almost none does, and `_in_common` is slow
            common = _in_common(route.prefix, head.path)
            if common >= needed:
                best, length = route, common
    meant = f"the route {best.name!r} has {_shown(best.prefix)}" if best is not None else _SEND
    return f"No route matches {_asked(head)}; {meant}."


def _in_common(prefix: bytes, path: bytes) -> int:
    """How many bytes both begin with."""
    shorter = min(len(prefix), len(path))
    return next((k for k in range(shorter) if prefix[k] != path[k]), shorter)


def _asked(head: Head) -> str:
    return f"{head.method[:MAX_SHOWN_BYTES].decode('latin-1')} {_shown(head.path)}"


def _shown(path: bytes) -> str:
    """A path in quotes, without control characters and not too long."""
    more = "…" if len(path) > MAX_SHOWN_BYTES else ""
    return ascii(path[:MAX_SHOWN_BYTES].decode("latin-1")) + more


def route_by_body(snapshot: Snapshot, head: Head, route: RoutePlan, body: JsonBody) -> RoutePlan:
    """Returns the first candidate whose model (if it asks for one) is the body's, or ``route`` if none asks.

    Raises:
        TurnoutError: No route serves the model, or the principal may not use the one that does.
    """
    candidates = snapshot.candidates(head.path)
    if all(c.condition is None or not c.condition.models for c in candidates):
        return route
    model = scalar_at(body.fields, (MODEL,))
    for candidate in candidates:
        condition = candidate.condition
        if condition is None or (
            meets(condition, head) and (not condition.models or model in condition.models)
        ):
            head.admit(candidate.name)
            return candidate
    if not isinstance(model, str):
        wanted = "a message whose field 1" if head.grpc else "a JSON body that"
        raise TurnoutError("unknown_route", f"The routes here go by the model; send {wanted} names one.")
    raise TurnoutError("unknown_route", f"No route serves the model {model[:64]!r}.")


def meets(condition: Condition, head: Head) -> bool:
    """Whether the head has what ``condition`` asks (the model aside, which only the body tells)."""
    if condition.hosts and not _named(condition.hosts, _name(head.host)):
        return False
    if condition.methods and head.method not in condition.methods:
        return False
    return all(head.kept.get(name) == value for name, value in condition.headers)


def _name(host: bytes) -> bytes:
    """Without the port: "[::1]:80" and "[::1]" are one name."""
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host


def _named(hosts: tuple[bytes, ...], host: bytes) -> bool:
    host = host.lower()
    return any(host == h or (h.startswith(b"*.") and host.endswith(h[1:])) for h in hosts)
