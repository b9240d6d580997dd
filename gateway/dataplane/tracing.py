"""Which requests are traced, and what is kept of those while they run.

The choice is made once, when a head is complete (`Tracing.begins`). A request that is not traced is an `Exchange`
like any other and pays nothing more; one that is becomes a `TracedExchange`, which notes ids and times on the way.
Spans are built from that later, by `gateway.telemetry.tracing.spans`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final, cast

from gateway.clock import Chance, Clock
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.outcome import outcome
from gateway.dataplane.exchange.states import DONE, RELAYING, WAITING
from gateway.http.fields import FORWARDED_FOR
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.telemetry.tracing.context import SAMPLED, Context, declines, parse
from gateway.telemetry.tracing.trace import Asked, Attempt, Refused, Served, Shadowing, Trace, Traced

if TYPE_CHECKING:
    from gateway.dataplane.client.protocol import ClientProtocol
    from gateway.dataplane.request.head import Head
    from gateway.dataplane.snapshot import RoutePlan, VariantPlan
    from gateway.dataplane.worker import Worker
    from gateway.errors import TurnoutError
    from gateway.transport.address import Address
    from gateway.transport.base import ResponseHead

PARENT: Final = b"traceparent"
STATE: Final = b"tracestate"
_LINES: Final = (PARENT + b":", STATE + b":")


class Tracing:
    """How requests are chosen. Part of the snapshot; None there when nothing is traced."""

    def __init__(
        self,
        *,
        share: float,
        follow: bool,
        propagate: bool,
        chance: Chance,
        entropy: Callable[[int], bytes],
        wall: Clock,
        offer: Callable[[Traced], None],
    ) -> None:
        """``share``: of the requests whose client doesn't say. ``follow``: whether a client may say.

        ``propagate``: whether backends are told of our spans. ``entropy``: so many random bytes. ``offer`` takes
        what is finished.
        """
        self.share = share
        self.follow = follow
        self.propagate = propagate
        self.chance = chance
        self.entropy = entropy
        self.wall = wall
        self.offer = offer

    def begins(self, head: Head, *, admitted: bool = True) -> bool:
        """Whether the request is traced; then ``head.trace`` is set. Called once for each request.

        ``admitted``: only then may its client say whether it is; a stranger's word would cost without bound.
        """
        kept = head.kept
        parent = kept.get(PARENT)
        if parent is not None:
            return self._asked(head, parent, self.follow and admitted)
        if STATE in kept:
            self._strip(head)  # without a traceparent it means nothing (W3C Trace Context 3.3)
        return self._begin(head, None) if self.chance() < self.share else False

    def _asked(self, head: Head, value: bytes, follow: bool) -> bool:
        """The client has sent a traceparent."""
        if self.follow and declines(value):
            return False
        context = parse(value, head.kept.get(STATE, b""))
        if context is not None and follow:
            if context.sampled:
                span = Context(context.trace_id, self.entropy(8), context.flags, context.state)
                head.trace = Trace(self, span, context.span_id, None)
            return context.sampled
        self._strip(head)
        return self._begin(head, context) if self.chance() < self.share else False

    def _begin(self, head: Head, link: Context | None) -> bool:
        head.trace = Trace(self, self.root(), b"", link)
        return True

    def _strip(self, head: Head) -> None:
        if self.propagate:
            head.lines = untold(head.lines)

    def root(self) -> Context:
        """A span with which a trace begins."""
        ids = self.entropy(24)
        return Context(ids[:16], ids[16:], SAMPLED)

    def child(self, of: Context) -> Context:
        return Context(of.trace_id, self.entropy(8), of.flags, of.state)

    def refused(self, client: ClientProtocol, head: Head, trace: Trace, error: TurnoutError) -> None:
        """A traced request was answered with an error before it had a decision."""
        now = perf_counter()
        asked = asked_for(client, head, head.lines)
        self.offer(Refused(trace, asked, error.status, error.code, head.started, now, self.wall() - now))


def untold(lines: list[bytes]) -> list[bytes]:
    """The field lines without those that name a trace."""
    return [line for line in lines if not line.lower().startswith(_LINES)]


def asked_for(client: ClientProtocol, head: Head, lines: list[bytes]) -> Asked:
    origin = client.peer
    if head.forwarded and client.snapshot.trusted(client.peer):
        said = [value for kind, value in head.forwarded if kind == FORWARDED_FOR]
        origin = said[0].split(b",")[0].strip().decode("latin-1") if said else origin
    return Asked(head.method, head.path, head.host, client.scheme, head.old, client.peer, origin, lines)


class TracedExchange(Exchange):
    """A request whose spans are kept: ids before each attempt, times as it goes."""

    __slots__ = ("lines", "open", "spans", "trace", "tracing")

    def __init__(
        self, client: ClientProtocol, worker: Worker, head: Head, route: RoutePlan, trace: Trace
    ) -> None:
        super().__init__(client, worker, head, route)
        self.trace = trace
        self.tracing = trace.tracing
        self.spans: list[Attempt] = []
        self.open: dict[Address, Attempt] = {}
        """Attempts under way; no two are at the same address."""
        self.lines = untold(head.lines) if self.tracing.propagate else head.lines
        """The client's field lines, without the names of its trace where ours takes their place."""

    # Attempts ---------------------------------------------------------------------------------------
    def dispatch(self, address: Address) -> None:
        if not (self.repeated and address in self.open):  # else the record counts it as the same attempt
            self._opened(address, self._kind(), perf_counter())
        super().dispatch(address)

    def branch(self, address: Address, begun: float) -> None:
        self._opened(address, "hedge", begun)

    def _opened(self, address: Address, kind: str, begun: float) -> None:
        attempt = Attempt(self.tracing.child(self.trace.span), self.plan, address, kind, begun)
        self.spans.append(attempt)
        self.open[address] = attempt
        self._tell(attempt.span)

    def _tell(self, span: Context) -> None:
        """The head that is written next names ``span`` as the parent."""
        if self.tracing.propagate:
            self.head.lines = [*self.lines, span.line()]

    def _kind(self) -> str:
        if self.retries:
            return "retry"
        return "first" if self.plan is self.choice.variant else "fallback"

    def note(self, result: object, spent: float | None = None) -> None:
        super().note(result, spent)
        assert self.attempts is not None
        now = perf_counter()
        took = cast("float", self.attempts[-1][3]) / 1e3
        attempt = self.open.pop(self.address, None) if self.address is not None else None
        if attempt is None:  # it never came to be sent
            kind = self._kind() if spent is None else "hedge"
            span = self.tracing.child(self.trace.span)
            attempt = Attempt(span, self.plan, self.address, kind, now - took)
            self.spans.append(attempt)
        elif not attempt.sent and (self.state == WAITING or spent is not None):
            attempt.sent = now - took
        attempt.ended = now
        if isinstance(result, int):
            attempt.status = result
            attempt.head = now
        else:
            attempt.result = str(result)

    def on_head(self, response: ResponseHead) -> None:
        now = perf_counter()
        super().on_head(response)
        attempt = self.open.get(self.address) if self.address is not None else None
        if self.state == RELAYING and attempt is not None:
            attempt.sent = self.sent_at
            attempt.head = now

    # Shadows ----------------------------------------------------------------------------------------
    def shadowing(self, plan: VariantPlan, address: Address) -> ShadowTrace | None:
        attempt = Attempt(self.tracing.root(), plan, address, "shadow", 0.0)
        self._tell(attempt.span)
        return ShadowTrace(self, attempt)

    # The end ----------------------------------------------------------------------------------------
    def done(self) -> None:
        if self.state != DONE:
            try:
                self._finish()
            except Exception as error:  # noqa: BLE001 - the request itself must go on
                INTERNAL_ERRORS.report(error)
        super().done()

    def _finish(self) -> None:
        now = perf_counter()
        last = self.open.pop(self.address, None) if self.address is not None else None
        if last is not None:
            last.sent = last.sent or self.sent_at
            last.status = self.status
            last.ended = now
        asked = asked_for(self.client, self.head, self.lines)
        self.tracing.offer(
            Served(
                trace=self.trace,
                asked=asked,
                outcome=outcome(self),
                prefix=self.route.prefix,
                attempts=self.spans,
                broken=bool(self.served) and last is None and self.status != 499,
                begun=self.started,
                ended=now,
                offset=self.tracing.wall() - now,
            )
        )


