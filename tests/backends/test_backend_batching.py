"""Batches: what goes into one, who waits, and that nobody's request can spoil another's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.batching import loop
from backends.batching.entry import Entry, FutureEntry, Report, Spans
from backends.batching.instance import Instance
from backends.batching.loop import DEMOTION_S, MAX_STRIKES, LoopInstance
from backends.batching.queue import Queue
from backends.errors import InvalidInput, LoadError, ModelFailed, ServerError, Unavailable
from backends.served import _guarded
from backends.stats import Stats
from backends.threads import Overrun


def entry(rows: int = 1, key: int = 0, value: float = 0.0, arrived: int = 0) -> Entry:
    return Entry((np.full((rows, 1), value),), rows, ((key,),), arrived)


def queue_of(entries: Sequence[Entry], rows: int = 8) -> Queue:
    queue = Queue(rows, 0, 10_000)
    for one in entries:
        queue.put(one)
    return queue


def test_a_batch_takes_what_fits_and_leaves_the_rest_in_order() -> None:
    one, two, three, four = entry(2), entry(2), entry(3), entry(1)
    queue = queue_of([one, two, three, four], rows=4)
    assert queue.take() == [one, two]
    assert queue.take() == [three, four]


def test_other_shapes_wait_for_a_batch_of_their_own() -> None:
    one, other, two = entry(key=1), entry(key=2), entry(key=1)
    queue = queue_of([one, other, two])
    assert queue.take() == [one, two]
    assert queue.take() == [other]


def test_a_request_whose_client_left_takes_no_room() -> None:
    left, here = entry(4), entry(4)
    queue = queue_of([left, here], rows=4)
    queue.discard(left)
    assert queue.take() == [here]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2), st.booleans())))
def test_every_entry_comes_exactly_once_and_keys_keep_their_order(plan: list[tuple[int, int, bool]]) -> None:
    entries = [entry(rows, key) for rows, key, _ in plan]
    queue = queue_of(entries)
    for one, (_, _, gone) in zip(entries, plan, strict=True):
        if gone:
            queue.discard(one)
    alive = [one for one, (_, _, gone) in zip(entries, plan, strict=True) if not gone]
    seen: list[Entry] = []
    while len(queue):
        oldest = next(one for one in alive if one not in seen)
        batch = queue.take_now()
        assert batch[0] is oldest
        assert sum(one.rows for one in batch) <= 8
        assert len({one.key for one in batch}) == 1
        seen += batch
    assert sorted(map(id, seen)) == sorted(map(id, alive))
    for key in range(3):
        assert [one for one in seen if one.key == ((key,),)] == [one for one in alive if one.key == ((key,),)]


class Counted(int):
    """A part of a key that counts its comparisons."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def test_a_batch_does_not_walk_past_other_shapes() -> None:
    """F11: with as many shapes as requests each batch compared its key with all that wait."""
    entries = [entry(key=Counted(key)) for key in range(1000)]
    queue = queue_of(entries)
    Counted.compared = 0
    for one in entries:
        assert queue.take() == [one]
    assert Counted.compared < 10 * len(entries)


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
    assert queue.take() == [one]
    assert queue.take() is None


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
    assert len(batch) == 2, "the second came in time"
    queue.put(entry(arrived=time.perf_counter_ns()))
    start = time.perf_counter_ns()
    alone = queue.take()
    assert alone is not None
    assert len(alone) == 1
    assert time.perf_counter_ns() - start >= 190_000_000


class Doubler:
    """A model: doubles; refuses NaN, breaks on negatives, and waits for a gate before its first batch."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.sizes: list[int] = []
        self.error: BaseException | None = None

    def enter(self) -> None: ...

    def close(self) -> None: ...

    def out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    batch_seconds = 0.0
    predictable = False

    def run(
        self, parts: Sequence[tuple[Any, ...]], rows: int, key: tuple[tuple[int, ...], ...], spans: Spans
    ) -> list[np.ndarray]:
        self.gate.wait(10)
        self.sizes.append(rows)
        if self.error is not None:
            raise self.error
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

    def __init__(self, rows: int = 8) -> None:
        self.gate = threading.Event()
        self.model = Doubler(self.gate)
        self.reports: list[Report] = []
        self.queue = Queue(rows, 0, 100)
        loop = asyncio.get_running_loop()
        self.instance = Instance("m version 1", self.queue, self.model, self.deliver, loop)

    def deliver(self, report: Report) -> None:
        self.reports.append(report)
        for one, outputs in report.answered:
            one.settle(outputs)
        for one, error in report.failed:
            one.settle(error)

    def put(self, value: float, rows: int = 1) -> asyncio.Future[list[np.ndarray]]:
        return self.enter(value, rows)[1]

    def enter(self, value: float, rows: int = 1) -> tuple[Entry, asyncio.Future[list[np.ndarray]]]:
        one = FutureEntry((np.full((rows, 1), value),), rows, ((1,),), time.perf_counter_ns())
        self.queue.put(one)
        return one, one.future

    async def end(self) -> None:
        self.gate.set()
        self.queue.close()
        await asyncio.wrap_future(self.instance.ended)


class Slow(Doubler):
    """Takes longer than `DEMOTION_S` for every batch, computing or asleep."""

    def __init__(self, *, computing: bool) -> None:
        super().__init__(threading.Event())
        self.gate.set()
        self.clock = time.thread_time if computing else time.perf_counter

    def run(
        self, parts: Sequence[tuple[Any, ...]], rows: int, key: tuple[tuple[int, ...], ...], spans: Spans
    ) -> list[np.ndarray]:
        end = self.clock() + 1.2 * DEMOTION_S
        while (left := end - self.clock()) > 0:
            if self.clock is time.perf_counter:
                time.sleep(left)
        return super().run(parts, rows, key, spans)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may pause the test for seconds, which does not interrupt a batch."""
    monkeypatch.setattr(loop, "INTERRUPT_S", 1000.0)


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize(("computing", "batches"), [(True, 1), (False, MAX_STRIKES)])
async def test_a_model_leaves_the_event_loop_for_what_it_does(computing: bool, batches: int) -> None:
    """One slow moment of a busy machine moved it to a thread, where it stayed."""
    queue, left = queue_of([]), asyncio.Event()
    instance = LoopInstance("m version 1", queue, Slow(computing=computing), lambda report: None, left.set)
    for number in range(batches):
        assert not left.is_set(), f"{number} of {batches}"
        queue.put(entry())
        instance.wake()
        while len(queue):
            await asyncio.sleep(0)
    assert left.is_set()


