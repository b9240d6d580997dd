"""One version of one model while it is loaded: its queue, its instances, its counts."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import numpy as np

from backends.batching.entry import Entry, Report
from backends.batching.instance import Executable, Instance
from backends.batching.queue import Queue
from backends.config import ModelConfig
from backends.errors import ServerError, Unavailable
from backends.repository import FoundVersion
from backends.stats import Stats
from backends.wire.request import InferRequest
from backends.wire.signature import Signature


class Served:
    """Made on the event loop; all its methods belong there."""

    def __init__(self, config: ModelConfig, found: FoundVersion) -> None:
        batching = config.dynamic_batching
        self.config = config
        self.found = found
        self.name = config.name
        self.version = str(found.number)
        self.signature = Signature.of(config)
        self.stats = Stats()
        self.queue = Queue(
            max(config.max_batch_size, 1),
            batching.max_queue_delay_microseconds * 1000,
            batching.default_queue_policy.max_queue_size,
        )
        self._timeout = batching.default_queue_policy.default_timeout_microseconds / 1e6
        self._instances: list[Instance] = []

    async def start(self, device: str, threads: int) -> None:
        """Loads and warms every instance. Raises LoadError; nothing of it is left running then."""
        loop = asyncio.get_running_loop()
        try:
            for index, place in enumerate(await asyncio.to_thread(_devices, self.config, device)):
                load = partial(_executable, self.config, self.found, place, threads)
                name = f"{self.name} version {self.version}" + (f" instance {index}" if index else "")
                self._instances.append(Instance(name, self.queue, load, self._deliver, loop))
            await asyncio.gather(*(asyncio.wrap_future(instance.ready) for instance in self._instances))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Takes no more requests, answers those that wait, and frees the model."""
        self.queue.close()
        await asyncio.gather(*(asyncio.wrap_future(instance.ended) for instance in self._instances))
        self._instances.clear()

    def submit(self, request: InferRequest) -> Entry:
        """Queues ``request``; its answer comes to the entry's future. Raises Unavailable."""
        now = time.perf_counter_ns()
        timeout = request.timeout or self._timeout
        future: asyncio.Future[list[np.ndarray]] = asyncio.get_running_loop().create_future()
        deadline = now + int(timeout * 1e9) if timeout else 0
        entry = Entry(request.inputs, request.rows, request.key, future, now, deadline)
        try:
            self.queue.put(entry)
        except Unavailable:
            self.stats.rejected += 1
            raise
        return entry

    def abandon(self, entry: Entry, reason: ServerError) -> None:
        """Nobody waits for ``entry`` any more: it leaves the queue, or its answer is dropped."""
        if not entry.future.done():
            entry.future.set_exception(reason)
        self.queue.discard(entry)

    def _deliver(self, report: Report) -> None:
        for entry, outputs in report.answered:
            if not entry.future.done():
                entry.future.set_result(outputs)
        for entry, error in report.failed:
            if not entry.future.done():
                entry.future.set_exception(error)
        self.stats.record(report)


def _devices(config: ModelConfig, device: str) -> list[str]:
    # torch takes seconds to import, so it is imported here, off the event loop, while health is answered.
    from backends.runtime.load import devices

    return devices(config, device)


def _executable(config: ModelConfig, found: FoundVersion, device: str, threads: int) -> Executable:
    from backends.runtime.load import executable

    return executable(config, found, device, threads)
