"""The life of one request: decide, attempt, relay, record.

States, and what moves a request between them:

    READING     the decision waits for the body (a body rule)        → body complete → decide
    QUEUED      the backend has as many requests as it may           → a slot → CONNECTING / WAITING; too long → next
    CONNECTING  a new connection is being made                       → connected → WAITING; refused, too long → next
    BACKOFF     a retry waits for its turn                           → due → attempt
    WAITING     the request is (being) sent, no byte of an answer    → head → RELAYING; error, silence, too long → next
    RELAYING    the head went to the client                          → end → DONE; broken → abort the client, DONE
    DONE        recorded; nothing more happens

"next" is a retry, the next variant of the fallback list, or an error answer, decided by what failed, what the
client has had (nothing yet) and whether it is still there (`gateway.dataplane.exchange.failure`). The client's leaving
ends every state at once.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.dataplane.exchange import failure as failures
from gateway.dataplane.exchange import hedging
from gateway.dataplane.exchange.discard import Discarding
from gateway.dataplane.exchange.local_reply import fail
from gateway.dataplane.exchange.outcome import outcome
from gateway.dataplane.exchange.retry_policy import elsewhere, moves_on
from gateway.dataplane.exchange.serialize import answer_framing, our_lines, request_head
from gateway.dataplane.exchange.states import CONNECTING, DONE, NEVER, QUEUED, READING, RELAYING, WAITING
from gateway.dataplane.exchange.stream_end import TAIL_BYTES, is_whole
from gateway.dataplane.exchange.tunnel import Tunnel
from gateway.dataplane.request.assignment import decide, read_body
from gateway.dataplane.request.json_body import JsonBody, with_model
from gateway.dataplane.snapshot import Choice, RoutePlan, VariantPlan
from gateway.errors import TurnoutError
from gateway.http.fields import STATUS_LINES
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHandler, ResponseHead
from gateway.transport.limiter import ConcurrencyLimiter

if TYPE_CHECKING:
    from gateway.auth.principal import Principal
    from gateway.dataplane.client.protocol import ClientProtocol
    from gateway.dataplane.request.head import Head
    from gateway.dataplane.tracing import ShadowTrace
    from gateway.dataplane.worker import Worker

BIG: Final = 65_536
"""A body from here on is written piece by piece instead of being joined (copied)."""


class Exchange(ResponseHandler):
    """See the module. It is the `ResponseHandler` of the backend's connection and an item of the client's."""

    __slots__ = (
        "address", "answer_bytes", "answer_lines", "attempts", "backend_ms", "begun", "body", "body_bytes",
        "captured", "choice", "chunked_out", "chunks", "client", "complete", "connection", "deadline",
        "decision", "error", "error_detail", "features", "fixed", "forced", "head", "head_bytes", "head_ms",
        "hedge", "holds_place", "out", "plan", "principal", "refused", "repeated", "replayable",
        "request_id", "retries", "retrying", "revision", "route", "sent", "sent_at", "served", "shadows", "started",
        "state", "status", "sticky", "tail", "task", "total_deadline", "tried", "unit", "upload_paused",
        "waited", "wall", "whole", "worker",
    )  # fmt: skip

    body: JsonBody
    """Set where the route ``needs_body``, before anything is decided."""
    # Set by `gateway.dataplane.request.assignment`.
    choice: Choice
    plan: VariantPlan
    """The variant that is being tried: the assigned one, or one of the fallback list."""
    principal: Principal
    revision: int
    unit: int
    sticky: bool
    forced: bool

    def __init__(self, client: ClientProtocol, worker: Worker, head: Head, route: RoutePlan) -> None:
        self.client = client
        self.worker = worker
        self.head = head
        self.route = route
        self.begun = False
        self.state = READING
        self.started = head.started
        self.upgrade = head.upgrade
        self.chunks: list[bytes] = []
        self.body_bytes = 0
        self.complete = False
        self.replayable = True
        self.sent = 0
        self.out: list[bytes] = []
        self.connection: Connection | None = None
        self.address: Address | None = None
        self.task: asyncio.Task[None] | asyncio.TimerHandle | asyncio.Future[JsonBody] | None = None
        self.hedge: hedging.Hedge | asyncio.TimerHandle | None = None
        self.attempts: list[list[object]] | None = None
        self.tried: list[Address] = []
        self.retries = 0
        self.retrying = False
        self.repeated = False
        self.waited = 0.0
        self.backend_ms = 0.0
        self.head_ms = 0.0
        self.status = 0
        self.answer_bytes = 0
        self.tail = b""
        """The last bytes relayed, `TAIL_BYTES` at least if there were as many."""
        self.whole = False
        """Whether the client was sent everything that a backend had to say."""
        self.head_bytes = b""
        self.chunked_out = False
        self.error = ""
        self.error_detail = ""
        self.served = ""
        self.fixed = False
        self.features = ""
        self.upload_paused = False
        self.holds_place = False
        self.answer_lines: list[bytes] = []
        self.refused: TurnoutError | None = None
        self.deadline = NEVER
        self.captured: list[bytes] | None = None
        self.shadows: list[VariantPlan] | None = None

    # The request arrives ----------------------------------------------------------------------------
    def on_request_data(self, data: bytes) -> None:
        self.chunks.append(data)
        self.body_bytes += len(data)

    def on_request_end(self) -> None:
        self.complete = True

    def advance(self) -> None:
        """Something of the request came, and the read that brought it is over; or its turn has come."""
        if not self.begun:
            self._begin()
        elif self.state == WAITING or self.state == RELAYING:
            self._send_more()
        elif self.state == READING:
            if self.task is None and (self.complete or self.body_bytes > self.route.buffer_limit):
                read_body(self)
        elif self.body_bytes > BIG and not self.complete:
            self.pause_upload()  # there is no connection yet that takes it

    def _begin(self) -> None:
        self.begun = True
        if self.refused is not None:
            self.client.answer_error(self, self.refused)
            return
        worker = self.worker
        worker.active.add(self)
        self.wall = worker.wall()
        self.decision = worker.new_decision(self.wall)
        self.request_id = self.head.request_id or self.decision.hex().encode()
        timeouts = self.route.timeouts
        self.total_deadline = self.started + timeouts.total if timeouts.total else NEVER
        route = self.route
        if not route.needs_body:
            decide(self)
        elif self.complete or self.body_bytes > route.buffer_limit:
            read_body(self)
        else:
            self.deadline = self.total_deadline

    # Attempts ---------------------------------------------------------------------------------------
    def attempt(self) -> None:
        """Tries ``plan``: at once, or from the queue."""
        backend = self.plan.backend
        address = backend.single
        if address is None or backend.health.degraded:
            address = self._pick()
            if address is None:
                return
        self.address = address
        limiter = backend.limiter
        if limiter.in_flight >= limiter.limit.in_flight:
            self._queue(limiter)
            return
        limiter.in_flight += 1
        self.dispatch(address)

    def _pick(self) -> Address | None:
        """Where to send it; None if nowhere, which is dealt with."""
        backend = self.plan.backend
        now = perf_counter()
        stands_by = backend.health.degraded and elsewhere(self)
        address = backend.pick(now, self.tried, elsewhere=stands_by)
        if address is None:
            self._turn_away("backend_unhealthy", f"no address of {backend.name} may be used")
        return address

    def _turn_away(self, code: str, detail: str) -> None:
        """It can't even be sent."""
        self.state = CONNECTING
        self.address = None
        self.sent_at = perf_counter()
        failures.next_step(self, code, detail, sent=False)

    def _queue(self, limiter: ConcurrencyLimiter) -> None:
        if limiter.queue_full or limiter.would_time_out():
            self._turn_away(
                "backend_overloaded", f"{self.plan.backend.name} has no free place, and its queue is full"
            )
            return
        self.state = QUEUED
        self.address = None
        limiter.waiting.append(self)
        self.sent_at = perf_counter()
        self.deadline = min(self.sent_at + limiter.limit.wait, self.total_deadline)

    def on_slot(self) -> None:
        """A place became free at the backend this request queued for."""
        if self.state == QUEUED:
            self.waited += perf_counter() - self.sent_at
            backend = self.plan.backend
            address = backend.single
            if address is None or backend.health.degraded:
                address = self._pick()
                if address is None:
                    return
            self.address = address
            backend.limiter.in_flight += 1
            self.dispatch(address)

    def dispatch(self, address: Address) -> None:
        """A place at the backend is held: sends on a resting connection, or makes a new one."""
        self.holds_place = True
        address.in_flight += 1
        connection = None if self.repeated else address.take_idle()
        if connection is not None:
            self._send(connection)
            return
        self.state = CONNECTING
        connect = self.route.timeouts.connect
        self.sent_at = perf_counter()
        self.deadline = min(self.sent_at + connect, self.total_deadline) if connect else self.total_deadline
        self.task = address.connect(self)

    def on_connected(self, connection: Connection) -> None:
        if self.state != CONNECTING:
            connection.handler = None
            connection.abandon()
            return
        self.task = None
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        head, plan = self.head, self.plan
        self.connection = connection
        if self.upload_paused:
            self.resume_upload()
        connection.begin(self, head=head.method == b"HEAD")
        self.state = WAITING
        assert self.address is not None
        body, size = self.body_for(plan)
        parts = request_head(self, plan, self.address, size)
        if body:
            if head.chunked and not self.complete:
                for chunk in body:
                    parts += (b"%x\r\n" % len(chunk), chunk, b"\r\n")
            else:
                parts += body
            self.sent = len(self.chunks)
        self.sent_at = perf_counter()
        if self.body_bytes < BIG:
            connection.transport.write(b"".join(parts))
        else:
            connection.transport.writelines(parts)
        if self.complete:
            connection.sent_whole = True
        else:
            self._forget_sent()
        self._arm_first_byte()

    def _arm_first_byte(self) -> None:
        """The first-byte timer runs from the end of the request: a slow upload is not the backend's fault."""
        first = self.route.timeouts.first_byte
        if self.complete and first:
            self.deadline = min(self.sent_at + first, self.total_deadline)
        else:
            self.deadline = self.total_deadline
        if self.route.hedge_after:
            hedging.arm(self)

    def body_for(self, plan: VariantPlan) -> tuple[list[bytes], int]:
        """The body as ``plan`` wants it, and its size as far as it is here."""
        if plan.model is None:
            return self.chunks, self.body_bytes
        rewritten = with_model(b"".join(self.chunks), self.body, plan.model)
        return [rewritten], len(rewritten)

    def branch(self, address: Address, begun: float) -> None:
        """A second copy is about to be sent to ``address``; a traced request names a span of its own there."""

    def shadowing(self, plan: VariantPlan, address: Address) -> ShadowTrace | None:
        """A copy for a shadow is about to be made; a traced request keeps what its span needs."""
        return None

    def shadow_head(self, plan: VariantPlan, address: Address, size: int) -> bytes:
        """The head of a copy for a shadow; the body is known to be whole."""
        self.head.credential_lines = []  # a shadow is no place for credentials
        return b"".join(request_head(self, plan, address, size))

    def _send_more(self) -> None:
        """Body pieces that came after the head had been sent."""
        connection = self.connection
        if connection is None or connection.closed:
            return
        fresh = self.chunks[self.sent :]
        if fresh:
            if self.head.chunked:
                fresh = [part for chunk in fresh for part in (b"%x\r\n" % len(chunk), chunk, b"\r\n")]
            self.sent = len(self.chunks)
        if self.complete and not connection.sent_whole:
            connection.sent_whole = True
            if self.head.chunked:
                fresh.append(b"0\r\n\r\n")
            self.sent_at = perf_counter()
            if self.state == WAITING:
                self._arm_first_byte()
        if fresh:
            connection.transport.writelines(fresh)
            self._forget_sent()

    def _forget_sent(self) -> None:
        """Body pieces are kept only where a second attempt or a shadow may need them, and up to a limit."""
        if self.route.retains and self.body_bytes <= self.route.buffer_limit:
            return
        self.replayable = False
        if self.shadows:
            self.worker.shadow.drop(self, self.shadows, "body_too_large")
            self.shadows = self.captured = None
        self.chunks.clear()
        self.sent = 0

    def pause_upload(self) -> None:
        if not self.upload_paused:
            self.upload_paused = True
            self.client.pause_body()

    def resume_upload(self) -> None:
        if self.upload_paused:
            self.upload_paused = False
            self.client.resume_body()

    # The answer arrives -----------------------------------------------------------------------------
    def on_interim(self, status: int, lines: list[bytes]) -> None:
        # 100 was answered by us when the client asked; others are passed on to clients that can take them.
        if status != 100 and not self.head.old and not self.out and self.state == WAITING:
            self.client.write(b"".join((STATUS_LINES[status], *lines, b"\r\n")))

    def on_head(self, response: ResponseHead) -> None:
        now = perf_counter()
        self.backend_ms = (now - self.sent_at) * 1e3
        status = response.status
        if self.hedge is not None:
            hedging.end(self)
        if status >= 500:
            if not self._accept_bad(status, now):
                return
        else:
            self._accept_good(now)
        self.state = RELAYING
        self.status = status
        if self.captured is not None:
            self.answer_lines = response.lines
        self.served = self.plan.name
        client = self.client
        framing = answer_framing(self, response)
        if not self.complete:
            self.head.close = True
        self.head_ms = (now - self.started - self.waited) * 1e3 - self.backend_ms
        self.head_bytes = b"".join(
            (
                STATUS_LINES[status],
                *response.lines,
                our_lines(self),
                framing,
                client.connection_line(self.head),
                b"\r\n",
            )
        )
        idle = self.route.timeouts.idle
        self.deadline = min(now + idle, self.total_deadline) if idle else self.total_deadline
        if client.write_paused:  # by the answer before
            self.pause_answer()

    def _accept_good(self, now: float) -> None:
        address = self.address
        assert address is not None
        if self.complete:
            address.observe_latency(self.backend_ms, now)
        else:
            address.last_byte_at = now  # early: it says nothing about how long answers take
        health = self.plan.backend.health
        health.good(address, now)
        if address.stalled:
            health.recheck_stall(address, self.backend_ms, now)
        if self.error and self.plan is self.choice.variant:
            self.error = self.error_detail = ""  # a repetition has mended it

    def _accept_bad(self, status: int, now: float) -> bool:
        """False where something better than passing the error on can be done, and is."""
        assert self.address is not None
        self.address.last_byte_at = now
        failures.observe(self, "backend_status")
        if moves_on(self, status):
            assert self.connection is not None
            connection, self.connection = self.connection, None
            Discarding.start(connection, self.worker)
            failures.next_step(self, "backend_status", f"it answered {status}", sent=True, status=status)
            return False
        self.error = self.error or "backend_status"
        return True

    def on_data(self, data: bytes) -> None:
        self.answer_bytes += len(data)
        self.tail = data if len(data) >= TAIL_BYTES else (self.tail + data)[-TAIL_BYTES:]
        self.out.append(data)
        if self.captured is not None:
            self._capture(data)

    def _capture(self, data: bytes) -> None:
        assert self.captured is not None
        if self.answer_bytes <= self.worker.shadow.limits.answer:
            self.captured.append(data)
        else:
            self.captured = None

    def flush(self) -> None:
        """What one read of the backend brought goes out in one write."""
        out = self.out
        if not out:
            if self.head_bytes:
                self.client.write(self.head_bytes)
                self.head_bytes = b""
            return
        if self.chunked_out:
            size = sum(map(len, out))
            out.insert(0, b"%b%x\r\n" % (self.head_bytes, size))
            out.append(b"\r\n")
        elif self.head_bytes:
            out.insert(0, self.head_bytes)
        self.head_bytes = b""
        self.client.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.state == RELAYING and not self.client.write_paused:
            now = perf_counter()
            self._arm_idle(now)
            assert self.address is not None
            self.address.last_byte_at = now

    def on_end(self) -> None:
        if self.state != RELAYING:
            return
        out = self.out
        if self.chunked_out:
            size = sum(map(len, out))
            out.insert(0, b"%b%x\r\n" % (self.head_bytes, size) if size else self.head_bytes)
            out.append(b"\r\n0\r\n\r\n" if size else b"0\r\n\r\n")
        elif self.head_bytes:
            out.insert(0, self.head_bytes)
        self.head_bytes = b""
        self.connection = None
        if out:
            self.client.write(out[0] if len(out) == 1 else b"".join(out))
        self.whole = True
        self.leave()
        self.done()
        self.client.answered(self)

    # What goes wrong: see `gateway.dataplane.exchange.failure` ----------------------------------------------
    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        failures.on_failure(self, code, detail, idle_close=idle_close)

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        failures.expire(self, now)

    def waits_at(self, address: Address, since: float) -> bool:
        """Whether it has waited for ``address`` since before ``since``, through no fault of its client."""
        return (
            self.address is address
            and self.sent_at <= since
            and (self.state == CONNECTING or (self.state == WAITING and self.complete))
        )

    def behind(self) -> int:
        return len(self.plan.backend.limiter.waiting)

    def on_silence(self) -> None:
        """The address that it waits at has fallen silent."""
        failures.on_silence(self)

    def rewind(self) -> None:
        """What was sent must be sent again."""
        self.sent = 0

    def note(self, result: object, spent: float | None = None) -> None:
        """Keeps what came of an attempt, for the record. ``spent``: seconds, where it is not the main attempt's."""
        if self.attempts is None:
            self.attempts = []
        name = self.address.name if self.address is not None else ""
        if spent is None:
            under_way = self.state in (WAITING, CONNECTING, RELAYING)
            spent = perf_counter() - self.sent_at if under_way else 0.0
        self.attempts.append([self.plan.name, name, result, round(spent * 1e3, 3)])

    def leave(self) -> None:
        """Gives back the place at the backend, or the one in the queue."""
        if self.state == READING:
            return  # there is no plan yet
        limiter = self.plan.backend.limiter
        if self.retrying:
            self.retrying = False
            limiter.retrying -= 1
        if self.holds_place:
            self.holds_place = False
            assert self.address is not None
            self.address.in_flight -= 1
            limiter.in_flight -= 1
            if limiter.waiting:
                limiter.admit(perf_counter())
        elif self.state == QUEUED and self in limiter.waiting:
            limiter.waiting.remove(self)

    def cancel_attempt(self) -> None:
        """Ends what is under way at the backend, at once."""
        connection, self.connection = self.connection, None
        task, self.task = self.task, None
        if connection is not None:
            connection.abandon()
        if task is not None:
            task.cancel()
        if self.hedge is not None:
            hedging.end(self)
        if self.upload_paused:
            self.resume_upload()

    # Ends -------------------------------------------------------------------------------------------
    def client_lost(self) -> None:
        """The client is gone: the backend learns of it at once, and no fallback starts."""
        if self.state == DONE or not self.begun:
            self.state = DONE
            return
        state = self.state
        self.cancel_attempt()
        self.leave()
        if state == READING:
            self.state = DONE
            self.worker.active.discard(self)
            return
        self.whole = state == RELAYING and is_whole(self.tail)
        if not self.whole:
            if not self.error:
                self.error = "client_left"
            self.status = 499
            self.note("client_left")
        self.done()

    def refuse(self, error: TurnoutError) -> None:
        """The client's body is broken, too large or too slow: its fault, not the variant's."""
        state = self.state
        if not self.begun:
            self.refused = error
        elif state == RELAYING:
            self.client_lost()
            self.client.abort()
        elif state != DONE:
            self.cancel_attempt()
            fail(self, error)

    def pause_answer(self) -> None:
        if self.connection is not None:
            self.connection.pause_reading()
            self.deadline = self.total_deadline  # the backend is not slow, its answer is not being read

    def resume_answer(self) -> None:
        if self.connection is not None:
            self.connection.resume_reading()
            self._arm_idle(perf_counter())

    def _arm_idle(self, now: float) -> None:
        idle = self.route.timeouts.idle
        self.deadline = min(now + idle, self.total_deadline) if idle else self.total_deadline

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        """The backend switched protocols: from here on bytes pass unread, both ways."""
        connection, self.connection = self.connection, None
        assert connection is not None
        if self.worker.tunnels_full:  # others came first while the backend was asked
            connection.abandon()
            fail(self, TurnoutError("too_many_websockets", retry_after=1.0))
            return
        self.state = RELAYING
        self.status = 101
        self.served = self.plan.name
        self.head.close = True
        lines = b"".join(response.lines)
        Tunnel.open(
            self,
            connection,
            b"%bconnection: upgrade\r\n%b\r\n" % (STATUS_LINES[101], lines + our_lines(self)),
            data,
        )

    def done(self) -> None:
        """Records the outcome; the only place that does."""
        if self.state == DONE:
            return
        self.state = DONE
        self.deadline = NEVER
        worker = self.worker
        worker.active.discard(self)
        try:
            worker.offer(outcome(self))
            if self.shadows:
                worker.shadow.offer(self)
        except Exception as error:  # noqa: BLE001 - the client's connection must go on
            INTERNAL_ERRORS.report(error)
