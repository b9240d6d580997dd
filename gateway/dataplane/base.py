"""Base classes in which the files of the data plane meet: the process, a client's connection, a request on it.

They are native classes, not protocols: compiled code then calls their methods through a table instead of by name.
No file of the data plane that imports this one is imported by it.

A second protocol than HTTP/1.1 (`gateway.dataplane.client.protocol`) subclasses `ClientConnection` for whatever
carries one response at a time (for HTTP/2: one object for each stream) and does this:

- It fills a `Head` (`Head.take` for each field that is in ``snapshot.actions``, ``lines`` for the others, then
  `Head.settle`) and hands it to `gateway.dataplane.client.classify.classify`, which returns a `PipelinedRequest`.
- It hands the body on: `PipelinedRequest.on_request_data` for each piece, `on_request_end` once, and `advance` after
  each batch of these, but only while the response of this request is the next one owed.
- It implements every method of `ClientConnection` that raises NotImplementedError here. Field lines arrive as whole
  HTTP/1.1 lines (``b"name: value\\r\\n"``); those that concern one HTTP/1.1 connection are never among them.
- It calls `Runtime.opened` and `Runtime.closed`, and `PipelinedRequest.client_lost` for each request that is still
  owed a response when the client goes, or resets its stream.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from gateway.clock import Clock
from gateway.dataplane.client.forwarding import Forwarding
from gateway.dataplane.exchange.failure_log import FailureLog
from gateway.dataplane.request.head import Head
from gateway.dataplane.request.json_body import JsonBody
from gateway.dataplane.shadow.sink import ShadowSink
from gateway.dataplane.snapshot import Snapshot
from gateway.dataplane.timed import Timed
from gateway.errors import TurnoutError
from gateway.record.usage import UsageReader
from gateway.runtime.loop_load import Load
from gateway.runtime.side_process import SideProcess

Role = Literal["all", "data", "control"]
"""What a listening socket serves."""


class TunnelEnd:
    """One side of an upgraded connection, as the connection of that side sees it."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        raise NotImplementedError

    def pause_writing(self) -> None:
        raise NotImplementedError

    def resume_writing(self) -> None:
        raise NotImplementedError

    def check(self, now: float) -> None:
        """Ends the tunnel if it is idle, too old or no longer allowed. Called about once a second."""
        raise NotImplementedError


class Runtime:
    """What all connections of one process share. `gateway.dataplane.worker.Worker` is the one there is."""

    loop: asyncio.AbstractEventLoop
    snapshot: Snapshot
    """The configuration in force; a request keeps the one with which it began."""
    application: Callable[..., Any]
    """The control API, an ASGI application."""
    wall: Clock
    random: Callable[[], float]
    new_decision: Callable[[float], bytes]
    seal: Callable[[bytes, int, bytes], bytes]
    offer: Callable[[Any], None]
    """Takes the outcome of each request that had a decision."""
    offer_usage: Callable[[Any, bytes, UsageReader], None]
    """Takes the outcome, the features and the token counts of a response."""
    shadow: ShadowSink
    load: Load
    failure_log: FailureLog
    body_reader: SideProcess[JsonBody]
    active: set[Timed]
    connections: set[ClientConnection]
    unread: set[ClientConnection]
    """Connections that are not being read, whose end would go unnoticed."""
    tunnels: set[Any]
    control_tasks: set[asyncio.Task[None]]
    undecided: Counter[tuple[str, str]]
    """Requests that were no decisions, by route and class of the status."""
    refusals: Counter[str]
    """Responses to requests that had no decision, by error code."""
    draining: bool

    @property
    def tunnels_full(self) -> bool:
        """Whether there are as many WebSockets as there may be."""
        return len(self.tunnels) >= self.snapshot.limits.websockets

    def opened(self, connection: ClientConnection) -> bool:
        """Adds a connection; returns whether it is above the limit and gets an error response only."""
        raise NotImplementedError

    def closed(self, connection: ClientConnection) -> None:
        """Removes a connection."""
        raise NotImplementedError


