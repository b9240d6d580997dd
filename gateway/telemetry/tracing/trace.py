"""What is known of a traced request: ids made while it runs, and the records that spans are built from later.

Times are `perf_counter`'s seconds; a record's ``offset`` added to them makes seconds since the epoch.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.record.events import Outcome
from gateway.telemetry.tracing.context import Context
from gateway.transport.address import Address


class Trace(NamedTuple):
    """A sampled request's place in its trace."""

    span: Context
    """The gateway's own span."""
    parent: bytes
    """Id of the client's span, 8 bytes; b"" where the trace begins here."""
    link: Context | None
    """The client's span, where it is not followed."""


class Target(NamedTuple):
    """The variant that an attempt is for, as far as its span shows it."""

    variant: str
    backend: str
    rewrite: bytes | None
    """Replaces the matched prefix of the path; None leaves the path."""
    base_path: bytes


class AttemptSpan:
    """One attempt at a backend, or one copy for a shadow."""

    __slots__ = (
        "address", "begun", "ended", "head", "kind", "result", "sent", "span", "status", "target"
    )  # fmt: skip

    def __init__(
        self, span: Context, target: Target, address: Address | None, kind: str, begun: float
    ) -> None:
        self.span = span
        self.target = target
        self.address = address
        self.kind = kind
        """first | retry | fallback | hedge | shadow"""
        self.begun = begun
        self.sent = 0.0
        """When the request's last byte was sent; 0.0: never."""
        self.head = 0.0
        """When the response's head came; 0.0: never."""
        self.ended = 0.0
        self.status = 0
        """Of the response; 0 if there was none."""
        self.result = ""
        """"" | the error code, or what else ended it: hedged, hedge_lost, client_left."""


class Asked(NamedTuple):
    """The request itself."""

    method: bytes
    path: bytes
    host: bytes
    scheme: bytes
    old: bool
    """HTTP/1.0"""
    peer: str
    """The address of the connected client; "" if unknown."""
    client: str
    """The address of the client: the peer's, or what a trusted proxy says."""
    lines: list[bytes]
    """Its field lines."""


class Served(NamedTuple):
    """A request that had its decision: a span of its own, and one for each attempt."""

    trace: Trace
    asked: Asked
    outcome: Outcome
    prefix: bytes
    """The path that the route matches."""
    attempts: list[AttemptSpan]
    broken: bool
    """Whether the response broke off after its head."""
    begun: float
    ended: float
    offset: float

    @property
    def size(self) -> int:
        return 1 + len(self.attempts)


class Refused(NamedTuple):
    """A request that got an error before it had a decision."""

    trace: Trace
    asked: Asked
    status: int
    code: str
    begun: float
    ended: float
    offset: float

    @property
    def size(self) -> int:
        """Spans that it makes."""
        return 1


class Shadowing(NamedTuple):
    """A copy for a shadow: a trace of its own that names the request's span."""

    attempt: AttemptSpan
    link: Context
    decision: bytes
    route: str
    prefix: bytes
    method: bytes
    path: bytes
    offset: float

    @property
    def size(self) -> int:
        return 1


Traced = Served | Refused | Shadowing
