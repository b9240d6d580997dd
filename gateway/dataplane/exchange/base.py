"""What an exchange holds, and how it ends: with a response of the gateway's own or a backend's, and one outcome."""

from __future__ import annotations

from time import perf_counter

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.exchange.attempt import Attempt, AttemptOwner
from gateway.dataplane.exchange.hedging import Hedge
from gateway.dataplane.exchange.listener import ExchangeListener
from gateway.dataplane.exchange.local_reply import retry_line, send_refusal, send_reply
from gateway.dataplane.exchange.outcome import outcome
from gateway.dataplane.exchange.recovery import Recovery
from gateway.dataplane.exchange.relay import Relay
from gateway.dataplane.request.assignment import Assignment
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.body_wait import BodyWait
from gateway.dataplane.request.head import Head
from gateway.dataplane.request.request import Request
from gateway.dataplane.shadow.sink import PrimaryResult
from gateway.dataplane.snapshot import RoutePlan
from gateway.dataplane.variant import VariantPlan
from gateway.errors import TurnoutError, render
from gateway.http.fields import date_line
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.record.events import Outcome


class ExchangeBase(PipelinedRequest, AttemptOwner):
    """State of one request that matches a route; `gateway.dataplane.exchange.exchange` has its life."""

    __slots__ = (
        "_begun", "_ended", "_error", "_hedge", "_listener", "_refused", "_shadows", "_wait", "assignment",
        "attempt", "body", "body_limit", "client", "head", "recovery", "relay", "request", "runtime",
    )  # fmt: skip

    assignment: Assignment | None
    """None until the request is decided; only then is there something to record."""
    attempt: Attempt | None
    """The one whose response the client gets."""
    recovery: Recovery | None
    """Made when the first attempt fails."""
    _wait: BodyWait | None
    _hedge: Hedge | None
    _refused: TurnoutError | None
    """Why the rest of the request could not be read, though its turn has not come."""
    _error: str
    """The code of the assigned variant's failure; "" for none."""
    _shadows: list[VariantPlan] | None
    _listener: ExchangeListener | None

    def __init__(self, client: ClientConnection, head: Head, route: RoutePlan) -> None:
        self.client = client
        self.head = head
        self.runtime = client.runtime
        self.body_limit = route.body_limit
        self.request = Request(head, route, client.snapshot)
        self.body = Body()
        self.relay = Relay(client)
        self.assignment = None
        self.attempt = None
        self.recovery = None
        self._begun = False
        self._ended = False
        self._wait = None
        self._hedge = None
        self._refused = None
        self._error = ""
        self._shadows = None
        self._listener = None

    @property
    def complete(self) -> bool:
        return self.body.complete

    @property
    def ended(self) -> bool:
        return self._ended

    # Attempts ----------------------------------------------------------------------------------------
    def _recover(self) -> Recovery:
        if self.recovery is None:
            assert self.assignment is not None
            self.recovery = Recovery(self.request, self.body, self.assignment.variant)
        return self.recovery

    def _note(self, attempt: Attempt, result: object, now: float) -> None:
        """Keeps what came of an attempt."""
        spent = self._recover().note(attempt, result, now)
        if self._listener is not None:
            self._listener.attempt_failed(attempt, self._kind(attempt), result, spent, now)

    def _kind(self, attempt: Attempt) -> str:
        if attempt is not self.attempt:
            return "hedge"
        if self.recovery is not None and self.recovery.retries:
            return "retry"
        return "first" if self.assignment is None or attempt.plan is self.assignment.variant else "fallback"

    def _end_hedge(self, result: object) -> None:
        """The second attempt is not needed, or failed."""
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            hedge.cancel()
            if hedge.attempt is not None:
                self._note(hedge.attempt, result, perf_counter())
                hedge.attempt.leave()

    def _cancel(self, attempt: Attempt) -> None:
        """Ends immediately what is in flight at the backend."""
        attempt.cancel()
        self._end_hedge("hedge_lost")
        # Nothing else would read the client again: the next attempt may be long in coming, or none.
        if self.body.paused:
            self.on_backpressure(attempt, full=False)

    # Ends --------------------------------------------------------------------------------------------
    def _gateway_lines(self, assignment: Assignment, plan: VariantPlan) -> bytes:
        """The fields that every response of a route carries; ``plan``: the variant that it names."""
        relay, request = self.relay, self.request
        if not request.decides:
            return b"%bx-request-id: %b\r\n" % (plan.response_line, request.request_id)
        prefix = assignment.choice.id_prefix(relay.served, assignment.forced)
        return (
            b"x-decision-id: %b\r\n%bx-request-id: %b\r\nserver-timing: gateway;dur=%.3f, backend;dur=%.3f\r\n"
            % (
                self.runtime.seal(request.decision, assignment.unit, prefix),
                plan.response_line,
                request.request_id,
                relay.head_ms,
                relay.backend_ms,
            )
        )

    def _fail(self, error: TurnoutError) -> None:
        """Sends an error response; with a decision, it carries all that a response does."""
        if self.assignment is None:
            self._stop_reading()
            self._ended = True
            send_refusal(self, error)
            return
        body = render(error.code, error.message, request_id=self.request.request_id.decode("latin-1"))
        self._reply(error.status, body, b"content-type: application/json\r\n", error.retry_after)

    def _reply(self, status: int, body: bytes, lines: bytes, retry_after: float | None = None) -> None:
        """Sends a local reply to a request that has a decision."""
        relay, request, assignment = self.relay, self.request, self.assignment
        assert assignment is not None
        attempt = self.attempt
        if attempt is not None and attempt.owner is self:
            self._cancel(attempt)
            attempt.leave()
        waited = self.recovery.waited if self.recovery is not None else 0.0
        relay.head_ms = (perf_counter() - self.head.started - waited) * 1e3
        relay.backend_ms = waited * 1e3
        relay.served = ""
        relay.status, relay.size = status, len(body)
        own = self._gateway_lines(assignment, assignment.variant)
        head = b"".join((date_line(request.wall), lines, own, retry_line(retry_after)))
        send_reply(self, status, head, body)
        self._finish()
        self.client.responded(self)

    def _stop_reading(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            self.runtime.active.discard(wait)
            wait.cancel()

    def _finish(self) -> None:
        """Records the outcome; the only place that does."""
        if self._ended:
            return
        self._ended = True
        runtime, assignment, attempt = self.runtime, self.assignment, self.attempt
        assert assignment is not None
        self.attempt = None  # each refers to the other: without this, only the collector would free them
        if attempt is not None and attempt.owner is self:
            runtime.active.discard(attempt)
        try:
            record = outcome(self.request, assignment, self.body, self.relay, self.recovery, self._error)
            if self._listener is not None:
                self._listener.finished(Outcome._make(record), attempt)
            if not self.request.decides:
                runtime.undecided[self.request.route.name, f"{self.relay.status // 100}xx"] += 1
                return
            runtime.offer(record)
            if self.relay.usage is not None and self.relay.status < 300:
                runtime.offer_usage(record, assignment.choice.context, self.relay.usage)
            if self._shadows:
                self._offer_copies(self._shadows)
        except Exception as error:  # noqa: BLE001 - the client's connection must go on
            INTERNAL_ERRORS.report(error)

    def _offer_copies(self, shadows: list[VariantPlan]) -> None:
        request, body, relay, shadow = self.request, self.body, self.relay, self.runtime.shadow
        too_large = body.size > request.route.buffer_limit
        if too_large or not body.complete:
            shadow.drop(request.route.name, shadows, "body_too_large" if too_large else "request_incomplete")
            return
        result = PrimaryResult(
            decision=request.decision,
            route=request.route,
            body=body.chunks,
            served=relay.served,
            status=relay.status,
            latency_ms=relay.backend_ms,
            lines=relay.lines if relay.captured is not None else [],
            captured=relay.captured,
            whole=relay.whole,
            size=body.size + (relay.size if relay.captured is not None else 0),
        )
        shadow.offer(request, body, result, shadows, self._listener)
