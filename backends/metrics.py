"""`GET /metrics`: the counts of every loaded version, read when they are asked for and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UntypedMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from backends.registry import Registry
from backends.served import Served
from backends.stats import Histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "turnout_backend_"
_LABELS = ("model", "version")
_HISTOGRAMS = {
    "request_seconds": "From a request's arrival in the queue to its response.",
    "queue_seconds": "What a request waited before its batch began.",
    "compute_seconds": "One batch: copied to the device, run, copied back.",
    "batch_rows": "Rows of one batch.",
}

_TRITON: dict[str, tuple[str, Callable[[Served], float]]] = {
    "request_success": ("Requests served.", lambda one: one.stats.success.count),
    "count": ("Rows served.", lambda one: one.stats.inferences),
    "exec_count": ("Batches run.", lambda one: one.stats.executions),
    "request_duration_us": ("Of requests, summed.", lambda one: one.stats.success.ns // 1000),
    "queue_duration_us": ("Of waiting, summed.", lambda one: one.stats.queue.ns // 1000),
    "compute_input_duration_us": (
        "Of the inputs of each request's batch, summed.",
        lambda one: one.stats.compute.input.ns // 1000,
    ),
    "compute_infer_duration_us": (
        "Of the model in each request's batch, summed.",
        lambda one: one.stats.compute.infer.ns // 1000,
    ),
    "compute_output_duration_us": (
        "Of the outputs of each request's batch, summed.",
        lambda one: one.stats.compute.output.ns // 1000,
    ),
    "pending_request_count": ("Requests that wait now.", lambda one: one.waiting),
}


class Metrics:
    """Prometheus' text for one registry of models."""

    def __init__(self, models: Registry) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_Collector(models))

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Collector:
    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        served = [one for model in self._models.models.values() for one in model.versions.values()]
        yield _requests(served)
        yield _counter("rows", "Rows served.", {one: one.stats.inferences for one in served})
        yield _counter("batches", "Batches run.", {one: one.stats.executions for one in served})
        waiting = GaugeMetricFamily(f"{_PREFIX}queue_requests", "Requests that wait now.", labels=_LABELS)
        for one in served:
            waiting.add_metric((one.name, one.version), one.waiting)
        yield waiting
        for name, text in _HISTOGRAMS.items():
            family = HistogramMetricFamily(_PREFIX + name, text, labels=_LABELS)
            for one in served:
                histogram: Histogram = getattr(one.stats, name)
                family.add_metric((one.name, one.version), _buckets(histogram), histogram.total)
            yield family
        yield from _triton(served)


def _triton(served: list[Served]) -> Iterable[Metric]:
    """Triton's names, where its meaning is the same."""
    for name, (text, read) in _TRITON.items():
        # Untyped: the client library ends the name of a counter with _total, and Triton does not.
        family = UntypedMetricFamily(f"nv_inference_{name}", text, labels=_LABELS)
        for one in served:
            family.add_metric((one.name, one.version), read(one))
        yield family
    failures = UntypedMetricFamily(
        "nv_inference_request_failure", "Requests failed, by reason.", labels=(*_LABELS, "reason")
    )
    for one in served:
        failures.add_metric((one.name, one.version, "REJECTED"), one.stats.rejected)
        failures.add_metric((one.name, one.version, "OTHER"), one.stats.fail.count)
    yield failures


def _requests(served: list[Served]) -> CounterMetricFamily:
    family = CounterMetricFamily(
        f"{_PREFIX}requests",
        "Inference requests by outcome: answered, invalid, failed (or timed out), rejected (queue full).",
        labels=(*_LABELS, "outcome"),
    )
    for one in served:
        stats = one.stats
        ends = {
            "answered": stats.success.count,
            "invalid": stats.invalid,
            "failed": stats.fail.count,
            "rejected": stats.rejected,
        }
        for outcome, count in ends.items():
            family.add_metric((one.name, one.version, outcome), count)
    return family


def _counter(name: str, text: str, counts: dict[Served, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=_LABELS)
    for one, count in counts.items():
        family.add_metric((one.name, one.version), count)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
