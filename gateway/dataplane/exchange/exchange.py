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

from gateway.dataplane.exchange.attempt import Attempt
from gateway.dataplane.exchange.failover import Failover
from gateway.dataplane.exchange.hedging import Hedge
from gateway.dataplane.exchange.inspection import Inspection
from gateway.dataplane.exchange.local_reply import send_refusal
from gateway.dataplane.exchange.serialize import request_head
from gateway.dataplane.exchange.states import RELAYING, WAITING
from gateway.dataplane.exchange.tunnel import Tunnel
from gateway.dataplane.request import body_fields, grpc_body
from gateway.dataplane.request.assignment import assign, settle_route
from gateway.dataplane.request.body_wait import BodyWait
from gateway.dataplane.request.json_body import JsonBody, read, read_scalars
from gateway.dataplane.snapshot import HedgePlan
from gateway.dataplane.tracing import RequestTrace
from gateway.errors import TurnoutError
from gateway.http.fields import STATUS_LINES
from gateway.http.grpc import judged_head
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHead
from gateway.transport.connection import MIN_VECTORED_BYTES


class Exchange(Failover):
    """One request that matches a route, from its head to its outcome."""

    __slots__ = ()

    # The request arrives -----------------------------------------------------------------------------
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
            send_refusal(self, self._refused)
            return
        runtime, head, request = self.runtime, self.head, self.request
        request.wall = wall = runtime.wall()
        request.decision = decision = runtime.new_decision(wall)
        request.request_id = head.request_id or decision.hex().encode()
        request.forwarded = self.client.forwarding.lines(head, request.snapshot.trusted)
        if head.trace is not None:
            self._listener = RequestTrace(self.client, request, *head.trace)
        if not request.route.needs_body:
            self._assign()
            return
        self._wait = wait = BodyWait(request.total_deadline, self._read_too_long)
        runtime.active.add(wait)
        self._continue_reading()

    # The decision ------------------------------------------------------------------------------------
    def _continue_reading(self) -> None:
        """Reads the body if it is here, in another process if that takes time, and decides."""
        body, request, wait = self.body, self.request, self._wait
        if wait is None or wait.reading is not None:
            return
        whole = body.complete or (self.head.grpc and grpc_body.first_message_is_here(body))
        if not whole and body.size <= request.route.buffer_limit:
            return
        data = b"".join(body.chunks) if whole else b""
        work, more = self.runtime.body_reader, (self._on_json, self._on_unread)
        if self.head.grpc:
            if grpc_body.quick_to_read(data):
                self._on_json(grpc_body.read(data))
            else:
                wait.reading = work.submit(grpc_body.read, (data,), *more)
        elif body_fields.quick_to_read(data):
            self._on_json(read(data))
        else:
            keys = body_fields.wanted(request.snapshot.candidates(self.head.path))
            wait.reading = work.submit(read_scalars, (data, keys), *more)

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

    def _assign(self) -> None:
        """Decides, and makes the first attempt."""
        request, runtime = self.request, self.runtime
        try:
            json = self.body.json
            if request.route.needs_body:
                settle_route(request, self.body)
            self.assignment = assignment = assign(request, json, runtime.random() if request.decides else 0.0)
            route = request.route
            # A copy of a handshake says nothing of what follows it.
            if route.shadows and request.decides and not self.head.upgrade:
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

    # The request goes on -----------------------------------------------------------------------------
    def on_ready(self, attempt: Attempt, connection: Connection, address: Address) -> None:
        request, body, plan = self.request, self.body, attempt.plan
        if body.paused:
            self.on_backpressure(attempt, full=False)
        if self._listener is not None:
            self._listener.attempt_ready(attempt, self._kind(attempt))
        chunks, size = body.for_variant(plan)
        head = request_head(request, body, plan, address, size)
        now = perf_counter()
        if body.complete:
            connection.send_request(attempt, self.head.method == b"HEAD", head, chunks)
            attempt.sent(now)
            if request.route.hedge is not None:
                self._arm_hedge(attempt, request.route.hedge)
        else:
            body.sent = len(body.chunks)
            connection.begin_request(attempt, self.head.method == b"HEAD", head, chunks, self.head.chunked)
            attempt.since = now
            attempt.deadline = attempt.total_deadline
            self._forget_sent()

    def _send_more(self, attempt: Attempt) -> None:
        """Sends pieces of the body that came after the head had been sent."""
        connection, body = attempt.connection, self.body
        if connection is None or connection.closed or connection.sent_whole:
            return
        pieces, end = body.take_unsent(), body.complete
        if end:
            connection.sent_whole = True
            attempt.sent(perf_counter())
            hedge = self.request.route.hedge
            if attempt.state == WAITING and hedge is not None:
                self._arm_hedge(attempt, hedge)
        if pieces or end:
            connection.send_body(pieces, end)
            self._forget_sent()

    def _forget_sent(self) -> None:
        """Keeps pieces only where another attempt or a shadow may need them, and up to a limit."""
        route, body = self.request.route, self.body
        if not route.retains or body.size > route.buffer_limit:
            body.drop_sent()

    def on_backpressure(self, attempt: Attempt, *, full: bool) -> None:
        if attempt is self.attempt and full != self.body.paused:
            self.body.paused = full
            if full:
                self.client.pause_body()
            else:
                self.client.resume_body()

    def _arm_hedge(self, attempt: Attempt, plan: HedgePlan) -> None:
        """Starts the clock of a second attempt, where the request may be sent twice."""
        if self._hedge is not None or attempt is not self.attempt or not self.body.replayable:
            return
        if attempt.plan.backend.single is None and not self.head.upgrade:  # two tunnels would be mixed up
            tried = self.recovery.tried if self.recovery is not None else ()
            self._hedge = Hedge(self, attempt, plan, tried)

    # The response ------------------------------------------------------------------------------------
    def on_interim(self, attempt: Attempt, status: int, lines: list[bytes]) -> None:
        # 100 was sent by us when the client asked for it; others go to clients that can take them.
        if attempt is self.attempt and attempt.state == WAITING and status != 100 and not self.head.http10:
            self.client.send_interim(status, lines)

    def on_head(self, attempt: Attempt, response: ResponseHead) -> None:
        now = perf_counter()
        route = self.request.route
        if attempt is not self.attempt:
            if response.judged >= 400 and route.fails(response.judged):
                if response.judged not in route.client_errors:
                    attempt.observe_bad(response.judged, now)
                self._end_hedge(response.judged)
                return
            self._promote("hedged")
        elif self._hedge is not None:
            self._end_hedge("hedge_lost")
        if self.head.grpc and response.judged < 400:
            response.judged, response.status_due = judged_head(
                response.lines, response.status, over=response.statusless
            )
        if response.judged == 504:
            response.judged = self.request.judge(504, now)
        self.relay.backend_ms = backend_ms = (now - attempt.since) * 1e3
        if response.judged >= 400 and route.fails(response.judged):
            texts = route.client_errors.get(response.judged)
            if texts is not None:
                attempt.sink = Inspection(response, texts, now, self._on_inspected)
                return
            if not self._accept_bad(attempt, response.judged, now):
                return
        else:
            self._accept_good(attempt, backend_ms, now)
        self._respond(attempt, response, now)

    def _on_inspected(self, inspection: Inspection, client_fault: bool) -> None:
        attempt, response, now = self.attempt, inspection.response, inspection.head_at
        assert attempt is not None
        if client_fault:
            self._accept_good(attempt, self.relay.backend_ms, now)
        elif not self._accept_bad(attempt, response.judged, now):
            return
        self._respond(attempt, response, now)
        for piece in inspection.pieces:
            self.relay.on_data(piece)

    def _respond(self, attempt: Attempt, response: ResponseHead, now: float) -> None:
        """Relays a response whose head came at ``now``."""
        relay, backend_ms = self.relay, self.relay.backend_ms
        waited = attempt.waited if self.recovery is None else attempt.waited + self.recovery.waited
        relay.head_ms = (now - self.head.started - waited) * 1e3 - backend_ms
        relay.served = attempt.plan.name
        if self._listener is not None:
            self._listener.attempt_accepted(attempt, now)
        attempt.accept(relay)
        assert self.assignment is not None
        if not self.body.complete:
            self.head.close = True
        relay.begin(self, response, self._gateway_lines(self.assignment, attempt.plan))
        if self.client.write_paused:  # by the response before
            attempt.hold(full=True)

    def _accept_good(self, attempt: Attempt, backend_ms: float, now: float) -> None:
        address, health = attempt.address, attempt.plan.backend.health
        assert address is not None
        address.last_byte_at = now
        if self.body.complete:  # an early response says nothing about how long they take
            address.latency.observe(backend_ms)
        health.good(address, now)
        if address.stalled:
            health.recheck_stall(address, backend_ms, now)
        if self._error and self.assignment is not None and attempt.plan is self.assignment.variant:
            self._error = ""  # a retry has mended it

    def _accept_bad(self, attempt: Attempt, status: int, now: float) -> bool:
        """Returns False where something better than passing the error on can be done, and is."""
        attempt.observe_bad(status, now)
        if self._recover().moves_on(attempt, status):
            self._next(attempt, "backend_status", f"it responded with {status}", sent=True, status=status)
            return False
        self._error = self._error or "backend_status"
        return True

    def on_end(self, attempt: Attempt, trailers: bytes) -> None:
        if self.relay.end(trailers):
            self._judge_end(attempt)
        attempt.release()
        self._finish()
        self.client.responded(self)

    def _judge_end(self, attempt: Attempt) -> None:
        """The status of a gRPC call comes last."""
        route, now = self.request.route, perf_counter()
        self.relay.status = status = self.request.judge(self.relay.status, now)
        if route.fails(status) and b"" not in route.client_errors.get(status, ()):
            attempt.observe_bad(status, now)
            self._error = self._error or "backend_status"

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

    # The client goes ---------------------------------------------------------------------------------
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
        else:
            self._fail(error)

    def cut_short(self) -> None:
        """The process ends first, which is not the variant's fault: an error response if nothing went out yet."""
        attempt = self.attempt
        relaying = False
        if attempt is not None:
            relaying = attempt.state == RELAYING
            self._cancel(attempt)
            self._error = self._error or "draining"
            self._note(attempt, "draining", perf_counter())
            attempt.leave()
        if relaying:
            self._finish()
            self.client.abort()
        else:
            self._fail(TurnoutError("draining", retry_after=1.0))
