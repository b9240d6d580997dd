"""How many requests a guardrail needs, before any has come: for planning a rollout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.special import ndtri

from policies.sequential.asymptotic import MIN_VALUES, asymptotic_half_width, two_sided
from policies.sequential.betting import Bets, Block, Limit

RUNS: Final = 80
LOOKS: Final = 160
MAX_RUN: Final = 10.0
"""Times the requests of one fixed look after which a run is given up."""
MAX_REQUESTS: Final = 1e15
"""A verdict that takes more counts as one that does not come."""


@dataclass(frozen=True, slots=True)
class Needed:
    """Requests to the route until the verdict; infinite where it does not come."""

    median: float
    most: float
    """In four of five runs it takes no more."""


def for_rates(
    rates: tuple[float, float],
    limit: Limit,
    share: float,
    alpha: float,
    verdict: Literal["fail", "pass"],
) -> Needed:
    """Of outcomes of yes and no with true ``rates`` (baseline's, candidate's), by `RUNS` runs of the bets themselves.

    ``share`` of the requests go to the candidate; ``alpha`` is the verdict's level.
    """
    gap = abs(limit.excess(*rates))
    if gap <= 1 / MAX_REQUESTS:
        return Needed(math.inf, math.inf)
    variance = limit.factor**2 * rates[0] * (1 - rates[0]) / (1 - share) + rates[1] * (1 - rates[1]) / share
    one_look = (ndtri(alpha) + ndtri(0.2)) ** 2 * max(variance, gap / share) / gap**2
    if MAX_RUN * one_look > MAX_REQUESTS:
        return Needed(math.inf, math.inf)
    per = max(1, math.ceil(MAX_RUN * one_look / LOOKS))
    rng = np.random.default_rng(0)
    found = sorted(_run(rng, rates, limit, share, alpha, verdict, per) for _ in range(RUNS))
    return Needed(found[RUNS // 2], found[RUNS * 4 // 5])


def _run(
    rng: np.random.Generator,
    rates: tuple[float, float],
    limit: Limit,
    share: float,
    alpha: float,
    verdict: str,
    per: int,
) -> float:
    bets, n, yes = Bets(limit), np.zeros(2), np.zeros(2)
    for look in range(1, LOOKS + 1):
        mine = rng.binomial(per, share)
        new = np.asarray([per - mine, mine])
        n, yes = n + new, yes + rng.binomial(new, rates)
        bets.look(Block((float(n[0]), float(n[1])), (float(yes[0]), float(yes[1]))))
        if (bets.above if verdict == "fail" else bets.below) >= -math.log(alpha):
            return float(look * per)
    return math.inf


def for_means(sd: float, gap: float, share: float, alpha: float) -> Needed:
    """Of real or count values with standard deviation ``sd``, whose true difference is ``gap`` away from the limit.

    Where the always-valid interval is as wide as the gap; four of five runs allow for a standard error more.
    """

    def needed(margin: float) -> float:
        def wide(total: float) -> bool:
            mine, others = total * share, total * (1 - share)
            if min(mine, others) < MIN_VALUES:
                return True
            n = 4 / (1 / mine + 1 / others)
            error = sd * math.sqrt(1 / mine + 1 / others)
            return (asymptotic_half_width(n, n, two_sided(alpha)) + margin) * error > gap

        return _least(wide)

    if not (gap > 0 and sd > 0):
        return Needed(math.inf, math.inf)
    return Needed(needed(0.0), needed(-float(ndtri(0.2))))


def _least(wide: Callable[[float], bool]) -> float:
    """The least total that is not ``wide``, to 1 %."""
    low, high = 1.0, 2.0
    while wide(high):
        low, high = high, high * 2
        if high > MAX_REQUESTS:
            return math.inf
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high
