"""Batches in flight to a device process: every interleaving of requests, results, failures and ends."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from socket import socketpair
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends.batching.entry import Entry, Outcome, Report, Spans
from backends.batching.queue import Queue
from backends.config import ModelConfig
from backends.errors import ModelFailed
from backends.memory import shared_file
from backends.owner.child import Worker
from backends.owner.layout import SLOTS, Layout, SlotMemory
from backends.owner.messages import Batch, Result
from backends.owner.remote import RemoteInstance
from backends.owner.runner import Outputs
from backends.runtime.executable import TorchExecutable
from backends.runtime.loaded import Loaded
from backends.runtime.slots import SlotRunner, sizes

MAX_ROWS = 4
CONFIG = ModelConfig.model_validate(
    {
        "name": "m",
        "platform": "pytorch_module",
        "max_batch_size": MAX_ROWS,
        "input": [{"name": "x", "data_type": "FP32", "dims": [2]}],
        "output": [{"name": "y", "data_type": "FP32", "dims": [2]}],
    }
)


def slot_memory() -> SlotMemory:
    layout = Layout.of(CONFIG)
    file = shared_file(layout.all_slots)
    try:
        return SlotMemory(layout, file)
    finally:
        os.close(file)


def rows_of(memory: SlotMemory, slot: int, offset: int | None, rows: int) -> np.ndarray:
    assert offset is not None
    return np.frombuffer(memory.view(slot, offset, rows * 8), np.float32).reshape(rows, 2)


# The server's side: what is sent when, and who gets which outcome -------------------------------------
class Asked(Entry):
    """A request that keeps its outcomes."""

    __slots__ = ("outcomes", "value")

    def __init__(self, rows: int, value: float) -> None:
        super().__init__((np.full((rows, 2), value, np.float32),), rows, ((2,),), time.perf_counter_ns())
        self.value = value
        self.outcomes: list[Outcome] = []

    def finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class FakeProcess:
    """Holds batches until `finish`; doubles, and fails batches with a negative value."""

    def __init__(self) -> None:
        self.memory = slot_memory()
        self.held: deque[Batch] = deque()
        self.closed = 0
        self.killed = 0

    def send(self, batch: Batch) -> None:
        assert len(self.held) < SLOTS
        assert batch.slot not in [one.slot for one in self.held], "a slot in use is written again"
        assert batch.rows <= MAX_ROWS
        self.held.append(batch)

    def close(self) -> None:
        assert not self.held
        self.closed += 1

    def kill(self) -> None:
        self.killed += 1

    def finish(self) -> Result:
        batch = self.held.popleft()
        layout = Layout.of(CONFIG)
        given = rows_of(self.memory, batch.slot, layout.inputs[0], batch.rows)
        if (given < 0).any():
            return Result(batch.slot, Spans(), ModelFailed("negative"))
        rows_of(self.memory, batch.slot, layout.outputs[0], batch.rows)[:] = given * 2
        return Result(batch.slot, Spans())


EVENTS = ("one", "three", "bad", "finish", "leave", "close", "lost")


async def play(events: Sequence[str], overlapping: bool) -> None:
    """Checks that every request gets exactly one outcome, its own."""
    process = FakeProcess()
    queue = Queue(MAX_ROWS, 0, 100)
    reports: list[Report] = []

    def deliver(report: Report) -> None:
        reports.append(report)
        for entry, outputs in report.answered:
            entry.settle(outputs)
        for entry, error in report.failed:
            entry.settle(error)

    instance = RemoteInstance(
        CONFIG, "m version 1", queue, process.memory, process, deliver, overlapping=overlapping
    )
    asked: list[Asked] = []
    lost: list[Entry] = []

    async def settled() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert overlapping or instance.in_flight <= 1
        assert bool(instance.started) == bool(process.held) or instance.ended.done()

    for number, event in enumerate(events):
        if event in ("one", "three", "bad") and not queue.closed:
            asked.append(Asked(3 if event == "three" else 1, -1.0 if event == "bad" else number + 1.0))
            queue.put(asked[-1])
            instance.wake()
        elif event == "finish" and process.held and not instance.ended.done():
            instance.received(process.finish())
        elif event == "leave" and asked:
            asked[-1].done = True
            queue.discard(asked[-1])
        elif event == "close":
            queue.close()
            instance.wake()
        elif event == "lost" and not instance.ended.done():
            instance.lost()
            lost += instance.retire()
        await settled()
    queue.close()
    instance.wake()
    await settled()
    for _ in range(100):
        if instance.ended.done():
            break
        instance.received(process.finish())
        await settled()
    assert instance.ended.done()
    assert process.killed == 0
    assert process.closed == 1 or "lost" in events
    for entry in [*lost, *itertools.chain.from_iterable(iter(queue.take_now, []))]:
        entry.settle(ModelFailed("lost"))
    for one in asked:
        if not one.outcomes:
            assert one.done, "a request without an outcome"
            continue
        (outcome,) = one.outcomes
        if isinstance(outcome, list):
            assert one.value > 0
            assert outcome[0].tolist() == [[one.value * 2] * 2] * one.rows
        else:
            assert outcome.message == "negative" or "lost" in events
            assert outcome.message == "lost" or one.value < 0
    answered = [entry for report in reports for entry, _ in report.answered]
    assert len(answered) == len(set(answered))


@pytest.mark.parametrize("overlapping", [True, False])
async def test_every_short_sequence_of_events(overlapping: bool) -> None:
    for events in itertools.product(EVENTS, repeat=4):
        await play(events, overlapping)


@given(st.lists(st.sampled_from(EVENTS), max_size=40), st.booleans())
def test_long_sequences_of_events(events: list[str], overlapping: bool) -> None:
    asyncio.run(play(events, overlapping))


async def test_a_third_batch_starts_only_if_it_is_full() -> None:
    process = FakeProcess()
    queue = Queue(MAX_ROWS, 0, 100)
    instance = RemoteInstance(
        CONFIG, "m", queue, process.memory, process, lambda report: None, overlapping=True
    )
    for _ in range(3):
        queue.put(Asked(1, 1.0))
        instance.wake()
        await asyncio.sleep(0)
    assert [batch.rows for batch in process.held] == [1, 1], "the third request waits for company"
    queue.put(Asked(3, 1.0))
    instance.wake()
    await asyncio.sleep(0)
    assert [batch.rows for batch in process.held] == [1, 1, 4]
    assert (instance.in_flight, len(queue)) == (3, 0)


async def test_retiring_an_instance_kills_its_process() -> None:
    process = FakeProcess()
    queue = Queue(MAX_ROWS, 0, 100)
    instance = RemoteInstance(
        CONFIG, "m", queue, process.memory, process, lambda report: None, overlapping=True
    )
    one = Asked(1, 1.0)
    queue.put(one)
    instance.wake()
    await asyncio.sleep(0)
    assert instance.retire() == [one]
    assert (process.killed, instance.ended.done(), instance.started) == (1, True, 0)
    instance.received(process.finish())
    assert not one.outcomes, "a late result of a retired process is dropped"


# The process's side: copies and computations on streams -----------------------------------------------
class FakeDevice:
    """Streams whose work runs in an order that ``choose`` decides, as a GPU may run them."""

    device = torch.device("cpu")

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose
        self._streams: dict[str, deque[tuple[Callable[[], None], Any, Any]]] = {}
        self._happened: set[int] = set()
        self._events = itertools.count()
        self.pinned = 0

    def enqueue(self, stream: str, work: Callable[[], None], *, after: Any) -> Any:
        event = next(self._events)
        self._streams.setdefault(stream, deque()).append((work, after, event))
        return event

    def capture(self, work: Callable[[], list[Any]]) -> tuple[Callable[[], None], list[Any]]:
        with torch.inference_mode():
            outputs = [one.clone() for one in work()]

        def replay() -> None:
            for target, value in zip(outputs, work(), strict=True):
                target.copy_(value)

        return replay, outputs

    def wait(self, event: Any) -> None:
        while event not in self._happened:
            ready = [
                stream
                for stream, works in self._streams.items()
                if works and (works[0][1] is None or works[0][1] in self._happened)
            ]
            marks = [stream for stream in ready if self._streams[stream][0][0].__name__ == "_nothing"]
            stream = marks[0] if marks else ready[self._choose(len(ready))]
            work, _, done = self._streams[stream].popleft()
            with torch.inference_mode():
                work()
            self._happened.add(done)

    def nanoseconds(self, first: Any, second: Any) -> int:
        assert {first, second} <= self._happened
        return 1

    def pin(self, memory: memoryview) -> None:
        self.pinned += 1

    def unpin(self, memory: memoryview) -> None:
        self.pinned -= 1


def every_choice() -> Iterator[Callable[[int], int]]:
    """Functions that between them make every sequence of choices."""
    path: list[tuple[int, int]] = []
    while True:
        place = itertools.count()

        def choose(options: int, path: list[tuple[int, int]] = path, place: Iterator[int] = place) -> int:
            index = next(place)
            if index == len(path):
                path.append((0, options))
            return path[index][0]

        yield choose
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1] = (path[-1][0] + 1, path[-1][1])


def run_batches(choose: Callable[[int], int], damage: Callable[[SlotRunner], None]) -> bool:
    """Whether four batches in three slots come out right."""
    device, memory, layout = FakeDevice(choose), slot_memory(), Layout.of(CONFIG)
    executable = TorchExecutable(
        CONFIG, Loaded(lambda inputs: inputs["x"] + inputs["x"].sum(), network=True), torch.device("cpu")
    )
    runner = SlotRunner(CONFIG, executable, device, memory)
    damage(runner)
    assert runner.buckets == (1, 2, 4)
    right = True
    running: deque[tuple[int, int, float, Callable[[], Outputs]]] = deque()
    free = deque(range(SLOTS))
    for value, rows in ((1.0, 4), (2.0, 3), (3.0, 1), (4.0, 2), (0.0, 0)):
        while running and (not free or not rows):
            slot, count, expected, finish = running.popleft()
            spans = finish()
            assert spans == {}
            wanted = expected + 2 * count * expected  # no rows of an earlier batch are in the sum
            right &= bool((rows_of(memory, slot, layout.outputs[0], count) == wanted).all())
            free.append(slot)
        if rows:
            slot = free.popleft()
            rows_of(memory, slot, layout.inputs[0], rows)[:] = value
            batch = Batch(slot, 1, rows, ((2,),))
            running.append((slot, rows, value, runner.begin(batch, Spans())))
    runner.close()
    assert device.pinned == 0
    return right


def test_overlapping_batches_keep_their_data_in_every_order_of_the_streams() -> None:
    count = 0
    for choose in every_choice():
        assert run_batches(choose, lambda runner: None)
        count += 1
    assert count > 100


def test_shared_buffers_are_found_out() -> None:
    """The test above can fail: with one buffer for all slots, some order of the streams mixes up batches."""

    def share(runner: SlotRunner) -> None:
        runner._near = [runner._near[0]] * SLOTS

    assert not all(run_batches(choose, share) for choose in every_choice())


def test_sizes_of_graphs() -> None:
    assert sizes(1) == [1]
    assert sizes(8) == [1, 2, 4, 8]
    assert sizes(12) == [1, 2, 4, 8, 12]


class GatedRunner:
    """Begins immediately, finishes when told to."""

    buckets: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.closed = threading.Event()
        self.is_poisoned = False

    def enter(self) -> None: ...

    def begin(self, batch: Batch, spans: Spans) -> Callable[[], Outputs]:
        self.begun.release()
        if batch.rows == 2:
            raise MemoryError("no")

        def finish() -> Outputs:
            assert self.gate.acquire(timeout=30)
            if batch.rows == 3:
                raise SystemExit(3)
            return {}

        return finish

    def out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def poisoned(self) -> bool:
        return self.is_poisoned

    def close(self) -> None:
        self.closed.set()


def test_a_worker_begins_while_others_run_and_reports_in_order() -> None:
    runner = GatedRunner()
    ours, theirs = socketpair()
    with Connection(ours.detach()) as connection, Connection(theirs.detach()) as other:
        worker = threading.Thread(target=Worker(other, runner, "m").run)
        worker.start()
        for slot, rows in enumerate((1, 2, 3)):
            connection.send(Batch(slot, 1, rows, ((2,),)))
        for _ in range(3):
            assert runner.begun.acquire(timeout=30), "all begin before the first has finished"
        assert not connection.poll()
        runner.gate.release(2)
        results = [connection.recv() for _ in range(3)]
        assert [result.slot for result in results] == [0, 1, 2]
        errors = [result.error and (result.error.status, result.error.message) for result in results]
        assert errors[0] is None
        assert errors[1] == (503, "no memory is left for this batch; send fewer rows, or try again later")
        assert errors[2] == (500, "m failed (SystemExit); the server's log has the details")
        connection.close()
        worker.join(30)
        assert not worker.is_alive()
        assert runner.closed.is_set()


@pytest.mark.parametrize(
    ("change", "complete"),
    [({}, True), ({"input": [{"name": "x", "data_type": "FP32", "dims": [-1]}]}, False),
     ({"output": [{"name": "y", "data_type": "BYTES", "dims": [2]}]}, False)],
)  # fmt: skip
def test_tensors_of_unknown_size_have_no_place(change: dict[str, Any], complete: bool) -> None:
    layout = Layout.of(ModelConfig.model_validate({**CONFIG.model_dump(), **change}))
    assert layout.complete is complete
