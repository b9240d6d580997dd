"""Prometheus metrics, updated from batches of the record and not by each request.

With several workers, prometheus_client's multiprocess mode keeps the values of each in files of a directory
(PROMETHEUS_MULTIPROC_DIR), so that a scrape of any worker covers all of them.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway import build
from gateway.record.events import BLAMELESS, UNSEEN, Outcome, Shadowed, columns, grouped, is_client_error

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each metric, without use

LATENCY_BUCKETS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
FIRST_TOKEN_BUCKETS_S: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
OVERHEAD_BUCKETS_S: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0,
)  # fmt: skip
_ROUTE: Final = re.compile(rb'[{,]route="([^"]*)"')
_STATUS: Final = Outcome._fields.index("status")
_Across = Literal["livemax", "livemin", "livemostrecent", "livesum", "max", "min", "mostrecent"]
"""How the values that several workers have become one (prometheus_client's multiprocess modes)."""


class Metrics(Collector):
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._process = CollectorRegistry()
        """CPU, memory and files of the process; not shown with several workers, where it would be any one of them."""
        ProcessCollector(registry=self._process)
        r = self.registry

        def counter(name: str, text: str, labels: str = "") -> Counter:
            return Counter(name, text, labels.split(), registry=r)

        def histogram(name: str, text: str, labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels.split(), buckets=buckets, registry=r)

        def gauge(name: str, text: str, labels: str = "", across: _Across = "livemostrecent") -> Gauge:
            return Gauge(name, text, labels.split(), registry=r, multiprocess_mode=across)

        self.requests = counter(
            "turnout_requests_total",
            "Requests, by route, assigned variant and class of the status.",
            "route variant status",
        )
        self.decisions = counter(
            "turnout_decisions_total", "Decisions of POST /-/decide, by route and variant.", "route variant"
        )
        self.errors = counter(
            "turnout_errors_total",
            "Failures of the assigned variant, fallback or not, by error code.",
            "route variant code",
        )
        self.client_errors = counter(
            "turnout_client_errors_total",
            "Responses of the assigned variant that are charged to the client, such as 404 and 422.",
            "route variant",
        )
        self.fallbacks = counter(
            "turnout_fallbacks_total",
            "Requests served by another variant than the assigned one.",
            "route variant",
        )
        self.latency = histogram(
            "turnout_request_duration_seconds",
            "Time from a request's first byte to its response's last, by the variant that served it.",
            "route variant",
            buckets=LATENCY_BUCKETS_S,
        )
        self.overhead = histogram(
            "turnout_gateway_duration_seconds",
            "Time spent inside the gateway for a request.",
            "route",
            buckets=OVERHEAD_BUCKETS_S,
        )
        self.first_token = histogram(
            "turnout_time_to_first_token_seconds",
            "Time from a request's first byte to a stream's first token, by the variant that served it.",
            "route variant",
            buckets=FIRST_TOKEN_BUCKETS_S,
        )
        self.undecided = counter(
            "turnout_undecided_requests_total",
            "Requests that 'match.protocol' or 'match.infer' leaves out of the decisions, by class of the status.",
            "route status",
        )
        self.refusals = counter(
            "turnout_refusals_total", "Requests refused before a decision, by error code.", "code"
        )
        self.internal_errors = counter(
            "turnout_internal_errors_total", "Exceptions inside the gateway, by their type.", "type"
        )
        self.rewards = counter("turnout_rewards_total", "Reported values, by result.", "result")
        self.rejected_rewards = counter(
            "turnout_rewards_rejected_total", "Reported values that were rejected, by error code.", "code"
        )
        self.tokens = counter(
            "turnout_tokens_total",
            "Tokens of responses, by the variant that served: input, output, cached (part of the input).",
            "route variant type",
        )
        self.cost = counter(
            "turnout_cost_total", "Cost of responses at the variant's prices.", "route variant"
        )
        self.without_usage = counter(
            "turnout_responses_without_usage_total",
            "Good responses of routes with 'usage' that had no token counts.",
            "route variant",
        )
        self.shadows = counter(
            "turnout_shadow_requests_total",
            "Copies for shadows: offered, sent, failed, dropped:REASON, uncompared:REASON.",
            "route shadow event",
        )
        self.agreement = counter(
            "turnout_shadow_agreement_total",
            "Compared responses of shadows, by whether they agree with the primary's.",
            "route shadow agrees",
        )
        self.record = counter(
            "turnout_record_events_total", "Outcomes for the record: offered, written, dropped.", "event"
        )
        self.spans = counter(
            "turnout_trace_spans_total",
            "Spans of traced requests: offered, exported, rejected, failed, dropped.",
            "event",
        )
        self.webhooks = counter(
            "turnout_webhook_posts_total",
            "Events posted to webhooks, by their host: delivered, failed.",
            "host result",
        )
        self.share = gauge(
            "turnout_allocation_share",
            "The probability with which a variant is assigned.",
            "route variant",
            across="mostrecent",
        )
        self.epoch = gauge(
            "turnout_allocation_epoch", "The number of the allocation in force.", "route", across="max"
        )
        self.connections = gauge("turnout_client_connections", "Open client connections.", across="livesum")
        self.in_flight = gauge(
            "turnout_backend_in_flight",
            "Requests in flight at an address.",
            "backend address",
            across="livesum",
        )
        self.healthy = gauge(
            "turnout_backend_healthy",
            "1 while an address may be used, else 0.",
            "backend address",
            across="livemin",  # what a worker saw that has ended is over
        )
        self.failing = gauge(
            "turnout_backend_failing",
            "1 while the last attempts at an address all failed, else 0.",
            "backend address",
            across="livemax",
        )
        self.revision = gauge(
            "turnout_config_revision", "The revision of the configuration in force.", across="max"
        )
        self.reloaded = gauge(
            "turnout_config_last_reload_successful",
            "1 if the last configuration received is in force, else 0.",
            across="livemin",
        )
        self.reloaded_at = gauge(
            "turnout_config_last_reload_success_timestamp_seconds",
            "When a configuration was last put in force, in seconds since the epoch.",
            across="livemax",
        )
        self.build = gauge(
            "turnout_build_info",
            "Always 1; the labels are version, form of the hot path and interpreter.",
            "version form python",
            across="max",
        )
        self.build.labels(build.version(), build.form(), platform.python_version()).set(1)
        self.alarms = counter("turnout_alarms_total", "Alarms raised, by code.", "route code")
        self.rollout_state = gauge(
            "turnout_rollout_state", "1 for the current state of a rollout.", "route state"
        )
        self.rollout_stage = gauge(
            "turnout_rollout_stage", "The current stage of a rollout, from 1; 0 for the shadow gate.", "route"
        )
        self.verdict = gauge(
            "turnout_guardrail_verdict", "1 for the current verdict of a guardrail.", "route metric verdict"
        )
        self.standing_alarm = gauge("turnout_alarm_standing", "1 while an alarm stands.", "route code")
        self.probability_best = gauge(
            "turnout_probability_best",
            "The probability that a variant of a bandit is the best one.",
            "route variant",
        )
        self.published_at = gauge(
            "turnout_allocation_timestamp_seconds",
            "When the allocation in force was published, in seconds since the epoch.",
            "route",
            across="livemax",
        )
        self.store_ready = gauge(
            "turnout_store_ready", "1 while the store can be reached, else 0.", across="livemin"
        )
        self.started_without_store = gauge(
            "turnout_started_without_store",
            "1 while a process serves the last state of a store that was unavailable at its start, else 0.",
            across="livemax",
        )
        self.spool_bytes = gauge(
            "turnout_spool_bytes", "Bytes of rewards that wait in the spool for the store.", across="livesum"
        )
        self.engine_node_state = gauge(
            "turnout_engine_node_state",
            "1 for the current state of a node of an engine.",
            "engine node state",
        )
        self.engine_rows = gauge(
            "turnout_engine_rows",
            "Rows of a node since its start, as it counts them: delivered, lost.",
            "engine node event",
        )
        self.certificate_expiry = gauge(
            "turnout_certificate_expiry_timestamp_seconds",
            "When a certificate of the configuration expires, in seconds since the epoch.",
            "path",
        )
        self._seen: dict[object, Tally[Any]] = {}
        self._current: dict[str, frozenset[frozenset[tuple[str, str]]]] = {}
        """By name of a gauge that `show` set, the labels of its current series."""

    def configured(self, revision: int, now: float) -> None:
        """Record that ``revision`` is in force since ``now`` (seconds since the epoch)."""
        self.revision.set(revision)
        self.reloaded_at.set(now)

    # Batches ------------------------------------------------------------------------------------------
    def outcomes(self, batch: Sequence[Outcome]) -> None:
        """Count a batch of at least one outcome; thread-safe.

        Works by column: one increment for each series, not for each request.
        """
        c = columns(batch)
        if UNSEEN in c.status:
            unseen = [row for row in batch if row[_STATUS] == UNSEEN]
            for (route, variant), count in _counted(columns(unseen).route, columns(unseen).assigned):
                self.decisions.labels(route, variant).inc(count)
            if len(unseen) < len(batch):
                self.outcomes([row for row in batch if row[_STATUS] != UNSEEN])
            return
        for (route, variant, status), count in _counted(c.route, c.assigned, c.status):
            self.requests.labels(route, variant, f"{status // 100}xx").inc(count)
        self._failures(c)
        if any(c.fallback):
            for (route, variant, fallback), count in _counted(c.route, c.assigned, c.fallback):
                if fallback:
                    self.fallbacks.labels(route, variant).inc(count)
        for (route, variant), times in _parted((c.route, c.served), c.total_ms):
            if variant:
                _observe_all(self.latency.labels(route, variant), times, LATENCY_BUCKETS_S)
        for (route,), times in _parted((c.route,), c.gateway_ms):
            _observe_all(self.overhead.labels(route), times, OVERHEAD_BUCKETS_S)

    def _failures(self, c: Any) -> None:
        """Count the errors of variants, and those of clients."""
        if any(c.error):
            for (route, variant, code), count in _counted(c.route, c.assigned, c.error):
                if code not in BLAMELESS:
                    self.errors.labels(route, variant, code).inc(count)
        if any(map(is_client_error, set(c.status))):
            results = _counted(c.route, c.assigned, c.served, c.status, c.error)
            for (route, variant, served, status, error), count in results:
                if is_client_error(status) and not error and served == variant:
                    self.client_errors.labels(route, variant).inc(count)

    def shadowed(self, batch: Iterable[Shadowed]) -> None:
        """Count the comparisons in a batch of shadow results."""
        for s in batch:
            if s.agrees is not None:
                self.agreement.labels(s.route, s.shadow, str(s.agrees).lower()).inc()

    def advance(self, counter: Counter, counts: Tally[Any]) -> None:
        """Raise ``counter`` to the totals in ``counts``, by label values; totals do not decrease."""
        seen = self._seen.setdefault(counter, Tally())
        for key, count in counts.items():
            delta = count - seen[key]
            if delta > 0:
                seen[key] = count
                counter.labels(*(key if isinstance(key, tuple) else (key,))).inc(delta)

    def show(self, gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        """Set the series of ``gauge``, by label values, in order; all others disappear.

        prometheus_client can't remove a series from the files that workers share, so `collect` leaves them out.
        """
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        names = gauge._labelnames
        self._current[gauge._name] = frozenset(frozenset(zip(names, each, strict=True)) for each in values)

    # The scrape ---------------------------------------------------------------------------------------
    def text(self) -> bytes:
        """All metrics of all workers in the Prometheus text format."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            return generate_latest(self)
        return generate_latest(self) + generate_latest(self._process)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all workers, without series that no longer exist."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        for metric in registry.collect():
            current = self._current.get(metric.name)
            if current is not None:
                metric.samples = [s for s in metric.samples if frozenset(s.labels.items()) in current]
            yield metric


def of_routes(text: bytes, routes: frozenset[str]) -> bytes:
    """The series of ``routes`` in a text of the Prometheus format.

    Series without a route are left out: they cover all routes.
    """
    shown: list[bytes] = []
    about: list[bytes] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(b"#"):
            about = [*about, line] if about and about[-1].split(b" ")[2] == line.split(b" ")[2] else [line]
        elif (found := _ROUTE.search(line)) is not None and found[1].decode() in routes:
            shown += (*about, line)
            about = []
    return b"".join(shown)


def _counted(*by_column: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Distinct rows with their number of occurrences."""
    rows, codes = grouped(*by_column)
    return zip(rows, np.bincount(codes).tolist(), strict=True)


def _parted(
    by_column: Sequence[Sequence[str]], times_ms: Sequence[float]
) -> Iterator[tuple[tuple[str, ...], NDArray[np.float64]]]:
    """Distinct rows with their times in seconds."""
    rows, codes = grouped(*by_column)
    times = np.asarray(times_ms, np.float64) / 1e3
    for place, row in enumerate(rows):
        yield row, times if len(rows) == 1 else times[codes == place]


def _observe_all(histogram: Histogram, values: NDArray[np.float64], edges: tuple[float, ...]) -> None:
    """`Histogram.observe` for many values: one increment per bucket.

    Uses private counters of the library, which has no call for a batch.
    """
    counts = np.bincount(np.searchsorted(np.array(edges), values))
    for place in np.flatnonzero(counts).tolist():
        histogram._buckets[place].inc(int(counts[place]))
    histogram._sum.inc(float(values.sum()))
