"""How a variant serves, as JSON: requests, errors, and quantiles of latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.control.reports.estimates import LEVEL, estimate
from gateway.record.histogram import Ranked, merge
from gateway.state.base import Counts
from policies.types import RewardSums

Json = dict[str, Any]

LATENCIES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
GATEWAY: Final = {"p50": 0.5, "p99": 0.99}
"""Quantiles of the time inside the gateway."""


def served(counts: Counts, client_errors: RewardSums) -> Json:
    """Return how many requests there were, their errors, and the latency of their responses.

    ``client_errors``: the sums of `CLIENT_ERROR_RATE`.
    """
    return {
        "assigned": counts.assigned,
        "served": counts.served,
        "errors": counts.errors,
        "error_rate": error_rate(counts),
        "client_errors": round(client_errors.total),
        "client_error_rate": client_error_rate(client_errors),
        "latency_ms": latencies(counts.latency, LATENCIES),
        "latency_interval_ms": latency_intervals(counts.latency),
    }


def together(counts: Mapping[str, Counts]) -> Counts:
    """All variants as one."""
    each = list(counts.values())
    return Counts(
        assigned=sum(c.assigned for c in each),
        served=sum(c.served for c in each),
        errors=sum(c.errors for c in each),
        fallbacks=sum(c.fallbacks for c in each),
        latency=merge(c.latency for c in each),
        gateway=merge(c.gateway for c in each),
        unseen=sum(c.unseen for c in each),
    )


def error_rate(counts: Counts) -> Json:
    """Return errors per assignment whose response is seen; a failure hidden by a fallback counts."""
    errors = float(min(counts.errors, counts.seen))
    return estimate("boolean", RewardSums(counts.seen, errors, errors))


def client_error_rate(sums: RewardSums) -> Json:
    """Return client errors per assignment whose response is seen; one that the gateway itself sends is none."""
    return estimate("boolean", sums)


def latencies(histogram: Mapping[int, int], wanted: Mapping[str, float]) -> dict[str, float] | None:
    """Return quantiles in milliseconds with three significant digits (they are within 1 %); None without responses."""
    ranked = Ranked(histogram)
    found = {name: ranked.quantile(q) for name, q in wanted.items()}
    known = {name: _digits(value) for name, value in found.items() if value is not None}
    return known or None


def latency_intervals(histogram: Mapping[int, int]) -> Json | None:
    """Return 95 % intervals of the quantiles that `LATENCIES` names; the upper end is None with too few responses."""
    found, ranked = {}, Ranked(histogram)
    for name, q in LATENCIES.items():
        ends = ranked.interval(q, LEVEL)
        if ends is not None:
            found[name] = [None if end is None else _digits(end) for end in ends]
    return found or None


def _digits(ms: float) -> float:
    return float(f"{ms:.3g}")
