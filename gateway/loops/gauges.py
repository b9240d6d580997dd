"""Prometheus gauges of the data plane and of allocations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from gateway.compile.registry import Registry
from gateway.dataplane.worker import Worker
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.telemetry.metrics import Metrics
from policies.allocation.model import Allocation


@dataclass(frozen=True, slots=True)
class Gauges:
    """The gauges of one process. ``counts``: further counters, each with its totals."""

    metrics: Metrics
    registry: Registry
    worker: Callable[[], Worker]
    counts: Callable[[], list[tuple[Any, Counter[Any]]]]

    async def step(self) -> None:
        """`update`, as a loop's step."""
        self.update()

    def text(self) -> bytes:
        """Return the metrics of all workers in the Prometheus text format."""
        self.update()
        return self.metrics.text()

    def update(self) -> None:
        """Set all of them."""
        m, worker = self.metrics, self.worker()
        m.connections.set(len(worker.connections))
        m.advance(m.refusals, worker.refusals)
        m.advance(m.undecided, worker.undecided)
        m.advance(m.internal_errors, INTERNAL_ERRORS.counts)
        m.advance(m.shadows, worker.shadow.counts)
        for counter, counts in self.counts():
            m.advance(counter, counts)
        self._show_addresses()

    def _show_addresses(self) -> None:
        m, now, healths = self.metrics, perf_counter(), self.registry.healths.values()
        addresses = {
            (name, address.name): address
            for name, backend in self.registry.backends.items()
            for address in backend.addresses
        }
        m.show(m.in_flight, {labels: a.in_flight for labels, a in addresses.items()})
        m.show(
            m.healthy,
            {key: all(h.barred(a, now) == "healthy" for h in healths) for key, a in addresses.items()},
        )
        m.show(
            m.failing,
            {key: any(h.failing(a) is not None for h in healths) for key, a in addresses.items()},
        )


def show_allocation(metrics: Metrics, name: str, epoch: int, allocation: Allocation) -> None:
    """Set the epoch and the shares of a route."""
    metrics.epoch.labels(name).set(epoch)
    for variant, probability in allocation.as_dict().items():
        metrics.share.labels(name, variant).set(probability)