def traced(client: ClientProtocol, head: Head, route: RoutePlan) -> TracedExchange:
    """The exchange of a request for which `Tracing.begins` was true."""
    assert head.trace is not None
    return TracedExchange(client, client.worker, head, route, head.trace)


class ShadowTrace:
    """What is kept of a traced request's copy for a shadow."""

    __slots__ = ("_attempt", "_decision", "_link", "_method", "_path", "_prefix", "_route", "_tracing")

    def __init__(self, x: TracedExchange, attempt: Attempt) -> None:
        self._attempt = attempt
        self._tracing = x.tracing
        self._link = x.trace.span
        self._decision = x.decision
        self._route, self._prefix = x.route.name, x.route.prefix
        self._method, self._path = x.head.method, x.head.path

    def ended(self, begun: float, sent: float, head: float, status: int, error: str) -> None:
        """``sent`` and ``head`` are 0.0 where it did not come to that."""
        now, attempt = perf_counter(), self._attempt
        attempt.begun, attempt.sent, attempt.head, attempt.ended = begun, sent, head, now
        attempt.status, attempt.result = status, error
        self._tracing.offer(
            Shadowing(
                attempt=attempt,
                link=self._link,
                decision=self._decision,
                route=self._route,
                prefix=self._prefix,
                method=self._method,
                path=self._path,
                offset=self._tracing.wall() - now,
            )
        )
