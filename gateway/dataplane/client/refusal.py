"""A request that gets an error response without being tried."""

from __future__ import annotations

from typing import Final

import httptools

from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.exchange.local_reply import send_refusal
from gateway.dataplane.request.head import Head
from gateway.errors import TurnoutError
from gateway.internal_errors import INTERNAL_ERRORS

MAX_DRAIN_BYTES: Final = 65_536
"""A refused body up to this size is read to its end, so that the connection can be kept."""


class Refusal(PipelinedRequest):
    """A request that gets an error response without being tried."""

    __slots__ = ("_complete", "_responded", "body_limit", "client", "error", "head")

    def __init__(
        self, client: ClientConnection, head: Head, error: TurnoutError, *, last: bool = False
    ) -> None:
        """``last``: nothing after it can be understood, so there is no body to wait for."""
        self.client = client
        self.head = head
        # Its traceback would hold the frames, and with them the client's bytes, until the collector's turn.
        error.__traceback__ = error.__context__ = None
        self.error = error
        self.body_limit = client.snapshot.limits.control_body
        self._complete = last
        self._responded = False

    @property
    def complete(self) -> bool:
        return self._complete

    def on_request_data(self, data: bytes) -> None:
        """Drops it."""

    def on_request_end(self) -> None:
        self._complete = True

    def advance(self) -> None:
        # A client that waits for 100 Continue has sent no body; the response makes it send none.
        worth_draining = not self.head.expect and 0 <= self.head.length <= MAX_DRAIN_BYTES
        if not self._responded and (self._complete or not worth_draining):
            self._responded = True
            send_refusal(self, self.error)

    def refuse(self, error: TurnoutError) -> None:
        """Keeps the first error; no end of the body will come."""
        self._complete = True

    def client_lost(self) -> None:
        """Does nothing: nothing is in flight."""


def parse_error(error: httptools.HttpParserError, in_head: bool) -> TurnoutError:
    """The error response for what a callback raised, or for what the parser refused: its text names the rule."""
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
