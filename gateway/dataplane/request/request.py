"""What is known of a request once its head is complete."""

from __future__ import annotations

from gateway.dataplane.request.head import Head
from gateway.dataplane.snapshot import RoutePlan, Snapshot


class Request:
    """Facts after the head. Only ``route`` changes, once, where the body's model leads to another."""

    __slots__ = (
        "decides",
        "decision",
        "forwarded",
        "head",
        "request_id",
        "route",
        "snapshot",
        "total_deadline",
        "wall",
    )

    decides: bool
    """Whether it is a decision; else it asks about the server, is forwarded, and stays out of the record."""

    # Set when its turn has come.
    wall: float
    """Seconds since the epoch at which it came."""
    decision: bytes
    """16 bytes that name the decision."""
    request_id: bytes
    """The client's name for it, or the decision's."""
    forwarded: bytes
    """The field lines that tell a backend of the client."""

    def __init__(self, head: Head, route: RoutePlan, snapshot: Snapshot) -> None:
        """
        Args:
            head: Complete.
            route: The most specific one that matches the head.
            snapshot: The configuration that the request finishes on, whatever is edited meanwhile.
        """
        self.head = head
        self.take(route)
        self.snapshot = snapshot
        self.total_deadline = head.started + route.timeouts.total
        """`perf_counter` at which the request must be over."""
        if head.grpc_timeout:
            self.total_deadline = min(self.total_deadline, head.started + head.grpc_timeout)

    def take(self, route: RoutePlan) -> None:
        """Set the route that serves it."""
        self.route = route
        head, infers = self.head, route.infers
        self.decides = (
            infers is None
            or head.upgrade != b""
            or (head.method == b"POST" and infers.search(head.path) is not None)
        )

    def given_up(self, now: float) -> bool:
        """Whether the deadline that the client set has passed: it has gone, which is not the backend's fault."""
        return 0.0 < self.head.grpc_timeout <= now - self.head.started

    def judge(self, status: int, now: float) -> int:
        """``status``, or 499 if it is that of a deadline which the client set."""
        return 499 if status == 504 and self.given_up(now) else status