@pytest.mark.usefixtures("paused")
async def test_slow_moments_that_are_far_apart_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STRIKE_WINDOW_S", 0.0)
    queue, left = queue_of([]), asyncio.Event()
    instance = LoopInstance("m version 1", queue, Slow(computing=False), lambda report: None, left.set)
    for _ in range(2 * MAX_STRIKES):
        queue.put(entry())
        instance.wake()
        while len(queue):
            await asyncio.sleep(0)
    assert not left.is_set()


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


async def test_a_thread_ends_whatever_freeing_its_model_raises() -> None:
    for error in (RuntimeError("no"), Overrun(), SystemExit()):
        bench = Bench()

        def close(raised: BaseException = error) -> None:
            raise raised

        bench.model.close = close  # type: ignore[method-assign]
        async with asyncio.timeout(60):
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


async def test_a_client_that_left_costs_the_others_nothing() -> None:
    bench = Bench()
    running = bench.put(1.0)
    while len(bench.queue):
        await asyncio.sleep(0.001)
    left, _ = bench.enter(2.0)
    queued = bench.put(3.0)
    running.cancel()
    bench.queue.discard(left)
    bench.gate.set()
    assert (await queued)[0].tolist() == [[6.0]]
    assert bench.model.sizes == [1, 1], "the one that left the queue was not computed"
    await bench.end()


async def test_a_failing_batch_is_halved_and_not_run_row_by_row() -> None:
    """F2: one bad request of 32 costs log2(32) further failures."""
    bench = Bench(rows=64)
    blocker = bench.put(0.0)
    while len(bench.queue):
        await asyncio.sleep(0.001)
    waiting = [bench.put(-1.0 if number == 11 else 1.0) for number in range(32)]
    bench.gate.set()
    got = await asyncio.gather(blocker, *waiting, return_exceptions=True)
    assert [isinstance(one, ModelFailed) for one in got].index(True) == 12
    assert sum(isinstance(one, ModelFailed) for one in got) == 1
    assert bench.model.sizes[1:] == [32, 16, 8, 8, 4, 2, 2, 1, 1, 4, 16]
    await bench.end()


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, StopIteration]
)
async def test_whatever_a_model_raises_the_next_request_is_served(kind: type[BaseException]) -> None:
    """F1: all but Exceptions ended the thread, and this and every later request hung."""
    bench = Bench()
    bench.gate.set()
    bench.model.error = kind("no")
    with pytest.raises(ModelFailed, match=kind.__name__):
        await bench.put(1.0)
    bench.model.error = None
    assert (await bench.put(4.0))[0].tolist() == [[8.0]]
    await bench.end()


async def test_closing_answers_those_who_wait() -> None:
    bench = Bench(rows=1)
    futures = [bench.put(float(value)) for value in range(5)]
    await bench.end()
    assert [(await future)[0].item() for future in futures] == [0.0, 2.0, 4.0, 6.0, 8.0]


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise self


@pytest.mark.parametrize(
    "error",
    [LoadError("no such file"), RuntimeError("no such file"), SystemExit("no such file"), Unspeakable()],
)
def test_whatever_loading_raises_becomes_a_load_error(error: BaseException) -> None:
    def load() -> Doubler:
        raise error

    with pytest.raises(LoadError, match=r"no such file|its text can't be read"):
        _guarded("m version 1", load)


def test_every_error_of_the_server_says_something() -> None:
    assert ServerError().message


def test_each_request_counts_the_time_of_its_whole_batch() -> None:
    """As in a real Triton: perf_analyzer divides the durations by the requests."""
    stats, report = Stats(), Report(time.perf_counter_ns(), rows=4, spans=Spans(1_000, 20_000, 300))
    report.answer([Entry((), rows, (), report.started) for rows in (1, 1, 2)], [np.zeros(4)])
    stats.record(report)
    document: Any = stats.as_dict()
    assert document["inference_stats"]["success"]["count"] == 3
    assert document["inference_stats"]["compute_input"] == {"count": 3, "ns": 3_000}
    assert document["inference_stats"]["compute_infer"] == {"count": 3, "ns": 60_000}
    assert document["inference_stats"]["compute_output"] == {"count": 3, "ns": 900}
    (batch,) = document["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]) == (4, {"count": 1, "ns": 20_000})
    assert (document["inference_count"], document["execution_count"]) == (4, 1)
