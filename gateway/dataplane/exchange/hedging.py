"""A second copy of a request to another address of the same backend; the first answer wins.

Only where the route says ``hedge`` and the request may be sent twice. The loser is cancelled at once, and the
record has one outcome, whose ``attempts`` name both.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.dataplane.exchange.serialize import request_head
from gateway.dataplane.exchange.states import WAITING
from gateway.transport.address import Address
from gateway.transport.base import Connection, ResponseHandler, ResponseHead

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange

BURST: Final = 10.0
"""Most copies that may be saved up while none is needed."""


def arm(x: Exchange) -> None:
    """The request is whole and sent: starts the clock, where it may be sent twice."""
    route = x.route
    if x.hedge is not None or not x.complete or not x.replayable or x.plan.backend.single is not None:
        return
    if x.upgrade:  # of two tunnels nobody could say which one is the client's
        return
    route.hedge_credit = min(route.hedge_credit + route.hedge_share, BURST)
    x.hedge = x.worker.loop.call_later(route.hedge_after, _due, x)


def _due(x: Exchange) -> None:
    x.hedge = None
    route, backend = x.route, x.plan.backend
    if x.state != WAITING or route.hedge_credit < 1.0 - 1e-9 or backend.limiter.full:
        return
    address = backend.pick(perf_counter(), (*x.tried, *((x.address,) if x.address is not None else ())))
    if address is None or address is x.address or address.stalled:
        return
    route.hedge_credit -= 1.0
    x.hedge = Hedge(x, address)
    x.hedge.start()


def end(x: Exchange) -> None:
    """The answer came, or nobody wants it any more: the copy is cancelled."""
    hedge, x.hedge = x.hedge, None
    if isinstance(hedge, Hedge):
        hedge.cancel("hedge_lost")
    elif hedge is not None:
        hedge.cancel()


def takes_over(x: Exchange, code: str) -> bool:
    """The first attempt failed: whether its copy, which is under way, goes on in its place."""
    hedge = x.hedge
    if not isinstance(hedge, Hedge) or hedge.connection is None:
        end(x)
        return False
    x.leave()
    x.note(code)
    hedge.become()
    return True


class Hedge(ResponseHandler):
    """The copy under way; the `ResponseHandler` of its connection until it wins."""

    __slots__ = ("address", "connection", "exchange", "sent_at", "task")

    def __init__(self, x: Exchange, address: Address) -> None:
        self.exchange = x
        self.address = address
        self.upgrade = b""
        self.sent_at = perf_counter()
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.address.in_flight += 1
        self.exchange.plan.backend.limiter.in_flight += 1
        connection = self.address.take_idle()
        if connection is not None:
            self.on_connected(connection)
        else:
            self.task = self.address.connect(self)

    def on_connected(self, connection: Connection) -> None:
        self.task = None
        x = self.exchange
        if x.hedge is not self:
            connection.abandon()
            return
        self.connection = connection
        connection.begin(self, head=x.head.method == b"HEAD")
        body, size = x.body_for(x.plan)
        x.branch(self.address, self.sent_at)
        connection.transport.writelines([*request_head(x, x.plan, self.address, size), *body])
        connection.sent_whole = True
        self.sent_at = perf_counter()

    def on_head(self, response: ResponseHead) -> None:
        """First: the other attempt is cancelled, and the request goes on with this one."""
        x = self.exchange
        if response.status >= 500:
            x.plan.backend.health.failed(self.address, "backend_status", perf_counter())
            self.cancel(response.status)
            x.hedge = None
            return
        x.hedge = None
        first, x.connection = x.connection, None
        if first is not None:
            first.abandon()
        x.leave()
        x.note("hedged")
        self.become()
        x.on_head(response)

    def become(self) -> None:
        """The request's one attempt is this from now on."""
        x = self.exchange
        x.hedge = None
        assert self.connection is not None
        self.connection.handler = x
        x.connection = self.connection
        x.address = self.address
        x.holds_place = True
        x.waited += self.sent_at - x.sent_at  # for the first one, which is no time of the gateway's
        x.sent_at = self.sent_at

    def on_failure(self, code: str, detail: str, *, idle_close: bool) -> None:
        x = self.exchange
        self.connection = self.task = None
        if not idle_close and code != "internal":
            x.plan.backend.health.failed(self.address, code, perf_counter())
        if x.hedge is self:
            x.hedge = None
            self._release(code)

    def cancel(self, result: object) -> None:
        """Ends it at once; ``result`` goes to the record."""
        connection, self.connection = self.connection, None
        task, self.task = self.task, None
        if connection is not None:
            connection.abandon()
        if task is not None:
            task.cancel()
        self._release(result)

    def _release(self, result: object) -> None:
        x = self.exchange
        limiter = x.plan.backend.limiter
        main, x.address = x.address, self.address
        x.note(result, perf_counter() - self.sent_at)
        x.address = main
        self.address.in_flight -= 1
        limiter.in_flight -= 1
        if limiter.waiting:
            limiter.admit(perf_counter())

    def on_tunnel(self, response: ResponseHead, data: bytes) -> None:
        self.on_failure("backend_protocol", "it switched protocols without being asked to", idle_close=False)
