"""One try at one address.

A request's first try, its retries, hedges, fallbacks, the copies for shadows, and the responses that are only read to
their end are all attempts; they differ in their owner and in where the response goes.
"""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from gateway.dataplane.exchange.slot import SlotHolder
from gateway.dataplane.exchange.states import CONNECTING, ENDED, NEW, QUEUED, RELAYING, TIMEOUTS, WAITING
from gateway.dataplane.snapshot import Timeouts
from gateway.dataplane.timed import Timed
from gateway.dataplane.variant import VariantPlan
from gateway.telemetry.tracing.trace import AttemptSpan
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHead


class ResponseSink:
    """Where the body of an accepted response goes."""

    __slots__ = ()

    def on_data(self, data: bytes) -> None:
        """A piece came."""
        raise NotImplementedError

    def flush(self) -> bool:
        """The pieces of one read have come; returns whether the idle timeout begins again."""
        raise NotImplementedError

    def complete(self) -> None:
        """A response that was given to the sink without being accepted is complete."""
        return


class AttemptOwner(Protocol):
    """What an attempt is for; inherited explicitly, so that compiled code calls its methods through a table."""

    __slots__ = ()

    def pick(self, attempt: Attempt) -> Address | None:
        """Returns the address to use, or None after it has dealt with there being none."""
        return None

    def on_ready(self, attempt: Attempt, connection: Connection, address: Address) -> None:
        """``connection`` takes the request; the owner sends it and calls `Attempt.sent`."""
        return

    def on_interim(self, attempt: Attempt, status: int, lines: list[bytes]) -> None:
        """A 1xx response came."""
        return

    def on_head(self, attempt: Attempt, response: ResponseHead) -> None:
        """The head of the final response came; the owner calls `Attempt.accept`, or ends the attempt."""

    def on_end(self, attempt: Attempt, trailers: bytes) -> None:
        """The response is complete, with these lines behind its body; the owner calls `Attempt.release`."""

    def on_failure(self, attempt: Attempt, code: str, detail: str, *, idle_close: bool) -> None:
        """It failed; ``attempt.state`` still says where. ``idle_close``: see `ResponseHandler.on_failure`."""

    def on_expired(self, attempt: Attempt, code: str) -> None:
        """The deadline of ``attempt.state`` has passed; nothing was ended yet."""

    def on_stall(self, attempt: Attempt) -> None:
        """Its address has stalled."""
        return

    def on_tunnel(self, attempt: Attempt, response: ResponseHead, data: bytes) -> None:
        """The backend has switched protocols; ``data`` came behind the head."""

    def on_backpressure(self, attempt: Attempt, *, full: bool) -> None:
        """The backend takes no more of the request for now, or takes more again."""
        return


