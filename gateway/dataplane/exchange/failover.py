"""What follows a failed attempt: a retry, the next variant of the fallback list, or an error response.

It is decided by what failed, by what the client has had (nothing yet) and by whether it is still there. The way of a
failure: `Attempt.on_failure` or `Attempt.expire`, `on_failure` or `on_expired` here, `_next` (it asks `Recovery` what
may be done), `_retry` or `_new_attempt`, then `Attempt.start`, as for the first one.
"""

from __future__ import annotations

from time import perf_counter

from gateway.dataplane.exchange.attempt import Attempt
from gateway.dataplane.exchange.base import ExchangeBase
from gateway.dataplane.exchange.discard import Discard
from gateway.dataplane.exchange.recovery import Recovery
from gateway.dataplane.exchange.states import CONNECTING, QUEUED, RELAYING, WAITING
from gateway.dataplane.variant import FixedResponse, VariantPlan
from gateway.errors import CODES, TurnoutError, render
from gateway.http.grpc import error_lines
from gateway.record.usage import UsageReader
from gateway.transport.address import Address


class Failover(ExchangeBase):
    """An exchange whose attempts may fail."""

    __slots__ = ()

    # Attempts ----------------------------------------------------------------------------------------
    def _new_attempt(self, plan: VariantPlan) -> Attempt:
        request = self.request
        if request.route.reads_usage:
            self.relay.usage = UsageReader(self.head.started)
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

    # Failures ----------------------------------------------------------------------------------------
    def on_failure(self, attempt: Attempt, code: str, detail: str, *, idle_close: bool) -> None:
        if attempt is not self.attempt:  # the hedge: the first attempt goes on
            # An idle close is not a failure (RFC 9112 9.3.1).
            if not idle_close:
                attempt.observe_failure(code)
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
        connection, attempt.connection = attempt.connection, None
        # A backend that has read nothing of a request has not executed it, so it is as good as not sent.
        sent = CODES[code].sent and not (
            self.body.replayable and connection is not None and connection.unread
        )
        if not idle_close or attempt.repeated:  # not a race, if it came twice
            attempt.observe_failure(code)
        if self._hedge is not None and self._hedge.under_way:
            self._promote(code)
            return
        self._next(attempt, code, detail, sent=sent)

    def on_expired(self, attempt: Attempt, code: str) -> None:
        state = attempt.state
        if self.request.given_up(perf_counter()) and state != RELAYING:
            self._note(attempt, "client_left", perf_counter())
            self._error = self._error or "client_left"
            self._fail(TurnoutError("client_left", "The deadline that the client set has passed."))
        elif state == QUEUED:
            self._next(attempt, code, "it waited for a free place for the maximum time", sent=False)
        # The backend waits for the client's body.
        elif state == WAITING and not self.body.complete:
            self._fail(TurnoutError("request_timeout"))
        elif state != RELAYING:
            attempt.observe_failure(code)
            self._next(attempt, code, "", sent=state == WAITING)
        elif self.client.write_paused or not self.body.complete or self.request.given_up(perf_counter()):
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
        plan, late = attempt.plan, now >= self.request.total_deadline
        # Before its own slot is given back, like what let it leave a stalled address or an error of the backend.
        again = not late and recovery.may_retry(attempt, code, status, sent=sent)
        self._end_hedge("hedge_lost")
        self._note(attempt, status or code, now)
        recovery.waited += attempt.waited
        if attempt.state in (WAITING, CONNECTING, QUEUED):
            recovery.waited += now - attempt.since
        self._let_go(attempt, code)
        if detail:  # addresses are not for clients
            self.runtime.failure_log.tell(plan.backend_name, code, detail, self.request.request_id)
        if plan is assignment.variant:  # what fails behind it is not its failure
            self._error = code
        if again:
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
            # Each variant has attempts of its own.
            recovery.retries = 0
            recovery.tried.clear()  # the next variant may have the same addresses
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
        runtime = self.runtime
        recovery.retries += 1
        if failed.address is not None:
            # The retry prefers another address.
            recovery.tried.append(failed.address)
        longest = self.request.route.retry.longest_pause(recovery.retries)
        attempt = self._new_attempt(failed.plan)
        attempt.delay(runtime.loop, runtime.random() * longest)

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
        # The first one's time is not the gateway's.
        self._recover().waited += first.waited + hedge.attempt.since - first.since
        self.attempt = hedge.attempt
        active.add(hedge.attempt)

    def _break_off(self, attempt: Attempt, code: str) -> None:
        """After the first byte there is no way back: the client must see that the response is not whole.

        The status of a gRPC call comes last, so it can still say why.
        """
        attempt.observe_failure(code)
        self._error = code
        self._note(attempt, code, perf_counter())
        attempt.leave()
        if self.head.grpc:
            self.relay.end(error_lines(CODES[code].status, render(code)))
            self.relay.whole = False
            self._finish()
            self.client.responded(self)
        else:
            self.relay.flush()
            self._finish()
            self.client.abort()
