"""Spans on their way to a collector: a bounded ring, written in batches by OTLP over HTTP.

https://opentelemetry.io/docs/specs/otlp/#otlphttp . A request only appends. Spans are built and encoded by
OpenTelemetry's SDK in a background thread. They are delivered by httpx rather than by the SDK's own exporter, which
knows neither our TLS settings nor how to count: a collector that is away, slow or talks nonsense costs spans, which
are counted, and nothing else. ``offered = exported + rejected + failed + dropped + waiting`` at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from typing import Final

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from gateway.clock import Chance
from gateway.config.document import TracesConfig
from gateway.config.files import client_context
from gateway.telemetry.tracing.spans import Spans
from gateway.telemetry.tracing.trace import Traced

log = logging.getLogger("turnout.traces")

BATCH: Final = 256
"""Records in one delivery; as soon as so many wait, they are sent."""
AGAIN: Final = frozenset((429, 502, 503, 504))
"""Statuses after which the same may be sent once more (OTLP); after others it is given up."""
PATIENCE: Final = 60.0
"""Seconds after which a batch that could not be delivered is given up."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries of the same batch: from the first on twice as long each time, and random by half."""
LONGEST_ANSWER: Final = 65_536
"""Most bytes of a collector's answer that are read."""


class Exporter:
    """Delivers the spans of one process, by one configuration's ``telemetry.traces``."""

    def __init__(self, settings: TracesConfig, *, counts: Counter[str], chance: Chance) -> None:
        """``counts``: by offered | exported | rejected | failed | dropped; shared with later exporters."""
        self.settings = settings
        self.counts = counts
        self._chance = chance
        self._ring: deque[Traced] = deque()
        self._taken: list[Traced] = []
        """Records of the next delivery."""
        self._batch: tuple[bytes, int] | None = None
        """What is being delivered, and how many spans that is."""
        self._waiting = 0
        self._room = settings.capacity
        self._wake = asyncio.Event()
        self._spans = Spans(settings.service, settings.resource)
        self._client: httpx.AsyncClient | None = None
        self._well = True

    @property
    def waiting(self) -> int:
        """Spans that are not yet delivered, given up or dropped."""
        return self._waiting

    def offer(self, record: Traced) -> None:
        """Takes what a request left. Never waits, never raises."""
        size = record.size
        self.counts["offered"] += size
        if self._waiting + size > self._room:
            self.counts["dropped"] += size
            return
        self._waiting += size
        self._ring.append(record)
        if len(self._ring) == BATCH:
            self._wake.set()

    # Batches ----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Delivers what is offered, until cancelled."""
        while True:
            # Not `wait_for`: until Python 3.12 it loses a cancellation that comes in the moment of the waking.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.flush):
                    await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Delivers, or gives up, all that waits. May be cancelled, and called again."""
        while self._batch is not None or self._taken or self._ring:
            if self._batch is None:
                self._batch = await self._build()
            if self._batch[1]:
                await self._deliver(*self._batch)
            self._batch = None

    async def _build(self) -> tuple[bytes, int]:
        """The next delivery, and how many spans that is."""
        while self._ring and len(self._taken) < BATCH:
            self._taken.append(self._ring.popleft())
        body, built = await asyncio.to_thread(self._spans.encoded, tuple(self._taken))
        self._settle("failed", sum(record.size for record in self._taken) - built)
        self._taken = []
        return body, built

    def _settle(self, event: str, number: int) -> None:
        self.counts[event] += number
        self._waiting -= number

    async def close(self, *, patience: float = 2.0) -> None:
        """Takes nothing more and delivers what waits; drops it, and counts it, after ``patience`` seconds."""
        self._room = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.flush()
        if self._waiting:
            log.warning("%d spans could not be delivered before the end", self._waiting)
            self._settle("dropped", self._waiting)
        self._ring.clear()
        if self._client is not None:
            await self._client.aclose()

    # Deliveries -------------------------------------------------------------------------------------
    async def _deliver(self, body: bytes, size: int) -> None:
        """Tries until it is taken, refused, or old; the pauses double, and are never the same for all of us."""
        loop = asyncio.get_running_loop()
        old, pause = loop.time() + PATIENCE, FIRST_PAUSE
        while True:
            status, answer, rest = await self._post(body)
            if 200 <= status < 300:
                self._accepted(answer, size)
                return
            self._trouble(f"it answered {status}" if status else answer.decode())
            rest = max(rest, pause * (0.5 + self._chance()))
            if (status and status not in AGAIN) or loop.time() + rest > old:
                self._settle("failed", size)
                return
            await asyncio.sleep(rest)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _post(self, body: bytes) -> tuple[int, bytes, float]:
        """(status, answer, seconds it asks us to wait); status 0 where there was none, and then the reason."""
        s = self.settings
        headers = {**s.headers, "content-type": "application/x-protobuf", "user-agent": "turnout"}
        try:
            if self._client is None:
                self._client = self._connected()
            async with (
                asyncio.timeout(s.timeout),
                self._client.stream(
                    "POST", s.address, content=body, headers=headers, extensions=self._extensions()
                ) as answer,
            ):
                return answer.status_code, await _beginning(answer), _rest(answer)
        except TimeoutError:
            return 0, f"it took longer than {s.timeout:g} s".encode(), 0.0
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return 0, (str(error) or type(error).__name__).encode(), 0.0

    def _connected(self) -> httpx.AsyncClient:
        secure = self.settings.address.startswith("https:")
        context = client_context(self.settings.tls) if secure else False
        # No proxies of the environment: a gateway's endpoints are all in its configuration.
        return httpx.AsyncClient(verify=context, timeout=self.settings.timeout, trust_env=False)

    def _extensions(self) -> dict[str, str]:
        name = self.settings.tls.server_name
        return {"sni_hostname": name} if name is not None else {}

    def _accepted(self, answer: bytes, size: int) -> None:
        number, why = rejected(answer)
        number = min(number, size)
        self._settle("rejected", number)
        self._settle("exported", size - number)
        if number:
            self._trouble(f"it rejected {number} of {size} spans: {why[:200]}")
        elif not self._well:
            self._well = True
            log.info("traces are delivered to %s again", self.settings.address)

    def _trouble(self, why: str) -> None:
        """Said once, until all is well again; the metrics count."""
        if self._well:
            self._well = False
            log.warning("traces can't be delivered to %s: %s", self.settings.address, why)


async def _beginning(answer: httpx.Response) -> bytes:
    """The answer as it came, or as much of it as anybody could want."""
    found = b""
    async for piece in answer.aiter_raw():
        found += piece
        if len(found) > LONGEST_ANSWER:
            break
    return found[:LONGEST_ANSWER]


def _rest(answer: httpx.Response) -> float:
    """Retry-After in seconds, as far as we would wait; its form as a date is not looked at."""
    value = answer.headers.get("retry-after", "")
    return min(float(value), PATIENCE) if value.isascii() and value.isdigit() else 0.0


def rejected(answer: bytes) -> tuple[int, str]:
    """What an ExportTraceServiceResponse says: how many spans were not taken, and why. (0, "") for anything else."""
    try:
        said = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return 0, ""
    return said.rejected_spans, said.error_message
