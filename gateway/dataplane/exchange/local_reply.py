"""Responses of the gateway's own: to requests without a decision, and the parts of those with one."""

from __future__ import annotations

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.tracing import trace_refusal
from gateway.errors import TurnoutError, render
from gateway.http.fields import METHODS, date_line


def send_refusal(client: ClientConnection, request: PipelinedRequest, error: TurnoutError) -> None:
    """Sends an error response to a request that had no decision, and counts it."""
    head, runtime = request.head, client.runtime
    if not request.complete:
        head.close = True
    runtime.refusals[error.code] += 1
    wall = runtime.wall()
    request_id = head.request_id or runtime.new_decision(wall).hex().encode()
    body = render(error.code, error.message, request_id=request_id.decode("latin-1"))
    lines = b"%bcontent-type: application/json\r\nx-request-id: %b\r\n%b" % (
        date_line(wall),
        request_id,
        _lines_for(error),
    )
    client.begin_response(request, error.status, [lines], len(body), head.method == b"HEAD")
    client.send([body], True)
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
