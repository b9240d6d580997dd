"""What Prometheus is shown of the data plane's own counters and of allocations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any

from gateway.compile.registry import Registry
from gateway.dataplane.worker import Worker
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.telemetry.metrics import Metrics
from policies.allocation.model import Allocation


class Gauges:
    """The figures of one process. ``counts``: further counters, each with what it shows."""

    def __init__(
        self,
        metrics: Metrics,
        registry: Registry,
        worker: Callable[[], Worker],
        counts: Callable[[], list[tuple[Any, Counter[Any]]]],
    ) -> None:
        self._metrics = metrics
        self._registry = registry
        self._worker = worker
        self._counts = counts

    async def step(self) -> None:
        """`update`, as a loop's step."""
        self.update()

    def text(self) -> bytes:
        """Return the metrics of all workers in the Prometheus text format."""
        self.update()
        return self._metrics.text()

    def update(self) -> None:
        """Brings all of them up to date."""
        m, worker = self._metrics, self._worker()
        m.connections.set(len(worker.connections))
        m.advance(m.refusals, worker.refusals)
        m.advance(m.internal_errors, INTERNAL_ERRORS.counts)
        m.advance(m.shadows, worker.shadow.counts)
        for counter, counts in self._counts():
            m.advance(counter, counts)
        now, healths = perf_counter(), worker.healths()
        for name, backend in self._registry.backends.items():
            for address in backend.addresses:
                labels = (name, address.name)
                m.in_flight.labels(*labels).set(address.in_flight)
                well = all(h.barred(address, now) == "healthy" for h in healths)
                m.healthy.labels(*labels).set(1 if well else 0)
                failing = any(h.failing(address) is not None for h in healths)
                m.failing.labels(*labels).set(1 if failing else 0)


def show_allocation(metrics: Metrics, name: str, epoch: int, allocation: Allocation) -> None:
    """The epoch and the shares of a route."""
    metrics.epoch.labels(name).set(epoch)
    for variant, probability in allocation.as_dict().items():
        metrics.share.labels(name, variant).set(probability)
