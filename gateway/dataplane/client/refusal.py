"""A request that is answered with an error without being tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httptools

from gateway.errors import TurnoutError, render
from gateway.http.fields import METHODS, STATUS_LINES, date_line
from gateway.internal_errors import INTERNAL_ERRORS

if TYPE_CHECKING:
    from gateway.dataplane.client.protocol import ClientProtocol
    from gateway.dataplane.request.head import Head

DRAIN: Final = 65_536
"""A body up to this size is read to its end so that the connection can be kept; beyond it, it is closed."""


class Refusal:
    """An item in the queue of answers owed; see `gateway.dataplane.client.protocol.Item`."""

    __slots__ = ("_answered", "client", "complete", "error", "head")

    def __init__(
        self, client: ClientProtocol, head: Head, error: TurnoutError, *, last: bool = False
    ) -> None:
        """``last``: nothing after it can be understood, so there is no body to wait for."""
        self.client = client
        self.head = head
        # Its traceback would hold the frames, and with them the client's bytes, until the collector's turn.
        error.__traceback__ = error.__context__ = None
        self.error = error
        self.complete = last
        self._answered = False

    def on_request_data(self, data: bytes) -> None:
        """What is refused is not kept."""

    def on_request_end(self) -> None:
        self.complete = True

    def advance(self) -> None:
        worth_draining = not self.head.expect and 0 <= self.head.length <= DRAIN
        if not self._answered and (self.complete or not worth_draining):
            self._answered = True
            self.client.answer_error(self, self.error)

    def refuse(self, error: TurnoutError) -> None:
        """The first error stands; the body will not end."""
        self.complete = True

    def client_lost(self) -> None:
        """Nobody is left to hear it."""

    def pause_answer(self) -> None:
        """It is small: nothing to hold back."""

    def resume_answer(self) -> None:
        """See `pause_answer`."""


def error_answer(client: ClientProtocol, head: Head, error: TurnoutError) -> bytes:
    """The whole answer, as it is written to the client."""
    worker = client.worker
    wall = worker.wall()
    request_id = head.request_id or worker.new_decision(wall).hex().encode()
    body = render(error.code, error.message, request_id=request_id.decode("latin-1"))
    extra = b""
    if error.retry_after is not None:
        extra = b"retry-after: %d\r\n" % max(1, round(error.retry_after))
    if error.status == 401:
        extra += b"www-authenticate: Bearer\r\n"
    if error.status == 405:
        extra += b"allow: %b\r\n" % b", ".join(sorted(METHODS))
    return b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b" % (
        STATUS_LINES[error.status],
        date_line(wall),
        len(body),
        request_id,
        extra,
        client.connection_line(head),
        b"" if head.method == b"HEAD" else body,
    )


def complaint(error: httptools.HttpParserError, in_head: bool) -> TurnoutError:
    """What a callback of ours raised, or what the parser refused, in words: its text names the rule."""
    cause = error.__context__
    if isinstance(cause, TurnoutError):
        return cause
    if cause is not None:
        INTERNAL_ERRORS.report(cause)
        return TurnoutError("internal")
    text = str(error).strip() or "it can't be parsed"
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return TurnoutError(
            "bad_request", "The request does not begin with a known method; send valid HTTP/1.1."
        )
    if text == "Invalid HTTP version":
        return TurnoutError("http_version")
    what = "request" if in_head else "request's body"
    return TurnoutError("bad_request", f"The {what} is not valid HTTP/1.1: {text[:120]}.")
