"""Which route a request belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dataplane.snapshot import Condition, RoutePlan, Snapshot
from gateway.errors import TurnoutError

if TYPE_CHECKING:
    from gateway.dataplane.request.head import Head


def find_route(snapshot: Snapshot, head: Head) -> RoutePlan:
    """The most specific route that holds the request; one that looks at the body counts as held until it is read.

    Raises TurnoutError("unknown_route").
    """
    for route in snapshot.candidates(head.path):
        if route.condition is None or meets(route.condition, head):
            return route
    raise TurnoutError("unknown_route")


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
