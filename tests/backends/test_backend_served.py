"""A version that ends, hangs or can't be replaced: each of its requests has a response."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import served
from backends.batching import loop
from backends.batching.deadlines import Deadlines
from backends.batching.entry import FutureEntry, Spans
from backends.config import ModelConfig
from backends.errors import ModelFailed, Unavailable
from backends.repository import FoundVersion
from backends.served import Served
from tests.backends.test_backend_batching import Doubler, Slow


def tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "data_type": datatype, "dims": [1]}


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, model: Doubler, **config: Any) -> AsyncIterator[Served]:
    """A started version of ``model``, one request a batch."""
    monkeypatch.setattr(served, "devices_of", lambda *_: ["cpu"])
    monkeypatch.setattr(served, "_load", lambda *_: model)
    document = {
        "name": "m",
        "platform": "pytorch_module",
        "max_batch_size": 1,
        "input": [tensor("x", "TYPE_FP64")],
        "output": [tensor("y", "TYPE_FP64"), tensor("z", "TYPE_INT64")],
        **config,
    }
    version = FoundVersion("m", 1, Path("m/1"), ())
    one = Served(ModelConfig.model_validate(document), version)
    async with asyncio.timeout(60):
        await one.start("cpu", 1)
        try:
            yield one
        finally:
            model.gate.set()
            await one.stop()


def entry(value: float) -> FutureEntry:
    return FutureEntry((np.full((1, 1), value),), 1, ((1,),), time.perf_counter_ns())


def put(one: Served, value: float) -> asyncio.Future[list[np.ndarray]]:
    asked = entry(value)
    one.submit(asked)
    return asked.future


async def test_what_waits_behind_a_hanging_batch_is_answered_when_the_version_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch, Doubler(threading.Event()), batch_timeout_microseconds=1000) as one:
        hanging, behind = put(one, 1.0), put(one, 2.0)
        while one.waiting > 1:
            await asyncio.sleep(0.001)
        ending = asyncio.create_task(one.stop())
        while not ending.done():
            await asyncio.sleep(0.01)
            one.watch(time.perf_counter_ns())
        with pytest.raises(ModelFailed):
            await hanging
        with pytest.raises(Unavailable, match="being unloaded"):
            await behind


class Closable(Slow):
    closed = False

    def close(self) -> None:
        self.closed = True

    def run(
        self, parts: Sequence[tuple[Any, ...]], rows: int, key: tuple[tuple[int, ...], ...], spans: Spans
    ) -> list[np.ndarray]:
        assert not self.closed
        return super().run(parts, rows, key, spans)


async def test_a_model_that_leaves_the_loop_while_it_ends_is_not_freed_under_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "INTERRUPT_S", 1000.0)  # the machine may pause
    model = Closable(computing=True)
    async with serving(monkeypatch, model, executor="loop") as one:
        futures = [put(one, float(value)) for value in range(4)]
        await one.stop()
        assert one.executor == "thread"
        assert [(await future)[0].item() for future in futures] == [0.0, 2.0, 4.0, 6.0]
    assert model.closed


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_version_whose_instance_cannot_be_replaced_says_so_and_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its requests waited until their clients left, and the server said that it was ready."""
    monkeypatch.setattr(served, "MIN_PAUSE_S", 0.01)
    model = Doubler(threading.Event())
    async with serving(monkeypatch, model, batch_timeout_microseconds=1000) as one:
        hanging = put(one, 1.0)
        while one.waiting:
            await asyncio.sleep(0.001)
        behind = put(one, 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            while not hanging.done():
                await asyncio.sleep(0.01)
                one.watch(time.perf_counter_ns())
            with pytest.raises(Unavailable, match="is not served"):
                await behind
            assert "can't start new thread" in one.fault
            with pytest.raises(Unavailable, match="is not served"):
                put(one, 3.0)
        assert isinstance(hanging.exception(), ModelFailed)
        model.gate.set()
        while one.fault:
            await asyncio.sleep(0.01)
        assert (await put(one, 3.0))[0].item() == 6.0


async def test_a_model_that_leaves_the_loop_without_a_thread_for_it_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No thread could be started for it: later requests waited for good."""
    monkeypatch.setattr(loop, "INTERRUPT_S", 1000.0)  # the machine may pause
    monkeypatch.setattr(served, "MIN_PAUSE_S", 0.01)
    async with serving(monkeypatch, Slow(computing=True), executor="loop") as one:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            assert (await put(one, 1.0))[0].item() == 2.0
            while not one.fault:
                await asyncio.sleep(0.01)
        while one.fault:
            await asyncio.sleep(0.01)
        assert (one.executor, (await put(one, 2.0))[0].item()) == ("thread", 4.0)


async def test_a_version_ends_while_it_waits_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "INTERRUPT_S", 1000.0)  # the machine may pause
    monkeypatch.setattr(served, "MIN_PAUSE_S", 3600.0)
    async with serving(monkeypatch, Slow(computing=True), executor="loop") as one:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            await put(one, 1.0)
            while not one.fault:
                await asyncio.sleep(0.01)


async def test_a_deadline_keeps_no_tensor_of_a_request_that_has_its_response() -> None:
    """Sixty requests with a timeout of an hour held their tensors for it, uncounted."""
    expired: list[object] = []
    deadlines = Deadlines(expired.append)
    answered = []
    for number in range(20):
        one = entry(float(number))
        one.deadline = one.arrived + 3600 * 10**9
        deadlines.add(one)
        one.taken = True
        one.end()
        answered.append(weakref.ref(one))
    waits = entry(20.0)
    waits.deadline = one.arrived
    deadlines.add(waits)
    del one
    gc.collect()
    assert [reference() for reference in answered] == [None] * 20
    async with asyncio.timeout(60):
        while not expired:
            await asyncio.sleep(0.001)
    assert expired == [waits]
