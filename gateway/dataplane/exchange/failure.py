"""What happens when an attempt fails: a repetition, the next variant, an error answer, or a cut.

What may be done is decided in `gateway.dataplane.exchange.retry_policy`; here it is done.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.dataplane.exchange import hedging
from gateway.dataplane.exchange.discard import Straggler
from gateway.dataplane.exchange.local_reply import answer_fixed, fail
from gateway.dataplane.exchange.retry_policy import (
    fallback_to,
    other_address,
    repeat_safe,
    retry_wanted,
)
from gateway.dataplane.exchange.states import BACKOFF, CONNECTING, DONE, QUEUED, READING, RELAYING, WAITING
from gateway.dataplane.snapshot import Fixed
from gateway.errors import CODES, TurnoutError

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange


def on_failure(x: Exchange, code: str, detail: str, *, idle_close: bool) -> None:
    """The attempt's connection, or the making of one, failed. ``idle_close``: see `ResponseHandler.on_failure`."""
    connection, x.connection = x.connection, None
    x.task = None
    state = x.state
    if state == DONE:
        return
    if state == RELAYING:
        broke_off(x, code, detail)
        return
    unread = connection is not None and connection.unread
    if idle_close and not x.repeated and x.replayable and (unread or repeat_safe(x)):
        # The idle-close race: nobody's fault, so once more on a new connection to the same place.
        x.repeated = True
        assert x.address is not None
        x.address.in_flight -= 1  # `dispatch` counts it again
        x.rewind()
        x.dispatch(x.address)
        return
    if not idle_close:
        observe(x, code)
    if x.hedge is not None and hedging.takes_over(x, code):
        return
    next_step(x, code, detail, sent=CODES[code].sent)


def expire(x: Exchange, now: float) -> None:
    """The deadline has passed; which one, the state tells."""
    state = x.state
    total = now >= x.total_deadline
    x.deadline = x.total_deadline
    if state == READING:
        x.cancel_attempt()
        late = (
            TurnoutError("gateway_overloaded", retry_after=1.0)
            if x.complete
            else TurnoutError("request_timeout")
        )
        fail(x, late)
    elif state == QUEUED:
        next_step(x, "backend_overloaded", "it waited for a free place for the maximum time", sent=False)
    elif state == BACKOFF:
        x.cancel_attempt()
        next_step(x, "backend_total_timeout", "", sent=False)
    elif state == CONNECTING:
        _too_long(x, "backend_total_timeout" if total else "backend_connect_timeout", sent=False)
    elif state == WAITING and not x.complete:
        x.cancel_attempt()
        fail(x, TurnoutError("request_timeout"))
    elif state == WAITING:
        _too_long(x, "backend_total_timeout" if total else "backend_first_byte_timeout", sent=True)
    elif state == RELAYING and (x.client.write_paused or not x.complete):
        x.client_lost()  # it does not read, or does not send: the backend waits for it
        x.client.abort()
    elif state == RELAYING:
        x.cancel_attempt()
        broke_off(x, "backend_total_timeout" if total else "backend_idle_timeout", "")


def _too_long(x: Exchange, code: str, *, sent: bool) -> None:
    x.cancel_attempt()
    observe(x, code)
    next_step(x, code, "", sent=sent)


def on_silence(x: Exchange) -> None:
    """The address that ``x`` waits at has fallen silent: it goes elsewhere, if it may and there is somewhere."""
    if not x.plan.backend.health.stall_detection:
        return
    sent = x.state == WAITING
    again = other_address(x) and retry_wanted(x, "backend_stalled", 0, sent=sent)
    if not again and fallback_to(x, "backend_stalled", 0, sent=sent) is None:
        return
    assert x.address is not None
    silent = perf_counter() - max(x.address.last_byte_at, x.sent_at)
    detail = f"{x.address.name} has been silent for {silent:.3f} s"
    if x.connection is not None and Straggler.wanted(x.address):
        connection, x.connection = x.connection, None
        Straggler.start(connection, x)
    x.cancel_attempt()
    next_step(x, "backend_stalled", detail, sent=sent)


def broke_off(x: Exchange, code: str, detail: str) -> None:
    """After the first byte there is no way back: the client must see that the answer is not whole."""
    observe(x, code)
    x.leave()
    x.error = code
    x.error_detail = detail
    x.note(code)
    x.done()
    x.client.abort()


def cut_short(x: Exchange) -> None:
    """The process ends before ``x`` does, which is nobody's fault: an error answer if nothing went out yet."""
    state = x.state
    if state == DONE or not x.begun:
        return
    x.cancel_attempt()
    if state != READING:
        x.leave()
        x.error = x.error or "draining"
        x.note("draining")
    if state == RELAYING:
        x.done()
        x.client.abort()
    else:
        fail(x, TurnoutError("draining", retry_after=1.0))


def next_step(x: Exchange, code: str, detail: str, *, sent: bool, status: int = 0) -> None:
    """A retry, the next variant of the fallback list, or an error answer. ``status``: of a bad answer, else 0."""
    x.leave()
    x.note(status or code)
    if detail:  # addresses are not for clients
        x.worker.failure_log.tell(x.plan.backend_name, code, detail, x.request_id)
    if x.state in (WAITING, CONNECTING, QUEUED):
        x.waited += perf_counter() - x.sent_at
    if x.plan is x.choice.variant:
        x.error = code
        x.error_detail = detail
    spent = perf_counter() >= x.total_deadline
    if not spent and retry_wanted(x, code, status, sent=sent):
        _retry(x)
        return
    after = fallback_to(x, code, status, sent=sent)
    if isinstance(after, Fixed):  # costs no time, so it serves even when none is left
        answer_fixed(x, after)
    elif spent:
        total = TurnoutError(
            "backend_total_timeout", f"{x.plan.name}: the total time of the request is over; try again."
        )
        fail(x, total)
    elif after is None:
        wait = x.plan.backend.limiter.drain_time() if CODES[code].status == 503 else None
        fail(x, TurnoutError(code, retry_after=wait))
    else:
        x.plan = after
        x.retries = 0
        x.repeated = False
        x.tried.clear()
        x.rewind()
        x.attempt()


def _retry(x: Exchange) -> None:
    """After a random pause of up to base · 2^(n-1): full jitter, so that failures do not come back in step."""
    x.retries += 1
    x.retrying = True
    x.plan.backend.limiter.retrying += 1
    if x.address is not None:
        x.tried.append(x.address)
    x.rewind()
    route = x.route
    ceiling = min(route.backoff_max, route.backoff_base * 2.0 ** (x.retries - 1))
    x.state = BACKOFF
    x.sent_at = perf_counter()
    x.deadline = x.total_deadline
    x.task = x.worker.loop.call_later(x.worker.random() * ceiling, _again, x)


def _again(x: Exchange) -> None:
    x.task = None
    if x.state == BACKOFF:
        x.waited += perf_counter() - x.sent_at
        x.attempt()


def observe(x: Exchange, code: str) -> None:
    """Tells the backend's health that an attempt failed."""
    if x.address is not None and code != "internal":
        x.plan.backend.health.failed(x.address, code, perf_counter())
