"""Batches: what goes into one, who waits, and that nobody's request can spoil another's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.batching.entry import Entry, Report, Spans
from backends.batching.instance import Instance
from backends.batching.queue import Queue, gather
from backends.errors import InvalidInput, LoadError, ModelFailed, ServerError, Unavailable


def entry(rows: int = 1, key: int = 0, deadline: int = 0, value: float = 0.0, arrived: int = 0) -> Entry:
    future: asyncio.Future[list[np.ndarray]] = asyncio.Future(loop=LOOP)
    return Entry((np.full((rows, 1), value),), rows, ((key,),), future, arrived, deadline)


LOOP = asyncio.new_event_loop()
"""Only to make futures with, where nothing runs."""


@pytest.fixture(scope="module", autouse=True)
def _close_loop() -> object:
    yield
    LOOP.close()


def test_a_batch_takes_what_fits_and_leaves_the_rest_in_order() -> None:
    one, two, three, four = entry(2), entry(3), entry(1), entry(1)
    waiting = deque([one, two, three, four])
    assert gather(waiting, 4, 0).entries == [one, three, four]
    assert list(waiting) == [two]


def test_other_shapes_wait_for_a_batch_of_their_own() -> None:
    one, other, two = entry(key=1), entry(key=2), entry(key=1)
    waiting = deque([one, other, two])
    assert gather(waiting, 8, 0).entries == [one, two]
    assert gather(waiting, 8, 0).entries == [other]


def test_those_who_left_and_those_out_of_time_take_no_room() -> None:
    left, late, here = entry(4), entry(4, deadline=10), entry(4, deadline=30)
    left.future.cancel()
    batch = gather(deque([left, late, here]), 4, 20)
    assert batch.entries == [here]
    assert batch.expired == [late]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.booleans())))
def test_every_entry_comes_exactly_once_and_keys_keep_their_order(plan: list[tuple[int, int, bool]]) -> None:
    entries = [entry(rows, key) for rows, key, _ in plan]
    for one, (_, _, gone) in zip(entries, plan, strict=True):
        if gone:
            one.future.cancel()
    waiting, seen = deque(entries), []
    while waiting:
        batch = gather(waiting, 8, 0).entries
        assert sum(one.rows for one in batch) <= 8
        assert len({one.key for one in batch}) <= 1
        seen += batch
    alive = [one for one in entries if not one.future.done()]
    assert sorted(map(id, seen)) == sorted(map(id, alive))
    oldest_first = [one for one in alive if one.key == ((0,),) and one.rows == 8]
    assert [one for one in seen if one in oldest_first] == oldest_first


def test_a_full_queue_refuses() -> None:
    queue = Queue(8, 0, 2)
    queue.put(entry())
    queue.put(entry())
    with pytest.raises(Unavailable, match="2 requests are waiting") as caught:
        queue.put(entry())
    assert caught.value.retry_after >= 1


def test_a_closed_queue_hands_out_what_it_has_and_takes_no_more() -> None:
    queue = Queue(1, 0, 9)
    one = entry()
    queue.put(one)
    queue.close()
    with pytest.raises(Unavailable):
        queue.put(entry())
    first, last = queue.take(), queue.take()
    assert first is not None
    assert first.entries == [one]
    assert last is None


def test_a_discarded_entry_makes_room() -> None:
    queue = Queue(8, 0, 1)
    one = entry()
    queue.put(one)
    queue.discard(one)
    queue.discard(one)
    queue.put(entry())
    assert len(queue) == 1


def test_a_batch_that_is_not_full_waits_no_longer_than_the_delay() -> None:
    queue = Queue(2, 200_000_000, 9)
    start = time.perf_counter_ns()
    queue.put(entry(arrived=start))
    timer = threading.Timer(0.05, lambda: queue.put(entry(arrived=time.perf_counter_ns())))
    timer.start()
    batch = queue.take()
    timer.join()
    assert batch is not None
    assert len(batch.entries) == 2, "the second came in time"
    queue.put(entry(arrived=time.perf_counter_ns()))
    start = time.perf_counter_ns()
    alone = queue.take()
    assert alone is not None
    assert len(alone.entries) == 1
    assert time.perf_counter_ns() - start >= 190_000_000


class Doubler:
    """A model: doubles; refuses NaN, breaks on negatives, and waits for a gate before its first batch."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.sizes: list[int] = []

    def run(self, parts: Sequence[tuple[np.ndarray, ...]], rows: int, spans: Spans) -> list[np.ndarray]:
        self.gate.wait(10)
        self.sizes.append(rows)
        whole = np.concatenate([part[0] for part in parts])
        assert len(whole) == rows
        if np.isnan(whole).any():
            raise InvalidInput("a NaN")
        if (whole < 0).any():
            raise ValueError("negative")
        spans.infer += 1
        return [whole * 2, whole.astype("i8")]