class Attempt(SlotHolder, Timed):
    """One try at one address, from its place in the queue to the end of the response."""

    __slots__ = ("limits", "owner", "repeated", "sink", "span")

    sink: ResponseSink | None
    """Where an accepted response goes."""
    span: AttemptSpan | None
    """Of a traced request."""
    repeated: bool
    """Whether it was sent once on a connection that was closed while idle, or that refused it."""

    def __init__(
        self,
        owner: AttemptOwner,
        plan: VariantPlan,
        limits: Timeouts,
        total_deadline: float,
        upgrade: bytes = b"",
    ) -> None:
        """
        Args:
            owner: What it is for.
            plan: The variant that is tried.
            limits: The longest that each state may last.
            total_deadline: `perf_counter` at which it must be over.
            upgrade: See `ResponseHandler.upgrade`.
        """
        self.owner = owner
        self.plan = plan
        self.limits = limits
        self.total_deadline = self.deadline = total_deadline
        self.upgrade = upgrade
        # A tunnel takes the connection with it; a pooled one would be lost to other requests.
        self.fresh = upgrade != b""
        self.state = NEW
        self.address = None
        self.connection = None
        self.task = None
        self.since = self.waited = 0.0
        self.has_slot = self.retrying = False
        self.sink = None
        self.span = None
        self.repeated = False

    # Until there is a connection ---------------------------------------------------------------------
    def pick(self) -> Address | None:
        return self.owner.pick(self)

    def on_queue_full(self) -> None:
        name = self.plan.backend.name
        self.owner.on_failure(
            self, "backend_overloaded", f"{name} has no free place, and its queue is full", idle_close=False
        )

    def go(self, address: Address) -> None:
        """Sends the request to ``address`` on an idle connection, or makes a new one."""
        self.address = address
        connection = None if self.fresh else address.take_idle()
        if connection is not None:
            self.state = WAITING
            self.connection = connection
            self.owner.on_ready(self, connection, address)
            return
        self.state = CONNECTING
        self.since = perf_counter()
        self._limit(self.since, self.limits.connect)
        self.task = address.connect(self)

    def repeat(self) -> None:
        """Sends the request once more: on a new connection, unless one with other requests has refused it."""
        address, connection = self.address, self.connection
        assert address is not None
        assert connection is not None
        self.repeated = True
        # A stream that was refused left its connection sound; another idle HTTP/1.1 one may be closed, too.
        self.fresh = not (address.http2 and connection.unread)
        self.connection = None
        self.go(address)

    def on_connected(self, connection: Connection) -> None:
        if self.state == CONNECTING and self.address is not None:
            self.task = None
            self.state = WAITING
            self.connection = connection
            self.owner.on_ready(self, connection, self.address)
        else:  # cancelled meanwhile
            connection.abandon()

    def sent(self, now: float) -> None:
        """The request was written to its end.

        The first-byte timeout runs from there: a slow upload is not the backend's fault.
        """
        self.since = now
        if self.state == WAITING:
            deadline = now + self.limits.first_byte
            self.deadline = min(self.total_deadline, deadline)

    def _limit(self, now: float, seconds: float) -> None:
        """Sets the deadline of a state that may last ``seconds``."""
        self.deadline = min(now + seconds, self.total_deadline)

    # The response -----------------------------------------------------------------------------------
    def on_interim(self, status: int, lines: list[bytes]) -> None:
        self.owner.on_interim(self, status, lines)

    def on_head(self, response: ResponseHead) -> None:
        self.owner.on_head(self, response)

    def accept(self, sink: ResponseSink) -> None:
        """Passes the response on to ``sink``; `flush`, behind the same read, sets the deadline."""
        self.state = RELAYING
        self.sink = sink

    def on_data(self, data: bytes) -> None:
        sink = self.sink
        assert sink is not None
        sink.on_data(data)

    def flush(self) -> None:
        if self.sink is not None and self.sink.flush():
            now = perf_counter()
            self._limit(now, self.limits.idle)
            assert self.address is not None
            self.address.last_byte_at = now

    def hold(self, *, full: bool) -> None:
        """Reads no further while the client takes no more; the backend is not slow then."""
        if self.connection is not None:
            if full:
                self.connection.pause_reading()
                self.deadline = self.total_deadline  # or a slow client is charged to the backend
            else:
                self.connection.resume_reading()
                self._limit(perf_counter(), self.limits.idle)

    def pause_upload(self) -> None:
        self.owner.on_backpressure(self, full=True)

    def resume_upload(self) -> None:
        self.owner.on_backpressure(self, full=False)

    def on_end(self, trailers: bytes) -> None:
        self.connection = None
        if self.state == WAITING and self.sink is not None:
            self.sink.complete()  # who owns the response now is known: it ends there
        if self.state == RELAYING:
            self.state = ENDED
            self.owner.on_end(self, trailers)

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        self.owner.on_tunnel(self, response, data)

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        self.task = None
        # An end that crossed with a cancellation was dealt with there.
        if self.state != ENDED:
            self.owner.on_failure(self, code, detail, idle_close=idle_close)

    # Time -------------------------------------------------------------------------------------------
    def expire(self, now: float) -> None:
        # One that was never sent failed for want of a place, whichever time ran out first.
        total = now >= self.total_deadline and self.state != QUEUED
        self.deadline = self.total_deadline
        self.owner.on_expired(self, "backend_total_timeout" if total else TIMEOUTS[self.state])

    def waits_at(self, address: Address, since: float) -> int:
        if self.address is not address or self.since > since or not self.has_slot:
            return 0
        waiting = self.state == WAITING and self.connection is not None and self.connection.sent_whole
        return 1 + len(self.plan.backend.limiter.waiting) if waiting or self.state == CONNECTING else 0

    def on_silence(self) -> None:
        self.owner.on_stall(self)