class ClientConnection(asyncio.Protocol):
    """What carries responses to one client, one at a time: an HTTP/1.1 connection, or a stream of another protocol."""

    __slots__ = (
        "forwarding", "lost", "now", "role", "runtime", "snapshot", "surplus", "transport", "write_paused"
    )  # fmt: skip

    runtime: Runtime
    snapshot: Snapshot
    """The configuration of the request that is being read."""
    transport: asyncio.Transport
    forwarding: Forwarding
    """The peer's address, the scheme, and what backends get to know of them."""
    role: Role
    surplus: bool
    """Whether it came above the limit of connections."""
    now: float
    """`perf_counter` at the last read."""
    write_paused: bool
    """Whether the client takes no more for now; `PipelinedRequest.pause_response` has told the request."""
    lost: bool
    """Whether the client is gone; writing does nothing then."""

    # Responses --------------------------------------------------------------------------------------
    def send_interim(self, status: int, lines: list[bytes]) -> None:
        """Sends a 1xx response before the final one."""
        raise NotImplementedError

    def begin_response(
        self, request: PipelinedRequest, status: int, lines: list[bytes], length: int, bodiless: bool
    ) -> None:
        """Takes the head of a final response; it leaves with the next `send`.

        Args:
            request: Whose response it is.
            status: 200 to 599.
            lines: All fields but those that frame the message; an element may hold several lines, and the last is of
                this response alone. It may be changed.
            length: Bytes of the body (of a HEAD or 304: that it would have); -1 if unknown.
            bodiless: Whether no body follows, whatever ``length`` says.
        """
        raise NotImplementedError

    def send(self, data: list[bytes], end: bool) -> None:
        """Sends the head that waits, if any, and a part of the body, in one write.

        ``data`` may be changed. ``end``: nothing follows; the caller then calls
        `responded`.
        """
        raise NotImplementedError

    def send_trailers(self, data: list[bytes], lines: bytes) -> None:
        """As `send` with the end, and whole field lines behind it; dropped by default."""
        self.send(data, end=True)

    def responded(self, request: PipelinedRequest) -> None:
        """The response of ``request`` is out: the next request gets its turn, or the connection ends."""
        raise NotImplementedError

    def abort(self) -> None:
        """Ends the response in flight such that the client can't take it for complete."""
        raise NotImplementedError

    # The request's body -----------------------------------------------------------------------------
    def pause_body(self) -> None:
        """Reads no more of the body until `resume_body`."""
        raise NotImplementedError

    def resume_body(self) -> None:
        raise NotImplementedError

    # Upgrades; only a connection whose heads can have ``upgrade`` needs these -------------------------
    def open_tunnel(self, end: TunnelEnd) -> bytes:
        """From here on bytes go to ``end``; returns those that came before, and must be sent first."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        raise NotImplementedError

    # The process ------------------------------------------------------------------------------------
    def check(self, now: float) -> None:
        """Ends what takes too long, or responds to it. Called about once a second; ``now`` is of `perf_counter`."""
        raise NotImplementedError

    def end(self) -> None:
        """The process ends now: requests in flight are cut short, then the connection ends."""
        raise NotImplementedError


class PipelinedRequest:
    """A request whose response is owed to a client; see `gateway.dataplane.client.classify`."""

    __slots__ = ()

    client: ClientConnection
    head: Head
    body_limit: int
    """Bytes of a body that are accepted."""

    @property
    def complete(self) -> bool:
        """Whether the request has arrived whole."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether the response is out, so that the connection should know of it."""
        return False

    # The request arrives ----------------------------------------------------------------------------
    def on_request_data(self, data: bytes) -> None:
        """Takes a part of the body."""
        raise NotImplementedError

    def on_request_end(self) -> None:
        """The body is whole."""
        raise NotImplementedError

    def advance(self) -> None:
        """Its response is the next one owed, and it has just become so or something of the request came."""
        raise NotImplementedError

    def refuse(self, error: TurnoutError) -> None:
        """The rest of the request can't be read: the body is malformed, too large or too slow."""
        raise NotImplementedError

    # The client -------------------------------------------------------------------------------------
    def client_lost(self) -> None:
        """The client is gone."""
        raise NotImplementedError

    def cut_short(self) -> None:
        """The process ends before the response is out."""

    def pause_response(self) -> None:
        """The client takes no more for now."""

    def resume_response(self) -> None:
        """The client takes more again."""
