"""What one decision counts as in a metric, by the rules that the sums are read by (`gateway.ingest.evidence`)."""

from __future__ import annotations

from gateway.ingest.evidence import Metric
from gateway.ingest.rewards import worst
from gateway.state.base import DecisionRecord
from gateway.state.tally import counted_value


def worth(record: DecisionRecord, name: str, metric: Metric | None, *, now: float) -> float | None:
    """The value of the metric ``name`` for a decision of the record; None where it counts as nothing.

    ``metric`` is how it is declared (None: nobody knows any more, and nothing missing counts), ``now`` in
    seconds since the epoch tells which windows are over: where missing values count, no decision does before.
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
