"""Regression adjustment of a comparison by what was known of each unit or request before it.

CUPED: Deng, Xu, Kohavi & Walker (2013), "Improving the sensitivity of online controlled experiments by utilizing
pre-experiment data", WSDM. An observation y is compared less theta (x - mu), where mu is the mean of x over both
variants, and theta the slope of y on x within the variants. Of a unit, x is the mean of its values from before; of a
request, a covariate that it carries. Without an x there is no such term. Assignment is independent of x, so the
difference keeps its meaning whatever theta is, and varies less the better x predicts y. In the asymptotic confidence
sequence theta may be estimated from the same values:
Lindon, Ham, Tingley & Bojinov (2022), "Anytime-valid linear models and regression adjusted causal inference in
randomized experiments", arXiv:2210.08589; Waudby-Smith et al. (2024), Section 3.

Sums only, so that it applies to weighted observations (`policies.sequential.design_based`) as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

from policies.sequential.asymptotic import ROUNDING
from policies.sequential.design_based import WeightedSums
from policies.types import PairSums, RewardSums

LOST: Final = 1e-12
"""Part of the squares of x + y below which products of x and y are lost in rounding."""


@dataclass(frozen=True, slots=True)
class Paired:
    """One variant's observations, and among them x, y and x + y of those with an x."""

    values: WeightedSums
    x: WeightedSums
    known: WeightedSums
    both: WeightedSums

    @classmethod
    def of(cls, values: RewardSums, before: PairSums) -> Paired:
        """All observations count alike; ``before``: x and y of those with an x."""
        parts = (values, before.x, before.y, before.both)
        return cls(*(WeightedSums.of(part, 1.0) for part in parts))


def adjusted(first: Paired, second: Paired) -> tuple[WeightedSums, WeightedSums]:
    """Return the sums of y - theta (x - mu) of both variants; those of y where nothing has an x."""
    weight = first.x.weight + second.x.weight
    if not weight > 0:
        return first.values, second.values
    mu = (first.x.total + second.x.total) / weight
    moments = [_Moments.of(pair, mu) for pair in (first, second)]
    pairs = list(zip(moments, (first, second), strict=True))
    spread = sum(m.within(pair.values.weight) for m, pair in pairs)
    together = sum(m.with_values(pair.values) for m, pair in pairs)
    # An x or y that is the same for all but for rounding, or lost in x + y next to the other, tells nothing of a slope.
    x, y = (sum(s.squares for s in each) for each in ((first.x, second.x), (first.known, second.known)))
    varied = sum(_varied(pair.values) for _, pair in pairs)
    if not (spread > ROUNDING * x and varied > ROUNDING * y and sqrt(spread) * sqrt(varied) > LOST * (x + y)):
        return first.values, second.values
    theta = together / spread
    return _less(first, mu, theta), _less(second, mu, theta)


def _varied(values: WeightedSums) -> float:
    """Return the sum of squares about the variant's own mean."""
    if not values.weight > 0:
        return 0.0
    return max(values.squares - values.total * values.total / values.weight, 0.0)


def without_predicted(values: RewardSums, before: PairSums) -> RewardSums:
    """Return the sums of y - theta (x - mu) of all variants together: the variance that a comparison is left with."""
    left, _ = adjusted(Paired.of(values, before), Paired.of(RewardSums(), PairSums()))
    return RewardSums(left.count, left.total, left.squares)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over z = x - mu, which is 0 without an x."""

    total: float
    squares: float
    products: float
    """Sum of z y."""

    @classmethod
    def of(cls, pair: Paired, mu: float, *, squared_weights: bool = False) -> _Moments:
        (n, x, xx), (_, y, yy), (_, _, both) = (
            (s.weight2, s.total2, s.squares2) if squared_weights else (s.weight, s.total, s.squares)
            for s in (pair.x, pair.known, pair.both)
        )
        return cls(x - mu * n, max(xx - 2 * mu * x + mu * mu * n, 0.0), (both - xx - yy) / 2 - mu * y)

    def within(self, weight: float) -> float:
        """The sum of squares about the variant's own mean."""
        return max(self.squares - self.total * self.total / weight, 0.0) if weight > 0 else 0.0

    def with_values(self, values: WeightedSums) -> float:
        """The sum of products with y about the variant's own means."""
        return self.products - self.total * values.total / values.weight if values.weight > 0 else 0.0


def _less(pair: Paired, mu: float, theta: float) -> WeightedSums:
    values = pair.values
    once, twice = _Moments.of(pair, mu), _Moments.of(pair, mu, squared_weights=True)
    return WeightedSums(
        values.count,
        values.weight,
        values.total - theta * once.total,
        values.squares - 2 * theta * once.products + theta * theta * once.squares,
        values.weight2,
        values.total2 - theta * twice.total,
        values.squares2 - 2 * theta * twice.products + theta * theta * twice.squares,
    )
