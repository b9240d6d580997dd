"""Whether a bandit's leader is shown to be best, and by how much.

Beliefs among equal variants wander: looked at all the time, one of two equal ones is "best with 95 %" at some moment
in most runs. So a winner needs always-valid intervals too. A variant's martingale bets on its next value given the
past, so its intervals hold whatever shares the bandit chose, as long as its mean is constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from policies.bayes.prior import Model
from policies.sequential.metric_comparison import Evidence, Interval, measure
from policies.types import Goal, RewardSums


class Aim(NamedTuple):
    """One metric that a winner is to be better in, with its weight in the utility."""

    metric: str
    model: Model
    goal: Goal
    weight: float


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much a leader is better than the next best, in the metric's own unit (of a utility: in the utility's)."""

    over: str
    difference: float
    """As observed, and too large on average: the leader is named because it looks best."""
    shrunk: float
    """The same, shrunk towards no difference by what chance alone would show (positive-part James-Stein)."""
    interval: Interval
    """Always valid, at the level of the stop rule."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "over": self.over,
            "difference": self.difference,
            "shrunk": self.shrunk,
            "interval": list(self.interval),
        }


def shown_lead(
    leader: str,
    others: Sequence[str],
    aims: Sequence[Aim],
    sums: Mapping[tuple[str, str], RewardSums],
    alpha: float,
) -> Lead | None:
    """The lead of ``leader`` where it is shown to be better than each of ``others``; else None.

    A wrong leader must be shown wrongly to be better than the best variant. Each comparison has the level
    ``alpha`` over the number of others, so any wrong leader is shown with probability at most ``alpha``.
    """
    leads = []
    for other in others:
        lead = _against(leader, other, aims, sums, alpha / (len(others) * len(aims)))
        if lead is None or lead.interval[0] <= 0:
            return None
        leads.append(lead)
    return min(leads, key=lambda lead: lead.difference, default=None)


def _against(
    leader: str,
    other: str,
    aims: Sequence[Aim],
    sums: Mapping[tuple[str, str], RewardSums],
    alpha: float,
) -> Lead | None:
    low = high = difference = variance = 0.0
    for aim in aims:
        first, second = (
            Evidence(
                rewards={aim.metric: sums.get((v, aim.metric), RewardSums())}, kinds={aim.metric: aim.model}
            )
            for v in (other, leader)
        )
        found = measure(aim.metric, first, second, ratio=False)
        interval = found.interval(alpha, 1.0) if min(found.samples, found.baseline_samples) > 0 else None
        if interval is None:
            return None
        sign = aim.weight if aim.goal == "maximize" else -aim.weight
        low += min(sign * interval[0], sign * interval[1])
        high += max(sign * interval[0], sign * interval[1])
        difference += sign * (found.candidate - found.baseline)
        spread = sum(_variance_of_mean(e.rewards[aim.metric]) for e in (first, second))
        variance += aim.weight**2 * spread
    kept = max(0.0, 1.0 - variance / difference**2) if difference else 0.0
    return Lead(other, difference, difference * kept, (low, high))


def _variance_of_mean(sums: RewardSums) -> float:
    return max(sums.squares / sums.count - sums.mean**2, 0.0) / sums.count
