"""The life of one request: decide, try, relay, record.

An exchange coordinates; the parts know more. `Request` holds the facts, `Body` what the client sends, `Assignment`
the decision, `Attempt` one try at one address (its states are the table in `gateway.dataplane.exchange.states`),
`Relay` what the client gets, `Recovery` what may be done after a failure.

After a failure comes a retry, the next variant of the fallback list, or an error response: decided by what failed, by
what the client has had (nothing yet) and by whether it is still there. The client's leaving ends everything
immediately. `Exchange._finish` is the only place that records an outcome.
"""

from __future__ import annotations

from time import perf_counter

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.exchange.attempt import Attempt, AttemptOwner
from gateway.dataplane.exchange.discard import Discard
from gateway.dataplane.exchange.hedging import Hedge
from gateway.dataplane.exchange.listener import ExchangeListener
from gateway.dataplane.exchange.local_reply import retry_line, send_refusal
from gateway.dataplane.exchange.outcome import outcome
from gateway.dataplane.exchange.recovery import Recovery
from gateway.dataplane.exchange.relay import Relay
from gateway.dataplane.exchange.serialize import request_head
from gateway.dataplane.exchange.states import BACKOFF, CONNECTING, QUEUED, RELAYING, WAITING
from gateway.dataplane.exchange.tunnel import Tunnel
from gateway.dataplane.request import body_fields
from gateway.dataplane.request.assignment import Assignment, assign, settle_route
from gateway.dataplane.request.body import MIN_VECTORED_BYTES, Body, framed
from gateway.dataplane.request.body_wait import BodyWait
from gateway.dataplane.request.head import Head
from gateway.dataplane.request.json_body import JsonBody, read, read_scalars
from gateway.dataplane.request.request import Request
from gateway.dataplane.shadow.sink import PrimaryResult
from gateway.dataplane.snapshot import RoutePlan
from gateway.dataplane.tracing import RequestTrace
from gateway.dataplane.variant import FixedResponse, VariantPlan
from gateway.errors import CODES, TurnoutError, render
from gateway.http.fields import STATUS_LINES, date_line
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHead


