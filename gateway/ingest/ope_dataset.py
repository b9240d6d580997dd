"""The record as off-policy evaluation reads it: what each decision's reward counts as.

The same rules hold as for the sums that a bandit learns from: a reward belongs to the variant assigned, a
rescued decision counts as the metric's worst value (or not at all where it has none: fallback never credits the
rescuer), and a missing one counts as the metric says once its window is over (`gateway.ingest.reward_value`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.config.document import Metric
from gateway.ingest.reward_value import worth
from gateway.record.events import Outcome
from gateway.state.base import DecisionRecord
from policies.contextual.features import Raw
from policies.offpolicy import Logged


@dataclass(slots=True)
class Reading:
    """One metric's rewards, decision by decision. ``metric``: as it is declared, where that is known.

    Without the declaration a decision without a reward stays without one, however old it is.
    """

    name: str
    metric: Metric | None = None
    now: float = 0.0
    """Seconds since the epoch: decisions whose window is open then are left out where a missing value counts,
    with a reward or without, or those that are quick to earn one would be taken for better."""
    rows: list[Logged] = field(default_factory=list)
    window_open: int = 0

    def add(self, records: Iterable[DecisionRecord]) -> None:
        for record in records:
            outcome = record.outcome
            if outcome is None:
                continue
            if self._counts_missing and outcome.time + self._window > self.now:
                self.window_open += 1
                continue
            value = worth(record, self.name, self.metric, now=self.now)
            unit = f"{outcome.unit:016x}" if outcome.sticky else ""
            features = _features(outcome)
            self.rows.append(
                Logged(outcome.assigned, outcome.propensity, value, unit, features, outcome.forced)
            )

    @property
    def _counts_missing(self) -> bool:
        return self.metric is not None and self.metric.missing == "zero"

    @property
    def _window(self) -> float:
        return self.metric.window if self.metric is not None else 0.0


def _features(outcome: Outcome) -> Raw:
    if not outcome.features:
        return {}
    found = json.loads(outcome.features)
    return found if isinstance(found, dict) else {}
