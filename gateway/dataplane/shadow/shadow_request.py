"""One copy of a request, on its way to a shadow."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

from gateway.dataplane.exchange.attempt import Attempt, AttemptOwner, ResponseSink
from gateway.dataplane.exchange.inspection import is_client_fault
from gateway.dataplane.exchange.listener import CopyListener, ExchangeListener
from gateway.dataplane.exchange.serialize import request_head
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.request import Request
from gateway.dataplane.shadow.sink import PrimaryResult
from gateway.dataplane.snapshot import Timeouts
from gateway.dataplane.timed import NEVER
from gateway.dataplane.variant import VariantPlan
from gateway.http.grpc import judged_end, judged_head
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHead

NO_TIMEOUTS: Final = Timeouts(NEVER, NEVER, NEVER, NEVER)
"""Only the whole of a copy is timed."""
Ended = Callable[["ShadowRequest", str, "bytes | None"], None]
"""Takes the copy, its error ("" for none) and the body of its response."""


class ShadowRequest(ResponseSink, AttemptOwner):
    """One request for one shadow, over a connection of the shadow's own pool."""

    __slots__ = (
        "_begun", "_ended", "_grpc", "_head_at", "_limit", "_out", "_started", "_written", "address", "attempt",
        "listener", "parts", "plan", "primary", "response", "size",
    )  # fmt: skip

    attempt: Attempt
    """Set by `start`."""

    def __init__(
        self,
        request: Request,
        body: Body,
        primary: PrimaryResult,
        plan: VariantPlan,
        address: Address,
        listener: ExchangeListener | None,
    ) -> None:
        self.primary = primary
        self.address = address
        self.plan = plan
        chunks, size = body.for_variant(plan)
        self.listener: CopyListener | None = None
        if listener is not None:
            self.listener = listener.copy_ready(plan, address)
        head = b"".join(request_head(request, body, plan, address, size, shadow=True))
        self.parts = [head, *chunks]
        self.size = len(head) + (size if chunks is not primary.body else 0)
        """Bytes of its own, besides those of ``primary``."""
        self.response: ResponseHead | None = None
        self._grpc = request.head.grpc
        self._head_at = 0.0
        self._out: list[bytes] = []
        self._written = False

    def start(self, *, timeout: float, limit: int, ended: Ended) -> Attempt:
        """Sends it.

        Args:
            timeout: Seconds for the whole of it.
            limit: Bytes of a response that are read.
            ended: Called once, when it is over.
        """
        self._begun = self._started = now = perf_counter()
        self._limit = limit
        self._ended = ended
        total = self.primary.route.timeouts.total
        self.attempt = attempt = Attempt(
            self,
            self.plan,
            NO_TIMEOUTS,
            now + min(total, timeout),
        )
        return attempt

    # Its attempt ------------------------------------------------------------------------------------
    def on_ready(self, attempt: Attempt, connection: Connection, address: Address) -> None:
        self._started = perf_counter()
        self._written = True
        head, *body = self.parts
        connection.send_request(attempt, head.startswith(b"HEAD "), [head], body)
        attempt.sent(self._started)

    def on_head(self, attempt: Attempt, response: ResponseHead) -> None:
        self._head_at = perf_counter()
        self.response = response
        if self._grpc and response.judged < 400:
            response.judged, response.status_due = judged_head(
                response.lines, response.status, over=response.statusless
            )
        if response.length > self._limit and not response.bodiless:
            self._cut("shadow_answer_too_large")  # before it fills our buffers
        else:
            attempt.accept(self)

    def on_data(self, data: bytes) -> None:
        self._limit -= len(data)
        if self._limit < 0:
            self._cut("shadow_answer_too_large")
        else:
            self._out.append(data)

    def flush(self) -> bool:
        return False

    def on_end(self, attempt: Attempt, trailers: bytes) -> None:
        response = self.response
        assert response is not None
        attempt.release()
        response.judged = judged_end(trailers, response.judged, due=response.status_due)
        status, body = response.judged, b"".join(self._out)
        bad = status >= 500 and not is_client_fault(body, self.primary.route.client_errors.get(status, ()))
        self._ended(self, "backend_status" if bad else "", body)

    def on_failure(self, attempt: Attempt, code: str, detail: str, *, idle_close: bool) -> None:
        attempt.leave()
        self._ended(self, code, None)

    def on_tunnel(self, attempt: Attempt, response: ResponseHead, data: bytes) -> None:
        self._cut("backend_protocol")

    def on_expired(self, attempt: Attempt, code: str) -> None:
        self._cut("backend_total_timeout")

    def _cut(self, code: str) -> None:
        self.attempt.cancel()
        self.attempt.leave()
        self._ended(self, code, None)

    @property
    def latency_ms(self) -> float:
        """Milliseconds to the response's head, or to the failure."""
        return ((self._head_at or perf_counter()) - self._started) * 1e3

    def report(self, error: str) -> None:
        """Tells the listener, if the request has one, that the copy is over."""
        if self.listener is not None:
            sent = self._started if self._written else 0.0
            status = self.response.judged if self.response is not None else 0
            self.listener.ended(self._begun, sent, self._head_at, status, error)
