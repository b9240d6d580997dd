"""The data plane on a stage: the real protocols, exchanges, pools and plans, over transports, a loop and a clock
that a test moves by hand. What comes out is kept as a transcript.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import itertools
import re
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import MemberDescriptorType
from typing import Any, cast

import pytest

from gateway.compile.prepare import View, prepare
from gateway.compile.registry import Registry
from gateway.config.load import examine
from gateway.dataplane.client.protocol import ClientProtocol
from gateway.dataplane.exchange.slot import SlotHolder
from gateway.dataplane.exchange.states import ENDED, NEW, TABLE
from gateway.dataplane.shadow.comparer import Comparer
from gateway.dataplane.shadow.dispatcher import ShadowDispatcher
from gateway.dataplane.ticker import TICK_S
from gateway.dataplane.worker import Worker
from gateway.record.events import Outcome
from gateway.telemetry.tracing.traces import Traces
from gateway.transport.address import Address
from gateway.transport.connection import BackendConnection

CONFIG = """\
listen: 127.0.0.1:0
store: sqlite:///unused.db
limits: {{header_timeout: 5s, idle_timeout: 20s, write_timeout: 5s, body_timeout: 5s}}
backends:
  a: {{url: "http://a.test:1", ejection: null}}
  b: {{url: "http://b.test:1", ejection: null}}
  narrow: {{url: "http://n.test:1", ejection: null, limit: {{in_flight: 1, waiting: 1, wait: 2s}}}}
