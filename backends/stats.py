"""Counts of what one version did. Only the event loop's thread writes them, so they need no lock."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from backends.batching.entry import Report, Spans

SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound, as Prometheus has them; the last count is of what lies beyond all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, values: Sequence[float]) -> None:
        """Counts ``values``."""
        for value in values:
            self.counts[bisect_left(self.bounds, value)] += 1
        self.total += sum(values)


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """It happened ``count`` times, and took ``ns`` in all."""
        self.count += count
        self.ns += ns

    def as_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class BatchStats:
    """The steps of batches of one size, or of all requests."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, spans: Spans, count: int = 1) -> None:
        """Counts ``spans`` for each of ``count``."""
        self.input.add(spans.input * count, count)
        self.infer.add(spans.infer * count, count)
        self.output.add(spans.output * count, count)

    def as_dict(self) -> dict[str, dict[str, int]]:
        return {
            "compute_input": self.input.as_dict(),
            "compute_infer": self.infer.as_dict(),
            "compute_output": self.output.as_dict(),
        }


@dataclass(slots=True)
class Stats:
    """All counts of one version."""

    inferences: int = 0
    """Rows answered."""
    executions: int = 0
    """Batches run."""
    last_inference: int = 0
    """Milliseconds since the epoch."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    invalid: int = 0
    """Refused because they were not what the model takes."""
    rejected: int = 0
    """Refused because the queue was full."""
    queue: Duration = field(default_factory=Duration)
    compute: BatchStats = field(default_factory=BatchStats)
    """By request: each counts the time of its whole batch, as in Triton, whose clients divide by requests."""
    by_rows: dict[int, BatchStats] = field(default_factory=dict)
    request_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    compute_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))

    def record(self, report: Report) -> None:
        """Counts a batch and its requests; times run from each request's arrival in the queue to now."""
        now = time.perf_counter_ns()
        arrivals = [entry.arrived for entry, _ in report.answered]
        self.success.add(now * len(arrivals) - sum(arrivals), len(arrivals))
        self.queue.add(report.started * len(arrivals) - sum(arrivals), len(arrivals))
        self.inferences += sum([entry.rows for entry, _ in report.answered])
        self.request_seconds.observe([(now - arrived) / 1e9 for arrived in arrivals])
        self.queue_seconds.observe([(report.started - arrived) / 1e9 for arrived in arrivals])
        for entry, _ in report.failed:
            self.fail.add(now - entry.arrived)
        if report.rows:
            self._count_batch(report)

    def record_ensemble(self, rows: int, ns: int) -> None:
        """Counts a request that took ``ns`` in the steps of an ensemble.

        It did not wait itself, and yet it counts as one that did: perf_analyzer looks for versions whose count grows.
        """
        self.success.add(ns)
        self.request_seconds.observe((ns / 1e9,))
        self.queue.add(0)
        self.compute.add(Spans(infer=ns))
        self._count()
        self.inferences += rows

    def _count_batch(self, report: Report) -> None:
        self._count()
        self.compute.add(report.spans, len(report.answered))
        self.by_rows.setdefault(report.rows, BatchStats()).add(report.spans)
        self.compute_seconds.observe((report.spans.total / 1e9,))
        self.batch_rows.observe((report.rows,))

    def _count(self) -> None:
        self.executions += 1
        self.last_inference = time.time_ns() // 1_000_000

    def as_dict(self) -> dict[str, object]:
        """As Triton's statistics extension has it, without name and version; some clients need every field."""
        return {
            "last_inference": self.last_inference,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.as_dict(),
                "fail": self.fail.as_dict(),
                "queue": self.queue.as_dict(),
                **self.compute.as_dict(),
                "cache_hit": Duration().as_dict(),
                "cache_miss": Duration().as_dict(),
            },
            "response_stats": {},
            "memory_usage": [],
            "batch_stats": [
                {"batch_size": rows, **stats.as_dict()} for rows, stats in sorted(self.by_rows.items())
            ],
        }
