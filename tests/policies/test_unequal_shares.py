"""Guardrails on means where the candidate has few requests and most values are 0: the ordinary canary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import floor, log

import numpy as np
import pytest
from scipy.stats import binom

from policies.rollout.guardrails import judge
from policies.rollout.verdicts import Guardrail
from policies.sequential.asymptotic import Sample, difference_interval
from policies.sequential.metric_comparison import Evidence
from policies.sequential.stratified import StratifiedComparison, Stratum
from policies.types import MetricType, RewardSums

Draw = Callable[[np.random.Generator, int], np.ndarray]
RUNS, LOOKS = 120, 60


def revenue(buying: float) -> Draw:
    return lambda rng, n: np.where(rng.random(n) < buying, rng.lognormal(3, 0.8, n), 0.0)


def poisson(mean: float) -> Draw:
    return lambda rng, n: rng.poisson(mean, n).astype(float)


def lognormal(spread: float) -> Draw:
    return lambda rng, n: rng.lognormal(0, spread, n)


def sums(x: np.ndarray) -> RewardSums:
    return RewardSums(float(x.size), float(x.sum()), float((x * x).sum()))


def alarms(draw: Draw, kind: MetricType, share: float, alpha: float, seed: int) -> int:
    """Runs of two identical variants in which `judge` ever says anything of the limit 0."""
    rng = np.random.default_rng(seed)
    n, found = max(4, round(800 * share)), 0
    rail = Guardrail("m", max_decrease=0.0)
    for _ in range(RUNS):
        baseline = candidate = RewardSums()
        for _ in range(LOOKS):
            baseline += sums(draw(rng, round(n / share) - n))
            candidate += sums(draw(rng, n))
            pair = [Evidence(s.count, rewards={"m": s}, kinds={"m": kind}) for s in (baseline, candidate)]
            if judge(rail, pair[0], pair[1], alpha, forecast=False).verdict in ("pass", "fail"):
                found += 1
                break
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        pytest.param(revenue(0.02), "real", id="2 % buy"),
        pytest.param(poisson(0.02), "count", id="Poisson 0.02"),
        pytest.param(lognormal(2.0), "real", id="lognormal 2"),
    ],
)
@pytest.mark.parametrize(("share", "alpha"), [(0.01, 0.004), (0.05, 0.05), (0.5, 0.05)])
def test_identical_variants_raise_no_alarm_at_any_share(
    draw: Draw, kind: MetricType, share: float, alpha: float
) -> None:
    assert alarms(draw, kind, share, alpha, seed=3) <= binom.isf(1e-3, RUNS, alpha)


def test_values_that_have_not_come_yet_are_no_certainty() -> None:
    """99 purchases in 4,950 against 0 in 50: a variant without purchases is not one that does not vary."""
    interval = difference_interval(Sample.of(RewardSums(4950, 99, 99)), Sample.of(RewardSums(50, 0, 0)), 0.05)
    assert interval is not None
    assert interval[0] < -0.02 < 0 < interval[1]


def test_a_loss_of_buyers_is_still_found() -> None:
    rng, rail = np.random.default_rng(5), Guardrail("m", max_decrease=0.0)
    baseline, candidate = sums(revenue(0.10)(rng, 40_000)), sums(revenue(0.07)(rng, 10_000))
    pair = [Evidence(s.count, rewards={"m": s}, kinds={"m": "real"}) for s in (baseline, candidate)]
    assert judge(rail, pair[0], pair[1], 0.05, forecast=False).verdict == "fail"


def test_a_capped_metric_is_judged_by_the_exact_test() -> None:
    """One candidate value far above the cap's worth of the baseline's sum moves nothing beyond the cap."""
    rng, limits = np.random.default_rng(7), {"m": (0.0, 200.0)}
    values = [np.minimum(revenue(0.2)(rng, n), 200.0) for n in (20_000, 20_000)]
    values[1] = values[1] * 0.5
    pair = [Evidence(x.size, rewards={"m": sums(x)}, kinds={"m": "real"}, ranges=limits) for x in values]
    found = judge(Guardrail("m", max_decrease=0.0), pair[0], pair[1], 0.05, forecast=False)
    assert found.verdict == "fail"
    assert found.interval is not None
    truth = values[1].mean() - values[0].mean()
    assert found.interval[0] < truth < found.interval[1] < 0
    few = [Evidence(9, rewards={"m": sums(x[:9])}, kinds={"m": "real"}, ranges=limits) for x in values]
    early = judge(Guardrail("m", max_decrease=0.0), few[0], few[1], 0.05, forecast=False)
    assert early.interval is not None  # no minimum number: it is exact at every count
    assert early.interval[0] < -100 < 100 < early.interval[1]


def edges(bucket: int) -> tuple[float, float]:
    return 1.02**bucket, 1.02 ** (bucket + 1)


def test_matching_keeps_the_tail_of_latencies() -> None:
    """The larger side's counts become fractions; none may vanish, or the smaller side looks slower."""
    rng, matched = np.random.default_rng(11), StratifiedComparison()
    for _ in range(300):
        drawn = [rng.lognormal(3, 1.0, n) for n in (95, 5)]
        histograms = [Counter(floor(log(x) / log(1.02)) for x in values) for values in drawn]
        matched.add(*(Stratum(sum(h.values()), latency=dict(h)) for h in histograms))
    baseline, candidate = matched.evidence({}, 60.0)
    assert sum(baseline.latency.values()) == pytest.approx(sum(candidate.latency.values()))
    for metric in ("latency_p95", "latency_p99", "latency_p999"):
        verdict = judge(Guardrail(metric, max_ratio=1.0), baseline, candidate, 0.05, edges=edges)
        assert verdict.verdict == "inconclusive"
        assert verdict.interval is not None
        assert verdict.interval[0] < 1.0 < verdict.interval[1]
