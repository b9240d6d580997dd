"""One copy of a request, on its way to a shadow."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.dataplane.snapshot import RoutePlan, VariantPlan
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHandler, ResponseHead

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange
    from gateway.dataplane.shadow.dispatcher import Shadower
    from gateway.dataplane.tracing import ShadowTrace


class Original:
    """What all copies of one request share: its body, and the primary's answer to compare with."""

    __slots__ = (
        "answer",
        "body",
        "decision",
        "holders",
        "lines",
        "primary",
        "primary_ms",
        "route",
        "size",
        "status",
        "whole",
    )

    def __init__(self, x: Exchange) -> None:
        self.decision = x.decision
        self.route: RoutePlan = x.route
        self.body = x.chunks
        self.primary = x.served
        self.primary_ms = x.backend_ms
        self.status = x.status
        self.lines = x.answer_lines
        self.answer = x.captured
        """None where there is none, or it was too long to be kept."""
        self.whole = x.whole
        self.size = x.body_bytes + (x.answer_bytes if x.captured is not None else 0)
        self.holders = 0

    def uncompared(self) -> str:
        """Why a shadow's response can't be compared with the primary's (see `comparing.UNCOMPARED`); "" if it can."""
        if not self.primary:
            return "no_variant"
        if not self.whole:
            return "cut_short"
        return "too_large" if self.answer is None else ""


class Copy:
    """One request for one shadow."""

    __slots__ = ("address", "body", "original", "plan", "request", "size", "trace")

    def __init__(self, x: Exchange, original: Original, plan: VariantPlan, address: Address) -> None:
        self.original = original
        self.address = address
        self.plan = plan
        self.body, size = x.body_for(plan)
        self.trace: ShadowTrace | None = x.shadowing(plan, address)
        self.request = x.shadow_head(plan, address, size)
        self.size = len(self.request) + (size if self.body is not original.body else 0)
        """Bytes of its own, beside the original's."""


class ShadowCall(ResponseHandler):
    """One copy under way; the `ResponseHandler` of a connection of the shadow's own pool."""

    __slots__ = (
        "_begun", "_connection", "_head_at", "_out", "_size", "_started", "_task", "copy", "deadline",
        "limit", "response", "shadower",
    )  # fmt: skip

    def __init__(self, shadower: Shadower, copy: Copy, *, timeout: float, limit: int) -> None:
        """``timeout``: seconds for the whole of it. ``limit``: the most bytes of an answer that are read."""
        self.shadower = shadower
        self.copy = copy
        self.upgrade = b""
        self.limit = limit
        self.response: ResponseHead | None = None
        self._out: list[bytes] = []
        self._size = 0
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = self._started = perf_counter()
        self._head_at = 0.0
        times = copy.original.route.timeouts
        self.deadline = self._started + min(times.total or timeout, timeout)

    def start(self) -> None:
        address = self.copy.address
        connection = address.take_idle()
        if connection is not None:
            self.on_connected(connection)
        else:
            self._task = address.connect(self)

    def on_connected(self, connection: Connection) -> None:
        self._task = None
        self._connection = connection
        self._started = perf_counter()
        copy = self.copy
        connection.begin(self, head=copy.request.startswith(b"HEAD "))
        connection.transport.writelines([copy.request, *copy.body])
        connection.sent_whole = True

    def on_silence(self) -> None: ...

    def waits_at(self, address: Address, since: float) -> bool:
        return False

    def behind(self) -> int:
        return 0

    def on_head(self, response: ResponseHead) -> None:
        self._head_at = perf_counter()
        self.response = response
        if response.length > self.limit and not response.bodiless:
            self._cut("shadow_answer_too_large")  # before it fills our buffers

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self.limit:
            self._cut("shadow_answer_too_large")
        else:
            self._out.append(data)

    def on_end(self) -> None:
        assert self.response is not None
        error = "backend_status" if self.response.status >= 500 else ""
        self.shadower.ended(self, error, b"".join(self._out))

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        self.shadower.ended(self, code, None)

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        self._cut("backend_protocol")

    def expire(self, now: float) -> None:
        self._cut("backend_total_timeout")

    def _cut(self, code: str) -> None:
        if self._connection is not None:
            self._connection.abandon()
        if self._task is not None:
            self._task.cancel()
        self.shadower.ended(self, code, None)

    @property
    def milliseconds(self) -> float:
        """To the answer's head, or to the failure."""
        return ((self._head_at or perf_counter()) - self._started) * 1e3

    def tell_trace(self, error: str) -> None:
        """It has ended; where the request is traced, so is this."""
        if self.copy.trace is not None:
            sent = self._started if self._connection is not None else 0.0
            status = self.response.status if self.response is not None else 0
            self.copy.trace.ended(self._begun, sent, self._head_at, status, error)
