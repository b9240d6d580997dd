"""The open loop keeps to its schedule whatever the server does, and blames the server for what it delays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import traffic
from benchmarks.load import fixed
from benchmarks.load.clock import Timer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LENGTH = len(traffic.request())


@asynccontextmanager
async def server(before_answer: Callable[[int], Awaitable[None]]) -> AsyncIterator[int]:
    """Answers every request after ``before_answer(number)``; the port it listens on."""
    count = 0
    handlers: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        handler = asyncio.current_task()
        assert handler is not None
        handlers.append(handler)
        try:
            while True:
                await reader.readexactly(LENGTH)
                count += 1
                await before_answer(count)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        for each in handlers:
            each.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await asyncio.sleep(0)  # the sockets close in a turn of the loop


def test_moments_are_a_poisson_process_of_the_rate_and_the_same_each_time() -> None:
    found = fixed.moments(2000, 5)
    gaps = [after - before for before, after in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert abs(len(found) - 10_000) < 400  # four standard deviations of a Poisson count
    assert 0.95 < deviation / mean < 1.05  # exponential gaps deviate by their mean
    assert max(found) < 5e9
    assert found == fixed.moments(2000, 5)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1)])
def test_quantiles_are_values_that_occurred(share: float, value: int) -> None:
    assert fixed.quantile(range(1, 101), share) == value


def test_the_requests_of_a_file_come_back_as_they_were_written(tmp_path: Path) -> None:
    asked = [traffic.request(number=number) for number in range(3)] + [b"\n12\r\n"]
    traffic.write_requests(tmp_path / "requests", asked)
    assert fixed.read_requests(tmp_path / "requests") == asked


async def test_every_request_is_sent_and_its_latency_is_the_servers() -> None:
    async def pause(_: int) -> None:
        await asyncio.sleep(0.005)

    async with server(pause) as port:
        seen = await fixed.run(port, traffic.requests(), rate=500, seconds=0.5, connections=16)
    assert seen.requests == len(fixed.moments(500, 0.5))
    assert seen.errors == 0
    assert seen.p50_us >= 5000


async def test_a_stall_is_felt_by_all_that_should_have_been_sent_meanwhile() -> None:
    stalled_until = 0.0

    async def stall_once(number: int) -> None:
        nonlocal stalled_until
        if number == 100:
            stalled_until = time.monotonic() + 0.25
        await asyncio.sleep(max(0.0, stalled_until - time.monotonic()))

    async with server(stall_once) as port:
        seen = await fixed.run(port, traffic.requests(), rate=500, seconds=1.0, connections=2)
    # A quarter of the second stood still. A closed loop over two connections would report two slow ones.
    assert seen.errors == 0
    assert seen.max_us >= 240_000
    assert seen.p90_us >= 100_000


async def test_what_is_not_answered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(number: int) -> None:
        await asyncio.sleep(0 if number <= 10 else 3600)

    monkeypatch.setattr(fixed, "_DRAIN_SECONDS", 0.1)
    async with server(hang) as port:
        seen = await fixed.run(port, traffic.requests(), rate=200, seconds=0.3, connections=4)
    due = len(fixed.moments(200, 0.3))
    assert seen.requests == 10
    assert seen.errors == due - 10


async def test_the_timer_fires_at_its_moment() -> None:
    loop, timer = asyncio.get_running_loop(), Timer()
    fired: asyncio.Future[int] = loop.create_future()
    due = time.monotonic_ns() + 3_300_000

    def fire() -> None:
        loop.remove_reader(timer.fd)
        fired.set_result(time.monotonic_ns())

    try:
        timer.set(due)
        loop.add_reader(timer.fd, fire)
        assert await asyncio.wait_for(fired, 60) >= due
    finally:
        timer.close()
