"""What off-policy evaluation reads of the record: decisions with their rewards.

The rules are those of the sums that a bandit learns from (`gateway.ingest.reward_value`): a reward belongs to the
variant assigned, a decision rescued by fallback counts as the metric's worst value (or not at all if it has none),
and a missing reward counts as the metric declares once its window is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.config.service import MetricConfig
from gateway.ingest.reward_value import reward_value
from gateway.record.events import Outcome
from gateway.state.base import DecisionRecord
from policies.contextual.features import Raw
from policies.offpolicy.sums import Logged

_UNIT_MASK: Final = (1 << 64) - 1


@dataclass(slots=True)
class OffPolicyDataset:
    """The decisions of one route with their rewards in one metric."""

    name: str
    metric: MetricConfig | None = None
    """Declaration of the metric; None if unknown: missing rewards then stay missing."""
    now: float = 0.0
    """Seconds since the epoch. If missing values count, decisions whose window is still open are left out, with a
    reward or without: those that earn it quickly would look better than they are."""
    skip: int = 0
    """Decisions that remain to be left out before the first that counts."""
    window_open: int = 0
    """Decisions left out because their window is still open."""

    def rows(self, records: Iterable[DecisionRecord]) -> list[Logged]:
        """The decisions of ``records`` that count; those without an outcome are skipped."""
        rows = []
        for record in records:
            outcome = record.outcome
            if outcome is None:
                continue
            if self._counts_missing and outcome.time + self._window > self.now:
                self.window_open += 1
                continue
            value = reward_value(record, self.name, self.metric, now=self.now)
            unit = outcome.unit & _UNIT_MASK if outcome.sticky else None
            features = _features(outcome)
            rows.append(Logged(outcome.assigned, outcome.propensity, value, unit, features, outcome.forced))
        skipped = min(self.skip, len(rows))
        self.skip -= skipped
        return rows[skipped:]

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
