"""The exact interval of a lift whose few values are matched in time, against its definition in high precision."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import pytest

from gateway.config.service import MetricConfig
from gateway.control.reports.lift import Comparisons
from gateway.control.reports.observed import Observed
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.state.base import Counts
from policies.types import RewardSums
from tests.policies.test_outside_values import least_product

TIMES = (((30, 27), (2, 1)), ((25, 20), (5, 2)), ((16, 9), (12, 3)), ((7, 5), (21, 4)))
"""Of each bucket of time, the values of both variants and how many of them are 1; the share grows."""


@pytest.mark.long
def test_a_lift_matched_in_time_ends_where_the_least_product_is_one_over_alpha() -> None:
    """In each bucket min(n, m) values of either variant count, and the sums of the larger side in proportion."""
    whole: dict[tuple[str, str], Rewarded] = {}
    buckets, sides = [], [[Fraction(0), Fraction(0)], [Fraction(0), Fraction(0)]]
    for time, pair in enumerate(TIMES):
        for side, variant, (n, good) in zip(sides, ("old", "new"), pair, strict=True):
            kept = Fraction(min(m for m, _ in pair), n)
            side[0] += kept * good
            side[1] += kept * n
            one = Rewarded(RewardSums(n, good, good), RewardSums(n, good, good))
            whole[variant, "ok"] = whole.get((variant, "ok"), Rewarded()) + one
            counts = Counts(assigned=n, served=n, expected=float(n))
            buckets.append(RewardedBucket(10.0 * time, variant, 1 + time, counts, {"ok": one}))
    declared = {"ok": MetricConfig.model_validate({"type": "boolean"})}
    lift = Comparisons(("old", "new"), declared, Observed({}, whole, buckets)).lift("new", "old")["ok"]
    assert lift["method"] == "matched"
    baseline, candidate = (tuple(mpmath.mpf(x.numerator) / x.denominator for x in side) for side in sides)
    assert lift["absolute"] == pytest.approx(float(candidate[0] / candidate[1] - baseline[0] / baseline[1]))
    with mpmath.workdps(20):
        for end in lift["interval"]:
            found = least_product(baseline, candidate, mpmath.mpf(1), mpmath.mpf(end))
            assert float(found) == pytest.approx(-float(mpmath.log(0.05)), abs=2e-3)
        for end in lift["relative_interval"]:
            found = least_product(baseline, candidate, mpmath.mpf(end) + 1, mpmath.mpf(0))
            assert float(found) == pytest.approx(-float(mpmath.log(0.05)), abs=2e-3)


def test_nothing_falls_by_more_than_all_of_it() -> None:
    whole: dict[tuple[str, str], Rewarded] = {}
    buckets = []
    for time, pair in enumerate((((300, 200), (60, 1)), ((250, 170), (150, 1)))):
        for variant, (n, good) in zip(("old", "new"), pair, strict=True):
            one = Rewarded(RewardSums(n, good, good), RewardSums(n, good, good))
            whole[variant, "ok"] = whole.get((variant, "ok"), Rewarded()) + one
            counts = Counts(assigned=n, served=n, expected=float(n))
            buckets.append(RewardedBucket(10.0 * time, variant, 1 + time, counts, {"ok": one}))

    def lift(**declared: object) -> dict[str, Any]:
        metric = MetricConfig.model_validate(declared)
        found = Comparisons(("old", "new"), {"ok": metric}, Observed({}, whole, buckets)).lift("new", "old")[
            "ok"
        ]
        assert found["method"] == "weighted"
        return found

    assert lift(type="boolean")["relative_interval"][0] == -1
    assert lift(type="real")["relative_interval"][0] < -1, "amounts may be negative"


@pytest.mark.parametrize(("errors", "method"), [(0, "matched"), (1, "weighted")])
def test_no_error_in_two_stages_has_an_interval(errors: int, method: str) -> None:
    """It read "not known yet" from the second stage of a canary on, whose shares had moved."""
    whole: dict[tuple[str, str], Rewarded] = {}
    buckets = []
    for time, pair in enumerate(((1600, 400), (2000, 2000))):
        for variant, n in zip(("old", "new"), pair, strict=True):
            one = Rewarded(RewardSums(n, n, n), RewardSums(n, n, n))
            whole[variant, "ok"] = whole.get((variant, "ok"), Rewarded()) + one
            counts = Counts(n, n, errors, expected=float(n))
            buckets.append(RewardedBucket(10.0 * time, variant, 1 + time, counts, {"ok": one}))
    totals = {"old": Counts(3600, 3600, 2 * errors), "new": Counts(2400, 2400, 2 * errors)}
    declared = {"ok": MetricConfig.model_validate({"type": "boolean"})}
    lift = Comparisons(("old", "new"), declared, Observed(totals, whole, buckets)).lift("new", "old")
    for metric, chosen in (("ok", "matched"), ("error_rate", method)):
        low, high = lift[metric]["interval"]
        assert lift[metric]["method"] == chosen
        assert -0.01 < low < 0 < high < 0.01
