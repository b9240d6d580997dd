"""Responses of the gateway's own: to requests without a decision, and the parts of those with one."""

from __future__ import annotations

from typing import Final

from gateway.dataplane.base import PipelinedRequest
from gateway.dataplane.tracing import trace_refusal
from gateway.errors import TurnoutError, render
from gateway.http.fields import METHODS, date_line

BODILESS: Final = (204, 304)
"""Statuses whose responses have no body, whatever a fixed response says."""


def send_reply(request: PipelinedRequest, status: int, lines: bytes, body: bytes) -> None:
    """Sends a whole response; the caller then calls `ClientConnection.responded`."""
    head, client = request.head, request.client
    if not request.complete:
        head.close = True
    bodiless = head.method == b"HEAD" or status in BODILESS
    client.begin_response(request, status, [lines], len(body), bodiless)
    client.send([body], True)


def send_refusal(request: PipelinedRequest, error: TurnoutError) -> None:
    """Sends an error response to a request that had no decision, and counts it."""
    head, client = request.head, request.client
    runtime = client.runtime
    runtime.refusals[error.code] += 1
    wall = runtime.wall()
    request_id = head.request_id or runtime.new_decision(wall).hex().encode()
    body = render(error.code, error.message, request_id=request_id.decode("latin-1"))
    lines = b"%bcontent-type: application/json\r\nx-request-id: %b\r\n%b" % (
        date_line(wall),
        request_id,
        _lines_for(error),
    )
    send_reply(request, error.status, lines, body)
    if head.trace is not None:
        trace_refusal(client, head, error)
    client.responded(request)


def retry_line(seconds: float | None) -> bytes:
    """Retry-After, in whole seconds and at least one; b"" for None."""
    return b"" if seconds is None else b"retry-after: %d\r\n" % max(1, round(seconds))


def _lines_for(error: TurnoutError) -> bytes:
    """The field lines that the status asks for."""
    lines = retry_line(error.retry_after)
    if error.status == 401:
        lines += b"www-authenticate: Bearer\r\n"
    if error.status == 405:
        lines += b"allow: %b\r\n" % b", ".join(sorted(METHODS))
    return lines
