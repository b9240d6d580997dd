"""Delivery of spans to a collector: a bounded queue, sent in batches by OTLP over HTTP.

https://opentelemetry.io/docs/specs/otlp/#otlphttp . A request only appends. OpenTelemetry's SDK builds and encodes
the spans in a background thread. httpx delivers them instead of the SDK's own exporter, which has neither the
gateway's TLS settings nor its counters: a collector that is away, slow or faulty costs spans, which are counted,
and nothing else. ``offered = exported + rejected + failed + dropped + waiting`` at any moment.
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
from gateway.config.files import client_context
from gateway.config.service import TracesConfig
from gateway.telemetry.tracing.spans import Spans
from gateway.telemetry.tracing.trace import Traced

log = logging.getLogger("turnout.traces")

BATCH_RECORDS: Final = 256
"""Records in one delivery; a batch is sent as soon as it is full."""
RETRYABLE_STATUSES: Final = frozenset((429, 502, 503, 504))
"""Statuses after which a batch may be sent again (OTLP); after others it is dropped."""
MAX_BATCH_AGE_S: Final = 60.0
"""Age at which a batch that could not be delivered is dropped."""
MIN_RETRY_PAUSE_S: Final = 1.0
MAX_RETRY_PAUSE_S: Final = 30.0
"""Bounds of the pause between two attempts, which doubles each time and is random by half."""
MAX_RESPONSE_BYTES: Final = 65_536
"""Bytes of a collector's response that are read."""


class Exporter:
    """Delivers the spans of one process by the settings in ``telemetry.traces``."""

    def __init__(self, settings: TracesConfig, *, counts: Counter[str], chance: Chance) -> None:
        """``counts``: spans offered | exported | rejected | failed | dropped; shared with later exporters."""
        self.settings = settings
        self.counts = counts
        self._chance = chance
        self._ring: deque[Traced] = deque()
        self._taken: list[Traced] = []
        """Records of the next batch."""
        self._batch: tuple[bytes, int] | None = None
        """The encoded batch in delivery, and its number of spans."""
        self._waiting = 0
        self._room = settings.capacity
        self._wake = asyncio.Event()
        self._spans = Spans(settings.service, settings.resource)
        self._client: httpx.AsyncClient | None = None
        self._delivering = True

    @property
    def waiting(self) -> int:
        """Spans neither delivered nor dropped yet."""
        return self._waiting

    def offer(self, record: Traced) -> None:
        """Take the record of a request. Does not wait or raise."""
        size = record.size
        self.counts["offered"] += size
        if self._waiting + size > self._room:
            self.counts["dropped"] += size
            return
        self._waiting += size
        self._ring.append(record)
        if len(self._ring) == BATCH_RECORDS:
            self._wake.set()

    # Batches ----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Deliver batches until cancelled."""
        while True:
            # Not `wait_for`: before Python 3.12 it loses a cancellation that comes as the event is set.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.flush):
                    await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Deliver or drop all that waits. May be cancelled and called again."""
        while self._batch is not None or self._taken or self._ring:
            if self._batch is None:
                self._batch = await self._build()
            if self._batch[1]:
                await self._deliver(*self._batch)
            self._batch = None

    async def _build(self) -> tuple[bytes, int]:
        """Encode the next batch; returns it and its number of spans."""
        while self._ring and len(self._taken) < BATCH_RECORDS:
            self._taken.append(self._ring.popleft())
        body, built = await asyncio.to_thread(self._spans.encoded, tuple(self._taken))
        self._settle("failed", sum(record.size for record in self._taken) - built)
        self._taken = []
        return body, built

    def _settle(self, event: str, number: int) -> None:
        self.counts[event] += number
        self._waiting -= number

    async def close(self, *, timeout: float = 2.0) -> None:
        """Refuse new records and deliver those that wait; drops and counts them after ``timeout`` seconds."""
        self._room = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.flush()
        if self._waiting:
            log.warning("%d spans could not be delivered before the end", self._waiting)
            self._settle("dropped", self._waiting)
        self._ring.clear()
        if self._client is not None:
            await self._client.aclose()

    # Deliveries -------------------------------------------------------------------------------------
    async def _deliver(self, body: bytes, size: int) -> None:
        """Send a batch until it is accepted, refused or too old.

        The pauses are random, so that gateways do not retry in step.
        """
        loop = asyncio.get_running_loop()
        expires, pause = loop.time() + MAX_BATCH_AGE_S, MIN_RETRY_PAUSE_S
        while True:
            status, content, rest = await self._post(body)
            if 200 <= status < 300:
                self._accepted(content, size)
                return
            self._report_failure(f"it responded with status {status}" if status else content.decode())
            rest = max(rest, pause * (0.5 + self._chance()))
            if (status and status not in RETRYABLE_STATUSES) or loop.time() + rest > expires:
                self._settle("failed", size)
                return
            await asyncio.sleep(rest)
            pause = min(2 * pause, MAX_RETRY_PAUSE_S)

    async def _post(self, body: bytes) -> tuple[int, bytes, float]:
        """Return status, body and the seconds to wait that the collector asks for.

        Without a response the status is 0 and the body is the reason.
        """
        s = self.settings
        headers = {**s.headers, "content-type": "application/x-protobuf", "user-agent": "turnout"}
        try:
            if self._client is None:
                self._client = self._connected()
            async with (
                asyncio.timeout(s.timeout),
                self._client.stream(
                    "POST", s.address, content=body, headers=headers, extensions=self._extensions()
                ) as response,
            ):
                return response.status_code, await _read_start(response), _retry_after(response)
        except TimeoutError:
            return 0, f"it took longer than {s.timeout:g} s".encode(), 0.0
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return 0, (str(error) or type(error).__name__).encode(), 0.0

    def _connected(self) -> httpx.AsyncClient:
        secure = self.settings.address.startswith("https:")
        context = client_context(self.settings.tls) if secure else False
        # Without proxies from the environment: the configuration names all of a gateway's endpoints.
        return httpx.AsyncClient(verify=context, timeout=self.settings.timeout, trust_env=False)

    def _extensions(self) -> dict[str, str]:
        name = self.settings.tls.server_name
        return {"sni_hostname": name} if name is not None else {}

    def _accepted(self, response: bytes, size: int) -> None:
        number, why = rejected(response)
        number = min(number, size)
        self._settle("rejected", number)
        self._settle("exported", size - number)
        if number:
            self._report_failure(f"it rejected {number} of {size} spans: {why[:200]}")
        elif not self._delivering:
            self._delivering = True
            log.info("traces are delivered to %s again", self.settings.address)

    def _report_failure(self, why: str) -> None:
        """Log a failed delivery, once until the next success; metrics count every one."""
        if self._delivering:
            self._delivering = False
            log.warning("traces can't be delivered to %s: %s", self.settings.address, why)


async def _read_start(response: httpx.Response) -> bytes:
    """The first `MAX_RESPONSE_BYTES` of a response."""
    found = b""
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > MAX_RESPONSE_BYTES:
            break
    return found[:MAX_RESPONSE_BYTES]


def _retry_after(response: httpx.Response) -> float:
    """Retry-After in seconds, capped; 0.0 if absent or given as a date."""
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_BATCH_AGE_S) if value.isascii() and value.isdigit() else 0.0


def rejected(response: bytes) -> tuple[int, str]:
    """Number of rejected spans and the reason from an ExportTraceServiceResponse; (0, "") for anything else."""
    try:
        said = ExportTraceServiceResponse.FromString(response).partial_success
    except DecodeError:
        return 0, ""
    return said.rejected_spans, said.error_message
