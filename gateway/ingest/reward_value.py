"""The value of one decision in a metric, by the same rules as the sums (`gateway.ingest.evidence`)."""

from __future__ import annotations

from gateway.config.service import MetricConfig
from gateway.ingest.metric_values import worst
from gateway.state.base import DecisionRecord
from gateway.state.tally import counted_value


def reward_value(
    record: DecisionRecord, name: str, metric: MetricConfig | None, *, now: float
) -> float | None:
    """The value of the metric ``name`` for one decision; None if the decision does not count.

    Args:
        record: The decision.
        name: Name of the metric.
        metric: Its declaration; None if it is no longer declared, and missing values do not count.
        now: Seconds since the epoch. If missing values count, a decision counts once its window is over.
    """
    outcome = record.outcome
    reported = next((r for r in record.rewards if r.metric == name and r.value is not None), None)
    value = counted_value(reported) if reported is not None else None
    if metric is None or metric.missing != "zero":
        return value
    if outcome is None or outcome.forced or outcome.time + metric.window > now:
        return None
    if value is not None:
        return value
    return (worst(metric) or 0.0) if outcome.failed else 0.0