routes:
  plain:
    match: {{path: /p}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    timeouts: {{connect: 1s, first_byte: 2s, idle: 3s, total: 30s}}
  fall:
    match: {{path: /fall}}
    variants: {{v1: {{backend: a}}, v2: {{backend: b}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    fallback: [v2]
    timeouts: {{connect: 1s, first_byte: 2s, idle: 3s, total: 30s}}
  fixed:
    match: {{path: /fixed}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    fallback: [{{respond: {{status: 200, text: "fixed"}}}}]
    timeouts: {{connect: 1s, first_byte: 2s, idle: 3s, total: 30s}}
  replay:
    match: {{path: /replay}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 2, replayable: true, backoff: {{base: 1s, max: 1s}}}}
    timeouts: {{connect: 1s, first_byte: 2s, idle: 3s, total: 30s}}
  narrow:
    match: {{path: /narrow}}
    variants: {{v1: {{backend: narrow}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    timeouts: {{connect: 1s, first_byte: 2s, idle: 3s, total: 30s}}
  body:
    match: {{path: /body}}
    unit: {{json: user}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    timeouts: {{connect: 1s, first_byte: 2s, idle: 3s, total: 4s}}
{more}
"""


class Clock:
    """`perf_counter`, `loop.time` and the wall clock of the stage."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Handle:
    def __init__(self, when: float, function: Callable[..., object], arguments: Sequence[Any]) -> None:
        self.when = when
        self.function = function
        self.arguments = arguments
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as the data plane's callbacks use."""

    def __init__(self, clock: Clock, dial: Callable[[Any], Dial]) -> None:
        self.time = clock
        self.create_task = dial  # connections are all that tasks are made for
        self._clock = clock
        self._timers: list[tuple[float, int, Handle]] = []
        self._serial = itertools.count()

    def call_later(self, delay: float, function: Callable[..., object], *arguments: Any) -> Handle:
        handle = Handle(self._clock.now + delay, function, arguments)
        heapq.heappush(self._timers, (handle.when, next(self._serial), handle))
        return handle

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> Handle:
        return self.call_later(0.0, function, *arguments)

    def create_connection(self, factory: Callable[[], BackendConnection], *_: Any, **__: Any) -> Wanted:
        return Wanted(factory())

    def run(self, until: float) -> None:
        """Everything that is due up to ``until``, in order."""
        while self._timers and self._timers[0][0] <= until:
            when, _, handle = heapq.heappop(self._timers)
            self._clock.now = max(self._clock.now, when)
            if not handle.cancelled:
                handle.function(*handle.arguments)
        self._clock.now = until


class Transport:
    """Takes bytes at once, or (while ``stuck``) not at all."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.protocol: Any = None
        self.written = b""
        """All that went out."""
        self.stuck = False
        self.held = 0
        """Bytes that wait because it is stuck."""
        self.reading = True
        self.closing = False
        self.lost = False
        self.was_reset = False
        self.high = 65_536

    # What the protocols ask -------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        assert not self.lost, "written to a connection that is gone"
        if self.closing:
            return
        self.written += data
        self.stage.wrote(self, bytes(data))
        if self.stuck:
            before, self.held = self.held, self.held + len(data)
            if before <= self.high < self.held:
                self.protocol.pause_writing()

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("cut")

    def _end(self, how: str) -> None:
        waits = self.stuck and self.held > 0
        if not self.closing or (waits and how == "cut" and not self.lost):
            self.closing = True
            self.stage.log.append(f"{self.name} {how}")
            if not waits or how == "cut":
                self.held = 0
                self.stage.loop.call_soon(self.lose, None)

    def lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.closing = self.lost = True
            self.protocol.connection_lost(error)

    def write_eof(self) -> None:
        self.stage.log.append(f"{self.name} ended")

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.held

    def get_protocol(self) -> object:
        return self.protocol

    def set_protocol(self, protocol: object) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_extra_info(self, name: str) -> object:
        return {"peername": ("192.0.2.1", 40000), "socket": self}.get(name)

    def setsockopt(self, *_: object) -> None:
        self.was_reset = True

    def fileno(self) -> int:
        return -1

    # What the other side does -----------------------------------------------------------------------
    def give(self, data: bytes) -> None:
        """Bytes arrive."""
        assert self.reading, "nobody reads"
        self.protocol.data_received(data)

    def leave(self, error: Exception | None = None) -> None:
        """The other side ends the connection; with ``error`` by a reset."""
        if not self.closing:
            self.closing = True
            self.lose(error)

    def take(self) -> None:
        """What was stuck is taken, and flows again."""
        self.stuck, self.held = False, 0
        if self.closing:
            self.lose(None)
        else:
            self.protocol.resume_writing()


class Wanted:
    """What the pool waits for: a connection that the loop is to make."""

    def __init__(self, protocol: BackendConnection) -> None:
        self.protocol = protocol

    def __await__(self) -> Generator[Wanted, None, tuple[None, BackendConnection]]:
        yield self
        return None, self.protocol


class Dial:
    """A connection being made, and the pool's task that makes it; the test says how both end."""

    def __init__(self, stage: Stage, work: Coroutine[Wanted, None, None]) -> None:
        self.stage = stage
        self.protocol = work.send(None).protocol
        self.short = stage.short(cast("Address", self.protocol.owner))
        self.over = False
        self._work: Coroutine[Wanted, None, None] | None = work
        self._listeners: list[Callable[[Any], object]] = []
        stage.log.append(f"{self.short} dialled")

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        self._listeners.append(function)

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self.stage.log.append(f"{self.short} dial cancelled")
            self.stage.loop.call_soon(self.end, asyncio.CancelledError())

    def end(self, error: BaseException | None = None) -> None:
        """The task goes on to its end: with the connection, or with ``error``."""
        work, self._work = self._work, None
        if work is None:
            return
        with contextlib.suppress(StopIteration, asyncio.CancelledError):
            if error is None:
                work.send(None)
            else:
                work.throw(error)
        for function in self._listeners:
            function(self)


class Transitions:
    """The state of attempts, each change of which must be in the table."""

    def __init__(self, slot: MemberDescriptorType) -> None:
        self._slot = slot

    def __get__(self, attempt: SlotHolder, _: object) -> int:
        return cast("int", self._slot.__get__(attempt))

    def __set__(self, attempt: SlotHolder, state: int) -> None:
        try:
            former = self._slot.__get__(attempt)
        except AttributeError:
            assert state == NEW
        else:
            assert state in TABLE[former] or state == former == ENDED, f"from {former} to {state}"
        self._slot.__set__(attempt, state)


class Stage:
    """See the module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, more: str = "") -> None:
        self.clock = Clock()
        for name, module in list(sys.modules.items()):
            if name.startswith(("gateway.dataplane", "gateway.transport")) and hasattr(
                module, "perf_counter"
            ):
                monkeypatch.setattr(module, "perf_counter", self.clock)
        slot = vars(SlotHolder)["state"]
        if isinstance(slot, MemberDescriptorType):  # compiled code does not come by a descriptor
            monkeypatch.setattr(SlotHolder, "state", Transitions(slot))
        self.loop = Loop(self.clock, self._dialled)
        self.log: list[str] = []
        self.dials: list[Dial] = []
        self.outcomes: list[Outcome] = []
        self.transports: list[Transport] = []
        self.examined = examine(CONFIG.format(more=more), env={})
        self.registry = Registry(cast("Any", self.loop), lambda *_: None)
        self.serial = itertools.count(1)
        self.chance = 0.5
        self.worker = self._worker()
        self.worker.start()

    def _worker(self) -> Worker:
        view = View(
            registry=self.registry,
            traces=Traces(chance=lambda: self.chance, wall=self.clock),
            id_prefix=lambda *_: b"",
            chance=lambda: self.chance,
            now=self.clock(),
        )
        prepared = prepare(self.examined, view, source="stage")
        self.registry.take(prepared.draft)
        snapshot = prepared.snapshot
        snapshot.revision = 1
        shadow = ShadowDispatcher(
            limits=snapshot.limits.shadow,
            pool=lambda variant: variant.backend.shadows[0],
            record=lambda _: None,
            comparer=Comparer(),
        )
        worker = Worker(
            loop=cast("Any", self.loop),
            snapshot=snapshot,
            application=cast("Any", None),
            wall=self.clock,
            random=lambda: self.chance,
            new_decision=lambda _: next(self.serial).to_bytes(16, "big"),
            seal=lambda *_: b"sealed",
            offer=self._record,
            shadow=shadow,
            addresses=lambda: tuple(self.registry.addresses.values()),
        )
        shadow.worker = worker
        return worker

    def _record(self, fields: tuple[Any, ...]) -> None:
        outcome = Outcome._make(fields)
        self.outcomes.append(outcome)
        served = outcome.served or "-"
        self.log.append(f"recorded {outcome.status} {outcome.error or 'good'} {outcome.assigned}>{served}")

    # What comes out ---------------------------------------------------------------------------------
    def wrote(self, transport: Transport, data: bytes) -> None:
        self.log.append(f"{transport.name}< {shortened(data)}")

    def take(self) -> list[str]:
        """What came out since the last call."""
        found, self.log = self.log, []
        return found

    # What goes in -----------------------------------------------------------------------------------
    def client(self, name: str = "client") -> Transport:
        transport = Transport(self, name)
        protocol = ClientProtocol(self.worker)
        transport.protocol = protocol
        self.transports.append(transport)
        protocol.connection_made(cast("Any", transport))
        return transport

    def _dialled(self, work: Coroutine[Wanted, None, None]) -> Dial:
        dial = Dial(self, work)
        self.dials.append(dial)
        return dial

    def short(self, address: Address) -> str:
        """What an address is called here."""
        shadow = any(
            known is address and of_shadow for (_, of_shadow), known in self.registry.addresses.items()
        )
        return address.endpoint.host.partition(".")[0] + ("-shadow" if shadow else "")

    def dial(self) -> Dial:
        """The oldest connection under way that was not cancelled."""
        self.dials = [dial for dial in self.dials if not dial.over]
        return self.dials.pop(0)

    def connected(self, name: str = "") -> Transport:
        """The oldest dial succeeds."""
        dial = self.dial()
        dial.over = True
        transport = Transport(self, name or dial.short)
        transport.protocol = dial.protocol
        self.transports.append(transport)
        dial.protocol.connection_made(cast("Any", transport))
        dial.end()
        return transport

    def refused(self) -> None:
        """The oldest dial fails."""
        dial = self.dial()
        dial.over = True
        dial.end(OSError(errno.ECONNREFUSED, "refused"))

    def turn(self) -> None:
        """The loop goes round: ends are noticed."""
        self.loop.run(self.clock.now)

    def wait(self, seconds: float) -> None:
        """Time passes; no tick comes late."""
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            self.loop.run(min(end, self.clock.now + TICK_S / 2))

    # What must hold ---------------------------------------------------------------------------------
    def clean(self) -> None:
        """Asserts that nothing is in flight, and that every connection that is left rests in the pool."""
        self.turn()
        assert not self.worker.active
        for address in self.registry.addresses.values():
            assert address.in_flight == 0, address.name
            assert address.connections == set(address.idle)
            assert all(connection.handler is None for connection in address.connections)
        for name, limiter in self.registry.limiters.items():
            assert (limiter.in_flight, limiter.retrying, list(limiter.waiting)) == (0, 0, []), name
        assert not [dial for dial in self.dials if not dial.over]


_OURS = re.compile(
    rb"(?:x-decision-id|x-request-id|server-timing|x-variant|forwarded|x-forwarded-\w+|via|host|"
    rb"content-type|date): [^\r]*\r\n"
)


def shortened(data: bytes) -> str:
    """A head on one line, without what every head carries; a body as it is."""
    if not data.startswith((b"HTTP/1.1 ", b"GET ", b"POST ", b"HEAD ")):
        return data.decode("latin-1")
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, fields = (_OURS.sub(b"", head + b"\r\n")).partition(b"\r\n")
    short = line.removeprefix(b"HTTP/1.1 ").removesuffix(b" HTTP/1.1").decode("latin-1")
    rest = ", ".join(field.decode("latin-1") for field in fields.split(b"\r\n") if field)
    code = re.search(rb'"code":"(\w+)"', body)
    told = code[1].decode() if code else body.decode("latin-1")
    if code:
        rest = ", ".join(field for field in rest.split(", ") if not field.startswith("content-length: "))
    return " | ".join(part for part in (short, rest, told) if part)
