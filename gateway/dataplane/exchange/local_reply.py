"""Answers of the gateway's own to a request that had its decision: errors, and fixed ones."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.dataplane.exchange.serialize import our_lines
from gateway.dataplane.exchange.states import DONE, READING
from gateway.dataplane.snapshot import Fixed
from gateway.errors import TurnoutError, render
from gateway.http.fields import STATUS_LINES, date_line

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange


def fail(x: Exchange, error: TurnoutError) -> None:
    """An error answer; with a decision, with all that an answer carries."""
    x.leave()
    if x.state == READING:
        x.state = DONE
        x.worker.active.discard(x)
        x.client.answer_error(x, error)
        return
    x.status = error.status
    body = render(error.code, error.message, request_id=x.request_id.decode("latin-1"))
    _write(x, error.status, body, b"content-type: application/json\r\n", error.retry_after)


def answer_fixed(x: Exchange, fixed: Fixed) -> None:
    """The last resort of a fallback list."""
    x.status = fixed.status
    x.fixed = True
    _write(x, fixed.status, fixed.body, fixed.lines, None)


def _write(x: Exchange, status: int, body: bytes, lines: bytes, retry_after: float | None) -> None:
    client = x.client
    if not x.complete:
        x.head.close = True
    x.head_ms = (perf_counter() - x.started - x.waited) * 1e3
    x.backend_ms = x.waited * 1e3
    x.answer_bytes = len(body)
    # A bodiless status has no body, whatever a fixed answer says.
    body_out = b"" if x.head.method == b"HEAD" or status in (204, 304) else body
    length = b"" if status == 204 else b"content-length: %d\r\n" % len(body)
    retry = b"retry-after: %d\r\n" % max(1, round(retry_after)) if retry_after is not None else b""
    parts = (
        STATUS_LINES[status],
        date_line(x.wall),
        lines,
        our_lines(x),
        retry,
        length,
        client.connection_line(x.head),
        b"\r\n",
    )
    client.write(b"".join((*parts, body_out)))
    x.done()
    client.answered(x)
