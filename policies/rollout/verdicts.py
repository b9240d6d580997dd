"""What a guardrail asks, and what it says: the limit, and the verdict on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from policies.sequential.metric_comparison import Interval

Outcome = Literal["pass", "fail", "inconclusive", "error"]


Bound = Literal["max_increase", "max_decrease", "max_ratio", "min_ratio"]


@dataclass(frozen=True, slots=True)
class Guardrail:
    """How much worse than the baseline's a metric may be. Exactly one of the four limits.

    ``metric``: ``error_rate``, ``latency_p50`` (p95, p99, p999, ...; milliseconds) or a declared metric.
    ``max_increase`` and ``max_decrease`` are in the metric's own unit (0.005 is half a percentage point
    of a rate), ``max_ratio`` and ``min_ratio`` are of candidate / baseline. Raises ValueError when not exactly one
    is given.
    """

    metric: str
    max_increase: float | None = None
    max_decrease: float | None = None
    max_ratio: float | None = None
    min_samples: int = 0
    min_ratio: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in self._limits().values() if limit is not None]
        if len(limits) != 1 or not math.isfinite(limits[0]) or limits[0] < 0:
            raise ValueError(
                f"the guardrail on {self.metric!r} needs exactly one of max_increase, max_decrease, "
                "max_ratio and min_ratio, a finite number not below 0"
            )

    def _limits(self) -> dict[Bound, float | None]:
        return {
            "max_increase": self.max_increase,
            "max_decrease": self.max_decrease,
            "max_ratio": self.max_ratio,
            "min_ratio": self.min_ratio,
        }

    @property
    def bound(self) -> Bound:
        return next(bound for bound, limit in self._limits().items() if limit is not None)

    @property
    def relative(self) -> bool:
        """Whether the limit is on candidate / baseline."""
        return self.bound in ("max_ratio", "min_ratio")

    @property
    def key(self) -> str:
        """What its bets are kept under."""
        return f"{self.metric} {self.bound} {self.limit:g}"

    @property
    def limit(self) -> float:
        return next(limit for limit in self._limits().values() if limit is not None)

    @property
    def threshold(self) -> float:
        """The limit as a difference (a ratio): `max_decrease` is below 0."""
        return -self.limit if self.max_decrease is not None else self.limit

    def outcome(self, interval: Interval) -> Outcome:
        """What the interval of the difference (of the ratio) says about the limit."""
        low, high = interval
        if self.min_ratio is not None:
            low, high, limit = -high, -low, -self.min_ratio
        elif self.max_decrease is not None:
            low, high, limit = -high, -low, self.limit
        else:
            limit = self.limit
        if low > limit:
            return "fail"
        return "pass" if high <= limit else "inconclusive"


@dataclass(frozen=True, slots=True)
class Levels:
    """What the verdicts of one window may be wrong with, over all looks together.

    A candidate is promoted wrongly only if the last stage is passed wrongly by the very guardrail that is breached,
    so ``passing`` is not split. ``fail`` is split over the guardrails, and over windows where it must be.
    """

    passing: float
    fail: float
    """Of one guardrail in one window."""
    bet: float
    """Of one guardrail whose outcomes are bet on, over all windows together."""

    @classmethod
    def split(cls, alpha: float, guardrails: int) -> Self:
        """``alpha`` for everything that one window may say wrongly."""
        share = alpha / (guardrails + 1)
        return cls(share, share, share)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guardrail says now."""

    metric: str
    verdict: Outcome
    bound: str
    """max_increase | max_decrease | max_ratio | min_ratio | at_least | at_most"""
    limit: float
    alpha: float
    """What ``fail`` may be wrong with, over all looks together."""
    estimate: float | None = None
    """Candidate - baseline, or candidate / baseline for max_ratio and min_ratio."""
    interval: Interval | None = None
    """Of the estimate; each end holds at all times simultaneously with probability 1 - alpha_pass."""
    baseline: float | None = None
    candidate: float | None = None
    samples: float = 0.0
    """The candidate's observations of this metric."""
    reason: str = ""
    more_requests: int | None = None
    """About how many more requests to the candidate a decision needs if what was seen goes on; None where
    nothing honest can be said."""
    minutes: float | None = None
    """The same at the present rate."""
    alpha_pass: float | None = None
    """What ``pass`` may be wrong with, over all looks of this window together; None: ``alpha``."""
    e_value: float | None = None
    """Where outcomes are bet on (`policies.sequential.betting`): the winnings, over all windows, on a breach
    of the limit. At
    1 / alpha the verdict is ``fail``."""
    unit: Literal["requests", "units"] = "requests"
    """What counts as one observation: the unit of analysis."""
    adjusted_by: Literal["past", "covariate"] | None = None
    """What was known of the units or requests before, where the comparison is adjusted by it
    (`policies.sequential.adjusted`)."""
    shares: bool = field(default=False, compare=False)
    """Whether the metric is boolean or a fraction: differences are written in percentage points. Not kept."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: what is not finite is null."""
        return {
            "metric": self.metric,
            "verdict": self.verdict,
            "bound": self.bound,
            "limit": self.limit,
            "alpha": self.alpha,
            "estimate": _finite(self.estimate),
            "interval": None if self.interval is None else [_finite(end) for end in self.interval],
            "baseline": _finite(self.baseline),
            "candidate": _finite(self.candidate),
            "samples": self.samples,
            "alpha_pass": self.alpha_pass,
            "e_value": self.e_value,
            "unit": self.unit,
            "adjusted_by": self.adjusted_by,
            "reason": self.reason,
            "more_requests": self.more_requests,
            "minutes": _finite(self.minutes),
        }

    def breach(self) -> str:
        """What a failed guardrail says: its bound, what was seen with its interval, and after how much."""
        limit = self._amount(-self.limit if self.bound == "max_decrease" else self.limit)
        level = {"at_least": "is below", "at_most": "is above"}.get(self.bound)
        said = f"{self.metric} {level or 'breaches its limit of'} {limit}"
        if self.estimate is not None:
            said += f": {self._amount(self.estimate)}"
        if self.interval is not None:
            said += f", interval {' to '.join(map(self._amount, self.interval))}"
        return f"{said}, after {self.samples:g} {self.unit}" if self.samples else said

    def _amount(self, value: float) -> str:
        """In the words of the scorecard: ratios as ×0.9; differences of shares in percentage points, of latencies in
        milliseconds."""
        if self.bound in ("at_least", "at_most"):
            return f"{100 * value:.4g}%"
        if self.bound not in ("max_increase", "max_decrease"):
            return f"×{value:.4g}"
        if self.shares or self.metric == "error_rate":
            return f"{100 * value:+.3g} pp"
        return f"{value:+.4g} ms" if self.metric.startswith("latency_") else f"{value:+.4g}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`, but that what was not finite is None, and an open end infinite."""
        ends = data["interval"]
        open_ends = (-math.inf, math.inf)
        interval = (
            None
            if ends is None
            else tuple(o if e is None else e for e, o in zip(ends, open_ends, strict=True))
        )
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "interval": interval})


def written(bound: str, limit: float) -> str:
    """Return a limit as a configuration states it: there, ``min_ratio`` is a relative decrease."""
    return f"max_relative_decrease {100 * (1 - limit):.3g}%" if bound == "min_ratio" else f"{bound} {limit:g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
