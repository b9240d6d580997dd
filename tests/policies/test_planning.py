"""What is planned is what it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.sequential.asymptotic import Sample, difference_interval
from policies.sequential.betting import Limit
from policies.sequential.planning import Needed, for_means, for_rates
from policies.types import RewardSums


def test_rates_need_about_what_the_review_measured() -> None:
    """1 against 6 % errors at 1.67 %, share 50 %: at most 1.1 times 2.28 fixed looks of 424 requests."""
    needed = for_rates((0.01, 0.06), Limit(), 0.5, 1 / 60, "fail")
    assert 200 < needed.median < needed.most < 1.25 * 2.28 * 424


@pytest.mark.parametrize("beyond", [1e-8, 1e-10, 1e-14, 1e-16])
def test_a_difference_next_to_nothing_never_shows(beyond: float) -> None:
    """More requests than 64 bits count ended in a traceback."""
    needed = for_rates((0.01, 0.06 + beyond), Limit(shift=0.05), 0.5, 0.05, "fail")
    assert needed == Needed(math.inf, math.inf)


@pytest.mark.long
def test_a_smaller_share_and_a_smaller_difference_need_more() -> None:
    wide = for_rates((0.1, 0.2), Limit(shift=0.02), 0.5, 0.05, "fail").most
    assert for_rates((0.1, 0.2), Limit(shift=0.02), 0.05, 0.05, "fail").most > wide
    assert for_rates((0.1, 0.15), Limit(shift=0.02), 0.5, 0.05, "fail").most > wide
    assert for_rates((0.1, 0.1), Limit(), 0.5, 0.05, "pass").most == math.inf


def test_means_need_what_their_interval_needs() -> None:
    needed, rng, hits = for_means(2.0, 0.3, 0.2, 0.05), np.random.default_rng(1), 0
    n, m = round(needed.median * 0.8), round(needed.median * 0.2)
    for _ in range(60):
        b, c = rng.normal(5, 2, n), rng.normal(5.3, 2, m)
        first, second = (RewardSums(x.size, float(x.sum()), float((x * x).sum())) for x in (b, c))
        interval = difference_interval(Sample.of(first), Sample.of(second), 0.05)
        hits += interval is not None and interval[0] > 0
    assert hits == pytest.approx(30, abs=14)
    assert for_means(2.0, 0.0, 0.2, 0.05).median == math.inf
