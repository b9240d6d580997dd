"""The exporter before a real collector: well, away, slow, refusing, talking nonsense, behind TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.children import free_port
from gateway.config.service import TracesConfig
from gateway.telemetry.tracing import exporter as module
from gateway.telemetry.tracing.context import Context
from gateway.telemetry.tracing.exporter import Exporter
from gateway.telemetry.tracing.trace import Asked, Refused, Trace
from tests.telemetry.collector import GOOD, Answer, Collector, collector, partial
from tests.wire.test_tls import certificate


@pytest.fixture
def to() -> Iterator[Collector]:
    with collector() as found:
        yield found


@asynccontextmanager
async def exporting(to: Collector | int, *, end: float = 0.2, **options: Any) -> AsyncIterator[Exporter]:
    """An exporter at work; afterwards every span that it was offered is accounted for.

    ``end``: how many seconds it may take at its end to deliver what waits.
    """
    port = to if isinstance(to, int) else to.port
    given = {"endpoint": f"http://127.0.0.1:{port}", "flush": 0.02, **options}
    made = Exporter(TracesConfig.model_validate(given), counts=Counter(), chance=lambda: 0.5)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close(timeout=end)
        c = made.counts
        assert made.waiting == 0
        assert c["offered"] == c["exported"] + c["rejected"] + c["failed"] + c["dropped"]


def record(number: int = 1) -> Refused:
    trace = Trace(Context(number.to_bytes(16, "big"), b"12345678", 1), b"", None)
    asked = Asked(b"GET", b"/", b"test", b"http", False, "::1", "::1", [])
    return Refused(trace, asked, 404, "unknown_route", 1.0, 2.0, 1e9)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector in trouble is tried for half a second instead of a minute."""
    monkeypatch.setattr(module, "MAX_BATCH_AGE_S", 0.5)
    monkeypatch.setattr(module, "MIN_RETRY_PAUSE_S", 0.05)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector in trouble is tried for a minute, many times a second."""
    monkeypatch.setattr(module, "MIN_RETRY_PAUSE_S", 0.05)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "turnout.traces"]


async def test_what_is_offered_arrives(to: Collector) -> None:
    options: dict[str, Any] = {
        "headers": {"authorization": "Bearer x"},
        "service": "edge",
        "resource": {"zone": "a", "host.name": "h"},
    }
    async with exporting(to, **options) as made:
        for number in range(1, 2001):
            made.offer(record(number))
        await until(lambda: made.counts["exported"] == 2000)
    spans = to.spans
    assert sorted(int(s.trace_id, 16) for s in spans) == list(range(1, 2001))
    about = spans[0].resource
    assert (about["service.name"], about["zone"], about["host.name"]) == ("edge", "a", "h")
    assert about["process.pid"] > 0
    assert len(about["service.instance.id"]) == 36
    path, fields = to.heads[0]
    assert path == "/v1/traces"
    assert fields["content-type"] == "application/x-protobuf"
    assert fields["authorization"] == "Bearer x"
    assert len(to.bodies) < 10


async def test_many_are_sent_before_the_time_is_up(to: Collector) -> None:
    async with exporting(to, end=60.0, flush=60.0) as made:
        for number in range(module.BATCH_RECORDS):
            made.offer(record(number + 1))
        await until(lambda: made.counts["exported"] == module.BATCH_RECORDS)
        made.offer(record())
        await asyncio.sleep(0.1)
        assert made.waiting == 1
    assert made.counts["exported"] == module.BATCH_RECORDS + 1  # the last one at the end


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [("", "/v1/traces"), ("/", "/v1/traces"), ("/otlp/v1/traces", "/otlp/v1/traces"), ("/x/", "/x/")],
)
async def test_where_spans_go(to: Collector, endpoint: str, path: str) -> None:
    async with exporting(to, endpoint=f"http://localhost:{to.port}{endpoint}") as made:
        made.offer(record())
        await until(lambda: made.counts["exported"])
    assert [head for head, _ in to.heads] == [path]


async def test_what_is_too_much_is_dropped_and_counted(to: Collector) -> None:
    async with exporting(to, end=60.0, capacity=100, flush=60.0) as made:
        for number in range(150):
            made.offer(record(number + 1))
        assert made.counts == {"offered": 150, "dropped": 50}
        assert made.waiting == 100
    assert made.counts["exported"] == 100
    assert max(int(s.trace_id, 16) for s in to.spans) == 100  # the newest are dropped


@pytest.mark.long
@pytest.mark.usefixtures("quick")
async def test_a_collector_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    async with exporting(port) as made:
        made.offer(record(1))
        await until(lambda: made.counts["failed"] == 1)
        made.offer(record(2))
        await until(lambda: made.counts["failed"] == 2)
        ((level, text),) = said(caplog)
        assert level == "WARNING"
        assert f"http://127.0.0.1:{port}/v1/traces" in text
        with collector(port) as to:
            made.offer(record(3))
            await until(lambda: made.counts["exported"])
            assert [int(s.trace_id, 16) for s in to.spans] == [3]
        assert [level for level, _ in said(caplog)] == ["WARNING", "INFO"]


@pytest.mark.usefixtures("often")
async def test_what_could_not_be_delivered_at_first_is_once_the_collector_is_back() -> None:
    port = free_port()
    async with exporting(port) as made:
        made.offer(record())
        await asyncio.sleep(0.1)
        assert made.waiting == 1
        with collector(port) as to:
            await until(lambda: made.counts["exported"] == 1)
            assert len(to.spans) == 1


def answers(*given: Answer) -> Callable[[], Answer]:
    left = list(given)
    return lambda: left.pop(0) if left else GOOD


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_be_repeated_is(to: Collector, status: int) -> None:
    to.answer = answers((status, {}, b""), (status, {}, b""))
    async with exporting(to) as made:
        made.offer(record())
        await until(lambda: made.counts["exported"] == 1)
    assert len(to.heads) == 3


@pytest.mark.usefixtures("often")
async def test_the_collector_says_when(to: Collector) -> None:
    to.answer = answers((429, {"retry-after": "0"}, b""), (503, {"retry-after": "100"}, b""))
    async with exporting(to) as made:
        made.offer(record())
        await until(lambda: made.counts["failed"] == 1)  # that is longer than a batch is kept
    assert len(to.heads) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 302])
async def test_what_is_refused_is_not_repeated(
    to: Collector, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    to.answer = answers((status, {"location": "http://192.0.2.1/"}, b""))
    async with exporting(to) as made:
        made.offer(record(1))
        await until(lambda: made.counts["failed"] == 1)
        made.offer(record(2))
        await until(lambda: made.counts["exported"] == 1)
    assert len(to.heads) == 2
    assert f"it responded with status {status}" in said(caplog)[0][1]


async def test_a_partial_success_is_counted(to: Collector, caplog: pytest.LogCaptureFixture) -> None:
    to.answer = answers(partial(2, "too old"))
    async with exporting(to) as made:
        for number in range(5):
            made.offer(record(number + 1))
        await until(lambda: not made.waiting)
    assert (made.counts["exported"], made.counts["rejected"]) == (3, 2)
    assert "rejected 2 of 5 spans: too old" in said(caplog)[0][1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02 this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"",
    ],
)
async def test_nonsense_is_a_failure_and_no_more(to: Collector, raw: bytes) -> None:
    to.raw = raw
    async with exporting(to) as made:
        made.offer(record(1))
        await until(lambda: made.counts["failed"] == 1)
        to.raw = None
        made.offer(record(2))
        await until(lambda: made.counts["exported"] == 1)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"\x0a\xff\xff\xff\xff", b"x" * 1_000_000])
async def test_an_answer_that_is_no_protobuf_is_a_success(to: Collector, body: bytes) -> None:
    to.answer = answers((200, {"content-type": "text/html"}, body))
    async with exporting(to) as made:
        made.offer(record())
        await until(lambda: not made.waiting)
        assert made.counts["exported"] == 1


@pytest.mark.long
@pytest.mark.usefixtures("quick")
async def test_a_collector_that_hangs_or_trickles_has_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with exporting(port, timeout=0.2) as made:
        begun = time.monotonic()
        made.offer(record())
        await until(lambda: made.counts["failed"] == 1)
        assert time.monotonic() - begun < 8
    server.close()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with exporting(silent.getsockname()[1], timeout=0.2) as made:
            made.offer(record())
            await until(lambda: made.counts["failed"] == 1)
    assert "took longer than 0.2 s" in said(caplog)[-1][1]


async def test_the_end_does_not_wait_for_a_collector_that_is_away() -> None:
    begun = time.monotonic()
    async with exporting(free_port()) as made:
        for number in range(10):
            made.offer(record(number + 1))
        await asyncio.sleep(0.1)
    assert time.monotonic() - begun < 8
    assert made.counts["dropped"] == 10
    made.offer(record())
    assert made.counts["dropped"] == 11
    assert made.waiting == 0


async def test_what_cannot_be_built_does_not_stop_the_others(
    to: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    async with exporting(to) as made:
        made.offer(record(1))
        made.offer(record(2)._replace(status=cast("Any", "not a number")))
        made.offer(record(3))
        await until(lambda: not made.waiting)
    assert (made.counts["exported"], made.counts["failed"]) == (2, 1)
    assert "could not be built" in said(caplog)[0][1]


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_when_it_is_told_to_in_the_moment_in_which_it_wakes(turns: int) -> None:
    given = TracesConfig.model_validate({"endpoint": f"http://127.0.0.1:{free_port()}", "flush": 60.0})
    made = Exporter(given, counts=Counter(), chance=lambda: 0.5)
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0.01)
    for number in range(module.BATCH_RECORDS):
        made.offer(record(number + 1))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=30.0)
    assert done
    await made.close(timeout=0.0)
    assert made.counts["dropped"] == module.BATCH_RECORDS


# TLS ---------------------------------------------------------------------------------------------------
@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """ca.pem, and server.pem and client.pem that it has signed; each with its key. For localhost and 127.0.0.1."""
    authority = certificate(tmp_path, "ca", "ca", None)
    certificate(tmp_path, "server", "ca", authority)
    certificate(tmp_path, "client", "ca", authority)
    return tmp_path


@contextmanager
def secure(pki: Path) -> Iterator[Collector]:
    """A collector that asks for a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with collector(context=context) as found:
        yield found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("tls", "good"),
    [
        ({"ca": "ca", "cert": "client", "key": "client"}, True),
        ({"ca": "ca", "cert": "client", "key": "client", "server_name": "localhost"}, True),
        ({"verify": False, "cert": "client", "key": "client"}, True),
        ({"cert": "client", "key": "client"}, False),
        ({"ca": "ca", "cert": "client", "key": "client", "server_name": "elsewhere.example"}, False),
        ({"ca": "ca"}, False),
    ],
    ids=["all", "named", "unverified", "a stranger", "misnamed", "anonymous"],
)
async def test_a_collector_behind_tls(pki: Path, tls: dict[str, Any], good: bool) -> None:
    files = {k: str(pki / f"{v}.pem") if k in ("ca", "cert", "key") else v for k, v in tls.items()}
    with secure(pki) as to:
        async with exporting(to, endpoint=f"https://127.0.0.1:{to.port}", tls=files) as made:
            made.offer(record())
            await until(lambda: not made.waiting)
        assert made.counts["exported" if good else "failed"] == 1
        assert len(to.bodies) == good