class Exchange(PipelinedRequest, AttemptOwner):
    """One request that matches a route, from its head to its outcome."""

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

    # The request arrives ----------------------------------------------------------------------------
    def on_request_data(self, data: bytes) -> None:
        body = self.body
        body.chunks.append(data)
        body.size += len(data)

    def on_request_end(self) -> None:
        self.body.complete = True

    def advance(self) -> None:
        if not self._begun:
            self._begin()
            return
        body, attempt = self.body, self.attempt
        if attempt is None:
            self._continue_reading()
        elif attempt.state == WAITING or attempt.state == RELAYING:
            self._send_more(attempt)
        elif body.size > MIN_VECTORED_BYTES and not body.complete:
            self.on_backpressure(attempt, full=True)  # there is no connection yet that takes it

    def _begin(self) -> None:
        self._begun = True
        if self._refused is not None:
            self._ended = True
            send_refusal(self.client, self, self._refused)
            return
        runtime, head, request = self.runtime, self.head, self.request
        request.wall = wall = runtime.wall()
        request.decision = decision = runtime.new_decision(wall)
        request.request_id = head.request_id or decision.hex().encode()
        request.forwarded = self.client.forwarding.lines(head, request.snapshot.trusted)
        if head.trace is not None and head.tracing is not None:
            self._listener = RequestTrace(self.client, request, head.tracing, head.trace)
        if not request.route.needs_body:
            self._assign()
            return
        self._wait = wait = BodyWait(request.total_deadline, self._read_too_long)
        runtime.active.add(wait)
        self._continue_reading()

    # The decision -----------------------------------------------------------------------------------
    def _continue_reading(self) -> None:
        """Reads the JSON body if it is here, a large one in another process, and decides."""
        body, request, wait = self.body, self.request, self._wait
        if wait is None or wait.reading is not None:
            return
        if not body.complete and body.size <= request.route.buffer_limit:
            return
        data = b"".join(body.chunks) if body.complete else b""
        if body_fields.quick_to_read(data):
            self._on_json(read(data))
            return
        keys = body_fields.wanted(request.snapshot.candidates(self.head.path))
        wait.reading = self.runtime.body_reader.submit(
            read_scalars, (data, keys), self._on_json, self._on_unread
        )

    def _on_json(self, json: JsonBody) -> None:
        if self._wait is not None:
            self.body.json = json
            self._stop_reading()
            self._assign()

    def _on_unread(self, reason: str) -> None:
        if self._wait is not None:
            self._fail(TurnoutError("gateway_overloaded", retry_after=1.0))

    def _read_too_long(self) -> None:
        if self.body.complete:
            self._fail(TurnoutError("gateway_overloaded", retry_after=1.0))
        else:
            self._fail(TurnoutError("request_timeout"))

    def _stop_reading(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            self.runtime.active.discard(wait)
            wait.cancel()

    def _assign(self) -> None:
        """Decides, and makes the first attempt."""
        request, runtime = self.request, self.runtime
        try:
            json = self.body.json
            if request.route.needs_body:
                settle_route(request, json, self.body.size)
            self.assignment = assignment = assign(request, json, runtime.random())
            route = request.route
            if (
                route.shadows and not self.head.upgrade
            ):  # a copy of a handshake says nothing of what follows it
                limits = request.snapshot.limits.shadow
                self._shadows = runtime.shadow.sampled(route, assignment.variant, limits)
                if self._shadows:
                    self.relay.capture(limits.answer)
            self._new_attempt(assignment.variant).start()
        except TurnoutError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a response
            self._on_fault(error)

    def _on_fault(self, error: Exception) -> None:
        """A fault of ours: 500, counted, and charged to no backend."""
        INTERNAL_ERRORS.report(error)
        attempt = self.attempt
        if self._ended or (attempt is not None and attempt.state == RELAYING):
            self.client_lost()
            self.client.abort()
            return
        if self.assignment is not None:
            self._error = "internal"
        self._fail(TurnoutError("internal"))

    # Attempts ---------------------------------------------------------------------------------------
    def _new_attempt(self, plan: VariantPlan) -> Attempt:
        request = self.request
        self.attempt = attempt = Attempt(
            self, plan, request.route.timeouts, request.total_deadline, self.head.upgrade
        )
        self.runtime.active.add(attempt)
        return attempt

    def pick(self, attempt: Attempt) -> Address | None:
        backend, recovery = attempt.plan.backend, self.recovery
        elsewhere = backend.health.degraded and self._recover().stands_by(attempt.plan)
        tried = recovery.tried if recovery is not None else ()
        address = backend.pick(perf_counter(), tried, elsewhere=elsewhere)
        if address is None:
            detail = f"no address of {backend.name} may be used"
            self._next(attempt, "backend_unhealthy", detail, sent=False)
        return address

    def on_ready(self, attempt: Attempt, connection: Connection, address: Address) -> None:
        request, body, plan = self.request, self.body, attempt.plan
        if body.paused:
            self.on_backpressure(attempt, full=False)
        if self._listener is not None:
            self._listener.attempt_ready(attempt, self._kind(attempt))
        connection.begin(attempt, head=self.head.method == b"HEAD")
        chunks, size = (body.chunks, body.size) if plan.model is None else body.for_variant(plan)
        parts = request_head(request, body, plan, address, size)
        if body.complete:
            parts += chunks
        else:
            parts += framed(chunks, self.head.chunked)
            body.sent = len(body.chunks)
        now = perf_counter()
        if body.size < MIN_VECTORED_BYTES:
            connection.transport.write(b"".join(parts))
        else:
            connection.transport.writelines(parts)
        if body.complete:
            connection.sent_whole = True
            attempt.sent(now)
            if request.route.hedge_after:
                self._arm_hedge(attempt)
        else:
            attempt.since = now
            attempt.deadline = attempt.total_deadline
            self._forget_sent()

    def _send_more(self, attempt: Attempt) -> None:
        """Sends pieces of the body that came after the head had been sent."""
        connection, body = attempt.connection, self.body
        if connection is None or connection.closed or connection.sent_whole:
            return
        parts = framed(body.take_unsent(), self.head.chunked)
        if body.complete:
            if self.head.chunked:
                parts.append(b"0\r\n\r\n")
            connection.sent_whole = True
            attempt.sent(perf_counter())
            if attempt.state == WAITING and self.request.route.hedge_after:
                self._arm_hedge(attempt)
        if parts:
            connection.transport.writelines(parts)
            self._forget_sent()

    def _forget_sent(self) -> None:
        """Keeps pieces only where another attempt or a shadow may need them, and up to a limit."""
        route, body = self.request.route, self.body
        if route.retains and body.size <= route.buffer_limit:
            return
        body.drop_sent()
        if self._shadows:
            self.runtime.shadow.drop(route.name, self._shadows, "body_too_large")
            self._shadows = self.relay.captured = None

    def on_backpressure(self, attempt: Attempt, *, full: bool) -> None:
        if attempt is self.attempt and full != self.body.paused:
            self.body.paused = full
            if full:
                self.client.pause_body()
            else:
                self.client.resume_body()

    def _arm_hedge(self, attempt: Attempt) -> None:
        """Starts the clock of a second attempt, where the request may be sent twice."""
        if self._hedge is not None or attempt is not self.attempt or not self.body.replayable:
            return
        if (
            attempt.plan.backend.single is None and not self.head.upgrade
        ):  # two tunnels could not be told apart
            tried = self.recovery.tried if self.recovery is not None else ()
            self._hedge = Hedge(self, attempt, self.request.route, tried)

    # The response -----------------------------------------------------------------------------------
    def on_interim(self, attempt: Attempt, status: int, lines: list[bytes]) -> None:
        # 100 was sent by us when the client asked for it; others go to clients that can take them.
        if attempt is self.attempt and attempt.state == WAITING and status != 100 and not self.head.http10:
            self.client.send_interim(status, lines)

    def on_head(self, attempt: Attempt, response: ResponseHead) -> None:
        now = perf_counter()
        relay = self.relay
        if attempt is not self.attempt:
            if response.status >= 500:
                _observe(attempt, "backend_status")
                self._end_hedge(response.status)
                return
            self._promote("hedged")
        elif self._hedge is not None:
            self._end_hedge("hedge_lost")
        relay.backend_ms = backend_ms = (now - attempt.since) * 1e3
        if response.status >= 500:
            if not self._accept_bad(attempt, response, now):
                return
        else:
            self._accept_good(attempt, backend_ms, now)
        waited = attempt.waited if self.recovery is None else attempt.waited + self.recovery.waited
        relay.head_ms = (now - self.head.started - waited) * 1e3 - backend_ms
        relay.served = attempt.plan.name
        if self._listener is not None:
            self._listener.attempt_accepted(attempt, now)
        attempt.accept(relay, now)
        assert self.assignment is not None
        if not self.body.complete:
            self.head.close = True
        relay.begin(self, response, self._gateway_lines(self.assignment, attempt.plan))
        if self.client.write_paused:  # by the response before
            attempt.hold(full=True)

    def _accept_good(self, attempt: Attempt, backend_ms: float, now: float) -> None:
        address, health = attempt.address, attempt.plan.backend.health
        assert address is not None
        if self.body.complete:
            address.observe_latency(backend_ms, now)
        else:
            address.last_byte_at = now  # early: it says nothing about how long responses take
        health.good(address, now)
        if address.stalled:
            health.recheck_stall(address, backend_ms, now)
        if self._error and self.assignment is not None and attempt.plan is self.assignment.variant:
            self._error = ""  # a retry has mended it

    def _accept_bad(self, attempt: Attempt, response: ResponseHead, now: float) -> bool:
        """Returns False where something better than passing the error on can be done, and is."""
        assert attempt.address is not None
        status = response.status
        attempt.address.last_byte_at = now
        _observe(attempt, "backend_status")
        if self._recover().moves_on(attempt.plan, status):
            self._next(attempt, "backend_status", f"it responded with {status}", sent=True, status=status)
            return False
        self._error = self._error or "backend_status"
        return True

    def _gateway_lines(self, assignment: Assignment, plan: VariantPlan) -> bytes:
        """The fields that every response of a route carries; ``plan``: the variant that it names."""
        relay, request = self.relay, self.request
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

    def on_end(self, attempt: Attempt) -> None:
        self.relay.end()
        attempt.leave()
        self._finish()
        self.client.responded(self)

    def pause_response(self) -> None:
        if self.attempt is not None:
            self.attempt.hold(full=True)

    def resume_response(self) -> None:
        if self.attempt is not None:
            self.attempt.hold(full=False)

    def on_tunnel(self, attempt: Attempt, response: ResponseHead, data: bytes) -> None:
        """From here on bytes pass unread, both ways."""
        connection, attempt.connection = attempt.connection, None
        assert connection is not None
        assert attempt.address is not None
        if self.runtime.tunnels_full:  # others came first while the backend was asked
            connection.abandon()
            self._fail(TurnoutError("too_many_websockets", retry_after=1.0))
            return
        relay = self.relay
        relay.status = 101
        relay.served = attempt.plan.name
        self.head.close = True
        self.runtime.active.discard(attempt)
        attempt.leave()  # WebSockets have a limit of their own
        assert self.assignment is not None
        lines = (
            STATUS_LINES[101],
            b"connection: upgrade\r\n",
            *response.lines,
            self._gateway_lines(self.assignment, attempt.plan),
        )
        tunnel = Tunnel(self.client, self.request, connection, attempt.address, self._on_tunnel_end)
        tunnel.open(b"".join((*lines, b"\r\n")), data)

    def _on_tunnel_end(self, received: int, sent: int) -> None:
        self.body.size += received
        self.relay.size += sent
        self._finish()

    # Failures ---------------------------------------------------------------------------------------
    def _recover(self) -> Recovery:
        if self.recovery is None:
            assert self.assignment is not None
            self.recovery = Recovery(self.request, self.body, self.assignment.variant)
        return self.recovery

    def on_failure(self, attempt: Attempt, code: str, detail: str, *, idle_close: bool) -> None:
        if attempt is not self.attempt:
            if not idle_close:
                _observe(attempt, code)
            attempt.connection = None
            self._end_hedge(code)
            return
        if attempt.state == RELAYING:
            attempt.connection = None
            self._break_off(attempt, code)
            return
        if idle_close and self._recover().may_repeat(attempt):
            self.body.rewind()
            attempt.repeat()
            return
        attempt.connection = None
        if not idle_close:
            _observe(attempt, code)
        if self._hedge is not None:
            if self._hedge.under_way:
                self._promote(code)
                return
            self._end_hedge("hedge_lost")
        self._next(attempt, code, detail, sent=CODES[code].sent)

    def on_expired(self, attempt: Attempt, code: str) -> None:
        state = attempt.state
        if state == QUEUED:
            self._next(attempt, code, "it waited for a free place for the maximum time", sent=False)
        elif state == BACKOFF:
            self._next(attempt, code, "", sent=False)
        elif state == WAITING and not self.body.complete:
            self._fail(TurnoutError("request_timeout"))
        elif state != RELAYING:
            _observe(attempt, code)
            self._next(attempt, code, "", sent=state == WAITING)
        elif self.client.write_paused or not self.body.complete:
            self.client_lost()  # it does not read, or does not send: the backend waits for it
            self.client.abort()
        else:
            attempt.cancel()
            self._break_off(attempt, code)

    def on_stall(self, attempt: Attempt) -> None:
        sent = attempt.state == WAITING
        if not attempt.plan.backend.health.stall_detection:
            return
        if attempt is not self.attempt or not self._recover().leaves_stalled(attempt, sent=sent):
            return
        assert attempt.address is not None
        silent = perf_counter() - max(attempt.address.last_byte_at, attempt.since)
        detail = f"{attempt.address.name} has been silent for {silent:.3f} s"
        self._next(attempt, "backend_stalled", detail, sent=sent)

    def _next(self, attempt: Attempt, code: str, detail: str, *, sent: bool, status: int = 0) -> None:
        """A retry, the next variant of the fallback list, or an error. ``status``: of a response, else 0."""
        recovery, assignment, now = self._recover(), self.assignment, perf_counter()
        assert assignment is not None
        plan = attempt.plan
        self._end_hedge("hedge_lost")
        self._note(attempt, status or code, now)
        recovery.waited += attempt.waited
        if attempt.state in (WAITING, CONNECTING, QUEUED):
            recovery.waited += now - attempt.since
        self._let_go(attempt, code)
        if detail:  # addresses are not for clients
            self.runtime.failure_log.tell(plan.backend_name, code, detail, self.request.request_id)
        if plan is assignment.variant:
            self._error = code
        late = now >= self.request.total_deadline
        if not late and recovery.may_retry(plan, code, status, sent=sent):
            self._retry(recovery, attempt)
            return
        following = recovery.fallback(plan, code, status, sent=sent)
        if isinstance(following, FixedResponse):  # costs no time, so it serves even when none is left
            recovery.fixed = True
            self._reply(following.status, following.body, following.lines)
        elif late:
            message = f"{plan.name}: the total time of the request is over; try again."
            self._fail(TurnoutError("backend_total_timeout", message))
        elif following is None:
            wait = plan.backend.limiter.drain_time() if CODES[code].status == 503 else None
            self._fail(TurnoutError(code, retry_after=wait))
        else:
            recovery.retries = 0
            recovery.tried.clear()
            self._new_attempt(following).start()

    def _let_go(self, attempt: Attempt, code: str) -> None:
        """Gives up an attempt; what it left at the backend may still be read for the connection's sake."""
        self.body.rewind()
        active = self.runtime.active
        if code == "backend_status":
            Discard.response(attempt, active)
        elif code != "backend_stalled" or not Discard.straggler(attempt, active):
            self._cancel(attempt)
            attempt.leave()
            active.discard(attempt)
            return
        attempt.release()

    def _retry(self, recovery: Recovery, failed: Attempt) -> None:
        """Tries again after a random pause of up to base · 2^(n-1).

        Full jitter keeps failures from recurring in step.
        """
        route, runtime = self.request.route, self.runtime
        recovery.retries += 1
        if failed.address is not None:
            recovery.tried.append(failed.address)
        ceiling = min(route.backoff_max, route.backoff_base * 2.0 ** (recovery.retries - 1))
        attempt = self._new_attempt(failed.plan)
        attempt.delay(runtime.loop, runtime.random() * ceiling)

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

    def _promote(self, result: str) -> None:
        """The second attempt goes on as the only one; ``result`` is what became of the first."""
        first, hedge = self.attempt, self._hedge
        assert first is not None
        assert hedge is not None
        assert hedge.attempt is not None
        self._hedge = None
        self._note(first, result, perf_counter())
        first.cancel()
        first.leave()
        active = self.runtime.active
        active.discard(first)
        # The first one's time is no time of the gateway's.
        self._recover().waited += first.waited + hedge.attempt.since - first.since
        self.attempt = hedge.attempt
        active.add(hedge.attempt)

    def _end_hedge(self, result: object) -> None:
        """The second attempt is not needed, or failed."""
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            hedge.cancel()
            if hedge.attempt is not None:
                self._note(hedge.attempt, result, perf_counter())
                hedge.attempt.leave()

    def _cancel(self, attempt: Attempt) -> None:
        """Ends what is under way at the backend immediately."""
        attempt.cancel()
        self._end_hedge("hedge_lost")
        if self.body.paused:
            self.on_backpressure(attempt, full=False)

    def _break_off(self, attempt: Attempt, code: str) -> None:
        """After the first byte there is no way back: the client must see that the response is not whole."""
        _observe(attempt, code)
        self._error = code
        self._note(attempt, code, perf_counter())
        attempt.leave()
        self._finish()
        self.client.abort()

    # Ends -------------------------------------------------------------------------------------------
    def client_lost(self) -> None:
        if self._ended or not self._begun:
            self._ended = True
            return
        attempt, relay = self.attempt, self.relay
        if attempt is None:
            self._stop_reading()
            self._ended = True
            return
        self._cancel(attempt)
        if attempt.state == RELAYING:
            relay.cut()
        if not relay.whole:
            self._error = self._error or "client_left"
            relay.status = 499
            self._note(attempt, "client_left", perf_counter())
        attempt.leave()
        self._finish()

    def refuse(self, error: TurnoutError) -> None:
        """The client's body is malformed, too large or too slow: its fault, not the variant's."""
        if not self._begun:
            self._refused = error
        elif self.attempt is not None and self.attempt.state == RELAYING:
            self.client_lost()
            self.client.abort()
        elif not self._ended:
            self._fail(error)

    def cut_short(self) -> None:
        """The process ends first, which is no fault of the variant: an error response if nothing went out yet."""
        if self._ended or not self._begun:
            return
        attempt = self.attempt
        relaying = False
        if attempt is not None:
            relaying = attempt.state == RELAYING
            self._cancel(attempt)
            self._error = self._error or "draining"
            self._note(attempt, "draining", perf_counter())
        if relaying:
            self._finish()
            self.client.abort()
        else:
            self._fail(TurnoutError("draining", retry_after=1.0))

    def _fail(self, error: TurnoutError) -> None:
        """Sends an error response; with a decision, it carries all that a response does."""
        if self.assignment is None:
            self._stop_reading()
            self._ended = True
            send_refusal(self.client, self, error)
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
        own = self._gateway_lines(assignment, assignment.variant)
        head = b"".join((date_line(request.wall), lines, own, retry_line(retry_after)))
        relay.reply(self, status, head, body)
        self._finish()
        self.client.responded(self)

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
                self._listener.finished(record, attempt)
            runtime.offer(record)
            if self._shadows:
                self._offer_copies(self._shadows)
        except Exception as error:  # noqa: BLE001 - the client's connection must go on
            INTERNAL_ERRORS.report(error)

    def _offer_copies(self, shadows: list[VariantPlan]) -> None:
        request, body, relay, shadow = self.request, self.body, self.relay, self.runtime.shadow
        if not body.complete:
            shadow.drop(request.route.name, shadows, "request_incomplete")
            return
        result = PrimaryResult(
            request,
            body,
            served=relay.served,
            status=relay.status,
            latency_ms=relay.backend_ms,
            lines=relay.lines if relay.captured is not None else [],
            captured=relay.captured,
            size=relay.size,
            whole=relay.whole,
        )
        shadow.offer(request, body, result, shadows, self._listener)


def _observe(attempt: Attempt, code: str) -> None:
    """Reports the failure ``code`` of an attempt to the health of its backend."""
    if attempt.address is not None and code != "internal":
        attempt.plan.backend.health.failed(attempt.address, code, perf_counter())
