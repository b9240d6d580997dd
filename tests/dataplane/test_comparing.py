"""Comparisons leave the event loop, a bounded number of them waits, and each one is accounted for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from gateway.dataplane.shadow import comparer as comparing
from gateway.dataplane.shadow.comparer import (
    MAX_THREAD_BYTES,
    MAX_WAITING,
    MAX_WAITING_LARGE,
    Comparer,
    Pair,
    reason_of,
)
from policies.comparison.bodies import Comparison, Response
from policies.comparison.compare import Agreement, compare


def pair(first: bytes, second: bytes, media: str = "application/json") -> Pair:
    return Pair(Response(first, media), Response(second, media), Comparison())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_responses_are_compared_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()

    def seen(*given: object) -> Agreement:
        threads.add(threading.get_ident())
        return compare(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(comparing, "compare", seen)
    comparer, found = Comparer(), list[Agreement]()
    for number in range(5):
        comparer.compare(200, 200, pair(b'{"x":2}', b'{"x": %d}' % number), found.append)
    assert found == []
    await until(lambda: len(found) == 5)
    assert [one.agrees for one in found] == [False, False, True, False, False]
    assert threads
    assert threading.get_ident() not in threads
    comparer.compare(200, 200, pair(b"[1]", b"[2]"), found.append)
    await until(lambda: len(found) == 6)
    assert not comparer.pending


async def test_what_needs_no_reading_is_said_immediately() -> None:
    comparer, found = Comparer(), list[Agreement]()
    comparer.compare(200, 200, pair(b"same", b"same"), found.append)
    comparer.compare(200, 404, pair(b"one", b"two"), found.append)
    assert [one.agrees for one in found] == [True, False]


async def test_equal_streams_without_data_do_not_agree() -> None:
    comparer, found = Comparer(), list[Agreement]()
    comparer.compare(200, 200, pair(b": ping\n\n", b": ping\n\n", "text/event-stream"), found.append)
    await until(lambda: found)
    assert (found[0].agrees, reason_of(found[0])) == (None, "unreadable")


async def test_a_bounded_number_waits() -> None:
    comparer, found = Comparer(), list[Agreement]()
    for number in range(MAX_WAITING + 3):
        comparer.compare(200, 200, pair(b"[0]", b"[ %d]" % number), found.append)
    assert [reason_of(one) for one in found] == ["queue_full"] * 3
    await until(lambda: len(found) == MAX_WAITING + 3)
    assert sum(one.agrees is not None for one in found) == MAX_WAITING


async def test_the_end_is_said_to_those_that_wait() -> None:
    comparer, found, large = Comparer(), list[Agreement](), list[Agreement]()
    comparer.compare(200, 200, pair(b"[0]", b"[1]"), found.append)
    for number in range(MAX_WAITING_LARGE):  # of which the other process has at most three in hand
        comparer.compare(200, 200, pair(b"[0]", b"[%d]" % number + bytes(MAX_THREAD_BYTES)), large.append)
    assert not large
    comparer.compare(200, 200, pair(b"[0]", b"[1]" + bytes(MAX_THREAD_BYTES)), large.append)
    assert [reason_of(one) for one in large] == ["queue_full"]
    comparer.close()
    comparer.compare(200, 200, pair(b"[0]", b"[2]"), found.append)
    comparer.compare(200, 200, pair(b"[0]", b"[2]" + bytes(MAX_THREAD_BYTES)), found.append)
    assert [reason_of(one) for one in found] == ["shutdown"] * 3
    await until(
        lambda: (
            not comparer.pending
            and [reason_of(one) for one in large].count("shutdown") >= MAX_WAITING_LARGE - 3
        )
    )
    assert len(found) == 3