class Bench:
    """One instance over a queue, on the running loop."""

    def __init__(self, rows: int = 8, load: Callable[[], Doubler] | None = None) -> None:
        self.gate = threading.Event()
        self.model = Doubler(self.gate)
        self.reports: list[Report] = []
        self.queue = Queue(rows, 0, 100)
        loop = asyncio.get_running_loop()
        self.instance = Instance("m version 1", self.queue, load or (lambda: self.model), self.deliver, loop)

    def deliver(self, report: Report) -> None:
        self.reports.append(report)
        for one, outputs in report.answered:
            if not one.future.done():
                one.future.set_result(outputs)
        for one, error in report.failed:
            if not one.future.done():
                one.future.set_exception(error)

    def put(self, value: float, rows: int = 1, deadline: int = 0) -> asyncio.Future[list[np.ndarray]]:
        future: asyncio.Future[list[np.ndarray]] = asyncio.get_running_loop().create_future()
        inputs = (np.full((rows, 1), value),)
        self.queue.put(Entry(inputs, rows, ((1,),), future, time.perf_counter_ns(), deadline))
        return future

    async def end(self) -> None:
        self.gate.set()
        self.queue.close()
        await asyncio.wrap_future(self.instance.ended)


async def test_each_gets_its_own_rows_out_of_a_shared_batch() -> None:
    bench = Bench()
    first = bench.put(100.0)
    while len(bench.queue):
        await asyncio.sleep(0.001)
    others = [bench.put(float(value), rows=value) for value in (1, 2, 3)]
    bench.gate.set()
    outputs = await asyncio.gather(first, *others)
    assert [output[0].ravel().tolist() for output in outputs] == [[200.0], [2.0], [4.0] * 2, [6.0] * 3]
    assert bench.model.sizes == [1, 6]
    await bench.end()


async def test_a_bad_request_fails_alone() -> None:
    bench = Bench()
    blocker = bench.put(0.0)
    while len(bench.queue):
        await asyncio.sleep(0.001)
    waiting = [bench.put(value) for value in (1.0, float("nan"), -1.0, 4.0)]
    bench.gate.set()
    got = await asyncio.gather(blocker, *waiting, return_exceptions=True)
    good = [one[0].ravel().tolist() for one in got if not isinstance(one, BaseException)]
    assert good == [[0.0], [2.0], [8.0]]
    assert isinstance(got[2], InvalidInput)
    assert isinstance(got[3], ModelFailed)
    assert "ValueError" in got[3].message
    assert "negative" not in got[3].message
    await bench.end()


async def test_a_cancelled_waiter_leaves_the_others_their_answers() -> None:
    bench = Bench()
    running = bench.put(1.0)
    while len(bench.queue):
        await asyncio.sleep(0.001)
    queued = [bench.put(2.0), bench.put(3.0)]
    running.cancel()
    queued[0].cancel()
    bench.gate.set()
    assert (await queued[1])[0].tolist() == [[6.0]]
    assert bench.model.sizes == [1, 1], "the one that left the queue was not computed"
    await bench.end()


async def test_a_request_past_its_deadline_is_told_so() -> None:
    bench = Bench()
    running = bench.put(1.0)
    while len(bench.queue):
        await asyncio.sleep(0.001)
    late = bench.put(2.0, deadline=time.perf_counter_ns() + 1)
    bench.gate.set()
    await running
    with pytest.raises(Unavailable, match="longer than its timeout"):
        await late
    await bench.end()


async def test_closing_answers_those_who_wait() -> None:
    bench = Bench(rows=1)
    futures = [bench.put(float(value)) for value in range(5)]
    await bench.end()
    assert [(await future)[0].item() for future in futures] == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize(
    "error", [LoadError("no such file"), RuntimeError("no such file"), SystemExit("no such file")]
)
async def test_whatever_loading_raises_becomes_a_load_error(error: BaseException) -> None:
    def load() -> Doubler:
        raise error

    bench = Bench(load=load)
    with pytest.raises(LoadError, match="no such file"):
        await asyncio.wrap_future(bench.instance.ready)
    await asyncio.wrap_future(bench.instance.ended)


def test_every_error_of_the_server_says_something() -> None:
    assert ServerError().message
