"""What is kept of a traced request while it runs: ids before each attempt, times as it goes.

A request that is not traced has no listener and pays nothing. Spans are built later, by
`gateway.telemetry.tracing.spans`.
"""

from __future__ import annotations

from time import perf_counter

from gateway.dataplane.base import ClientConnection
from gateway.dataplane.exchange.attempt import Attempt
from gateway.dataplane.exchange.listener import CopyListener, ExchangeListener
from gateway.dataplane.exchange.states import WAITING
from gateway.dataplane.request.head import Head
from gateway.dataplane.request.request import Request
from gateway.dataplane.variant import VariantPlan
from gateway.errors import TurnoutError
from gateway.http.fields import FORWARDED_FOR
from gateway.record.events import Outcome
from gateway.telemetry.tracing.context import Context
from gateway.telemetry.tracing.sampling import Tracing, without_context
from gateway.telemetry.tracing.trace import (
    Asked,
    AttemptSpan,
    Refused,
    Served,
    Shadowing,
    Target,
    Trace,
)
from gateway.transport.address import Address


def begin_trace(tracing: Tracing, head: Head, *, admitted: bool) -> None:
    """Decides whether the request is traced; then its head says so. Call it once for each request."""
    trace, strip = tracing.sample(head.kept, admitted=admitted)
    if strip:
        head.lines = without_context(head.lines)
    if trace is not None:
        head.trace = tracing, trace


def trace_refusal(client: ClientConnection, head: Head, error: TurnoutError) -> None:
    """Hands over a traced request that got an error response before it had a decision."""
    assert head.trace is not None
    tracing, trace = head.trace
    now = perf_counter()
    asked = asked_for(client, head, head.lines)
    tracing.offer(Refused(trace, asked, error.status, error.code, head.started, now, tracing.wall() - now))


def asked_for(client: ClientConnection, head: Head, lines: list[bytes]) -> Asked:
    """The request itself, as its span shows it."""
    peer = client.forwarding.peer
    origin = peer
    if head.proxy_fields and client.snapshot.trusted(peer):
        chain = [value for kind, value in head.proxy_fields if kind == FORWARDED_FOR]
        origin = chain[0].split(b",")[0].strip().decode("latin-1") if chain else origin
    return Asked(
        head.method, head.path, head.host, client.forwarding.scheme, head.http10, peer, origin, lines
    )


class RequestTrace(ExchangeListener):
    """The spans of one request."""

    __slots__ = ("_client", "_lines", "_request", "_spans", "_trace", "_tracing")

    def __init__(self, client: ClientConnection, request: Request, tracing: Tracing, trace: Trace) -> None:
        self._client = client
        self._request = request
        self._trace = trace
        self._tracing = tracing
        self._spans: list[AttemptSpan] = []
        lines = request.head.lines
        self._lines = without_context(lines) if tracing.propagate else lines
        """The client's field lines, without the names of its trace where ours take their place."""

    # Attempts ---------------------------------------------------------------------------------------
    def attempt_ready(self, attempt: Attempt, kind: str) -> None:
        if attempt.span is None:  # else it is sent once more, which is not an attempt of its own
            attempt.span = self._open(attempt, kind, attempt.since or perf_counter())
        self._propagate(attempt.span.span)

    def _open(self, attempt: Attempt, kind: str, begun: float) -> AttemptSpan:
        context = self._tracing.child(self._trace.span)
        span = AttemptSpan(context, target(attempt.plan), attempt.address, kind, begun)
        self._spans.append(span)
        return span

    def _propagate(self, span: Context) -> None:
        """Makes ``span`` the parent in the head that is written next."""
        if self._tracing.propagate:
            self._request.head.lines = [*self._lines, span.line()]

    def attempt_accepted(self, attempt: Attempt, now: float) -> None:
        span = attempt.span
        assert span is not None
        span.sent, span.head = attempt.since, now

    def attempt_failed(self, attempt: Attempt, kind: str, result: object, spent: float, now: float) -> None:
        span = attempt.span
        if span is None:  # it was never sent
            span = attempt.span = self._open(attempt, kind, now - spent)
        elif not span.sent and attempt.state == WAITING:
            span.sent = now - spent
        span.ended = now
        if isinstance(result, int):
            span.status = result
            span.head = now
        else:
            span.result = str(result)

    # Shadows ----------------------------------------------------------------------------------------
    def copy_ready(self, plan: VariantPlan, address: Address) -> CopyListener:
        span = AttemptSpan(self._tracing.root(), target(plan), address, "shadow", 0.0)
        self._propagate(span.span)
        return CopyTrace(span, self._tracing, self._trace.span, self._request)

    # The end ----------------------------------------------------------------------------------------
    def finished(self, outcome: Outcome, last: Attempt | None) -> None:
        now = perf_counter()
        span = last.span if last is not None else None
        under_way = span is not None and not span.ended
        if span is not None and last is not None and under_way:
            span.sent = span.sent or last.since
            span.status = outcome.status
            span.ended = now
        tracing = self._tracing
        tracing.offer(
            Served(
                trace=self._trace,
                asked=asked_for(self._client, self._request.head, self._lines),
                outcome=outcome,
                prefix=self._request.route.prefix,
                attempts=self._spans,
                broken=bool(outcome.served) and not under_way and outcome.status != 499,
                begun=self._request.head.started,
                ended=now,
                offset=tracing.wall() - now,
            )
        )


class CopyTrace(CopyListener):
    """The span of one copy for a shadow: a trace of its own that names the request's."""

    __slots__ = ("_decision", "_link", "_method", "_path", "_prefix", "_route", "_span", "_tracing")

    def __init__(self, span: AttemptSpan, tracing: Tracing, link: Context, request: Request) -> None:
        self._span = span
        self._tracing = tracing
        self._link = link
        self._decision = request.decision
        self._route, self._prefix = request.route.name, request.route.prefix
        self._method, self._path = request.head.method, request.head.path

    def ended(self, begun: float, sent: float, head: float, status: int, error: str) -> None:
        now, span = perf_counter(), self._span
        span.begun, span.sent, span.head, span.ended = begun, sent, head, now
        span.status, span.result = status, error
        self._tracing.offer(
            Shadowing(
                attempt=span,
                link=self._link,
                decision=self._decision,
                route=self._route,
                prefix=self._prefix,
                method=self._method,
                path=self._path,
                offset=self._tracing.wall() - now,
            )
        )


def target(plan: VariantPlan) -> Target:
    """The variant, as its spans show it."""
    return Target(plan.name, plan.backend_name, plan.rewrite, plan.base_path)
