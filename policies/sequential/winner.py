"""Whether a bandit's leader is shown to be best, and by how much.

Beliefs among equal variants wander: looked at all the time, one of two equal ones is "best with 95 %" at some moment
in most runs. So a winner needs always-valid intervals too. Where shares moved, as a bandit's do, values are weighted
by the propensities of their decisions (`policies.sequential.design_based`): a level that rises for all variants alike
would otherwise favour the variant that was drawn more often later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from policies.sequential.design_based import Periods, WeightedSums
from policies.sequential.metric_comparison import (
    Evidence,
    Interval,
    MetricComparison,
    compare_weighted,
    measure,
)
from policies.types import Goal, MetricType, RewardSums


class Aim(NamedTuple):
    """One metric that a winner is to be better in, with its weight in the utility."""

    metric: str
    model: MetricType
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
    periods: Periods | None = None,
) -> Lead | None:
    """The lead of ``leader`` where it is shown to be better than each of ``others``; else None.

    A wrong leader must be shown wrongly to be better than the best variant. Each comparison has the level
    ``alpha`` over the number of others, so any wrong leader is shown with probability at most ``alpha``.
    ``periods``: the same observations by period of constant propensities; None: shares were constant.
    """
    leads = []
    for other in others:
        pairs = [_compared(leader, other, aim, sums, periods) for aim in aims]
        lead = _lead(other, aims, pairs, alpha / (len(others) * len(aims)))
        if lead is None or lead.interval[0] <= 0:
            return None
        leads.append(lead)
    return min(leads, key=lambda lead: lead.difference, default=None)


_Pair = tuple[MetricComparison, float]
"""The comparison of one metric, and the variance of the difference of both means."""


def _compared(
    leader: str,
    other: str,
    aim: Aim,
    sums: Mapping[tuple[str, str], RewardSums],
    periods: Periods | None,
) -> _Pair:
    first, second = (sums.get((v, aim.metric), RewardSums()) for v in (other, leader))
    if periods is not None and (periods.moved(other, leader) or periods.one_by_one(aim.metric)):
        weighted = periods.weighted(aim.metric, other, leader)
        return compare_weighted(*weighted, ratio=False), sum(map(_squared_error, weighted))
    kinds = {aim.metric: aim.model}
    pair = (Evidence(rewards={aim.metric: one}, kinds=kinds) for one in (first, second))
    variance = sum(_squared_error(WeightedSums.of(one, 1.0)) for one in (first, second))
    return measure(aim.metric, *pair, ratio=False), variance


def _lead(other: str, aims: Sequence[Aim], pairs: Sequence[_Pair], alpha: float) -> Lead | None:
    low = high = difference = variance = 0.0
    for aim, (found, error) in zip(aims, pairs, strict=True):
        interval = found.interval(alpha, 1.0) if min(found.samples, found.baseline_samples) > 0 else None
        if interval is None:
            return None
        sign = aim.weight if aim.goal == "maximize" else -aim.weight
        # Each metric has its part of alpha, so that the sum of the intervals holds whatever their correlation.
        low += min(sign * interval[0], sign * interval[1])
        high += max(sign * interval[0], sign * interval[1])
        difference += sign * (found.candidate - found.baseline)
        variance += aim.weight**2 * error
    square = difference**2  # 0 of a difference below 1e-162, too
    kept = max(0.0, 1.0 - variance / square) if square else 0.0
    return Lead(other, difference, difference * kept, (low, high))


def _squared_error(sums: WeightedSums) -> float:
    """Of the mean; 0 below two values."""
    sample = sums.sample()
    return 0.0 if sample is None else sample.squared_error
