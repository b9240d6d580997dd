"""Verdicts: the four outcomes, the kinds of metric, little data, and honest forecasts."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.rollout.guardrails import (
    _missing,
    could_not_look,
    judge,
    judge_agreement,
    judge_all,
    judge_alone,
)
from policies.rollout.verdicts import Guardrail
from policies.sequential.metric_comparison import Evidence, latency_quantile, measure
from policies.types import MetricType, RewardSums

GAMMA = 1.02
ERRORS = Guardrail("error_rate", max_increase=0.005)


def edges(i: int) -> tuple[float, float]:
    return GAMMA**i, GAMMA ** (i + 1)


def histogram(ms: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[int, float]:
    buckets, counts = np.unique(np.floor(np.log(ms) / np.log(GAMMA)).astype(int), return_counts=True)
    return {int(b): float(n) for b, n in zip(buckets, counts, strict=True)}


def errors(failed: float, n: float, seconds: float = 600) -> Evidence:
    return Evidence(n, failed, seconds=seconds)


def rewards(kind: MetricType, values: object) -> Evidence:
    x = np.asarray(values, dtype=np.float64)
    sums = RewardSums(x.size, float(x.sum()), float((x * x).sum()))
    return Evidence(x.size, rewards={"m": sums}, kinds={"m": kind}, seconds=600)


@pytest.mark.parametrize(
    ("baseline", "candidate", "outcome"),
    [
        ((10, 10_000), (60, 1_000), "fail"), ((10, 10_000), (10, 10_000), "pass"),
        ((0, 10_000), (0, 5_000), "pass"), ((10, 10_000), (1, 1_000), "inconclusive"),
        ((0, 0), (0, 0), "inconclusive"), ((0, 10), (0, 10), "inconclusive"), ((0, 10), (10, 10), "fail"),
        ((500, 1_000), (0, 1_000), "pass"), ((5, 4), (0, 10), "error"),
    ],
)  # fmt: skip
def test_error_rates(baseline: tuple[int, int], candidate: tuple[int, int], outcome: str) -> None:
    verdict = judge(ERRORS, errors(*baseline), errors(*candidate), 0.05)
    assert verdict.verdict == outcome
    assert bool(verdict.reason) is (outcome not in ("pass", "fail"))


def test_a_verdict_carries_what_it_saw() -> None:
    verdict = judge(ERRORS, errors(10, 10_000), errors(60, 1_000), 0.02)
    assert verdict.estimate == pytest.approx(0.059)
    assert (verdict.baseline, verdict.candidate, verdict.samples) == (0.001, 0.06, 1_000)
    assert verdict.interval is not None
    low, high = verdict.interval
    assert 0.005 < low < 0.059 < high
    assert (verdict.alpha, verdict.bound, verdict.limit) == (0.02, "max_increase", 0.005)


@pytest.mark.parametrize(
    ("kind", "breach"),
    [
        ("boolean", "m breaches its limit of -5 pp: -50 pp, interval -62.1 pp to -37.9 pp, after 200 requests"),
        ("fraction", "m breaches its limit of -5 pp: -50 pp, interval -62.8 pp to -36.8 pp, after 200 requests"),
        ("real", "m breaches its limit of -0.05: -0.5, interval -0.6813 to -0.3187, after 200 requests"),
    ],
)  # fmt: skip
def test_a_breach_is_written_as_the_scorecard_writes_it(kind: MetricType, breach: str) -> None:
    """Differences of shares are percentage points, whatever the metric is called."""
    first, second = rewards(kind, [1.0] * 200), rewards(kind, [1.0, 0.0] * 100)
    assert judge(Guardrail("m", max_decrease=0.05), first, second, 0.05).breach() == breach


def test_max_decrease_looks_the_other_way() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.binomial(1, 0.95, 3_000), rng.binomial(1, 0.8, 3_000)
    rail = Guardrail("m", max_decrease=0.05)
    assert judge(rail, rewards("boolean", good), rewards("boolean", bad), 0.05).verdict == "fail"
    assert judge(rail, rewards("boolean", bad), rewards("boolean", good), 0.05).verdict == "pass"


@pytest.mark.parametrize("kind", ["fraction", "real", "count"])
@pytest.mark.parametrize("bound", ["max_increase", "max_ratio"])
def test_reward_metrics(kind: MetricType, bound: str) -> None:
    rng = np.random.default_rng(1)
    low, high = rng.beta(40, 60, 4_000), rng.beta(60, 40, 4_000)
    rail = Guardrail("m", **{bound: 0.05 if bound == "max_increase" else 1.1})  # type: ignore[arg-type]
    assert judge(rail, rewards(kind, low), rewards(kind, high), 0.05).verdict == "fail"
    assert judge(rail, rewards(kind, high), rewards(kind, low), 0.05).verdict == "pass"
    assert judge(rail, rewards(kind, low[:10]), rewards(kind, low[:10]), 0.05).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("rail", "ms"),
    [(Guardrail("latency_p99", max_ratio=1.2), 1.5), (Guardrail("latency_p50", max_increase=2.0), 1.5)],
)
def test_latency(rail: Guardrail, ms: float) -> None:
    rng = np.random.default_rng(2)
    base = rng.lognormal(3, 0.4, 20_000)
    slow, same = base * ms, rng.lognormal(3, 0.4, 20_000)
    first = Evidence(latency=histogram(base))
    assert judge(rail, first, Evidence(latency=histogram(slow)), 0.05, edges=edges).verdict == "fail"
    assert judge(rail, first, Evidence(latency=histogram(same)), 0.05, edges=edges).verdict == "pass"
    few = judge(rail, first, Evidence(latency=histogram(slow[:5])), 0.05, edges=edges)
    assert few.verdict == "inconclusive"
    assert judge(rail, Evidence(), Evidence(), 0.05, edges=edges).verdict == "inconclusive"
    assert judge(rail, first, first, 0.05).verdict == "error"


@pytest.mark.parametrize(
    ("metric", "p"),
    [("latency_p50", 0.5), ("latency_p99", 0.99), ("latency_p999", 0.999), ("latency_p5", 0.05)],
)
def test_names_of_quantiles(metric: str, p: float) -> None:
    assert latency_quantile(metric) == pytest.approx(p)


@pytest.mark.parametrize("metric", ["latency", "latency_p", "latency_p0", "latency_p00", "latency_px", "p99"])
def test_what_is_no_quantile(metric: str) -> None:
    assert latency_quantile(metric) is None


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(10, rewards={"m": RewardSums(5, 5, 5)}),
        Evidence(10, rewards={"m": RewardSums(5, math.nan, 5)}, kinds={"m": "real"}),
        Evidence(10, rewards={"m": RewardSums(5, 9, 81)}, kinds={"m": "boolean"}),
    ],
)
def test_what_cannot_be_looked_at_is_an_error_not_a_failure(evidence: Evidence) -> None:
    verdict = judge(Guardrail("m", max_increase=0.1), evidence, evidence, 0.05)
    assert verdict.verdict == "error"
    assert verdict.reason
    lost = could_not_look(ERRORS, 0.05, "the store is gone")
    assert (lost.verdict, lost.reason) == ("error", "the store is gone")


def test_values_that_do_not_vary_give_no_interval() -> None:
    flat = rewards("real", np.ones(1_000))
    verdict = judge(Guardrail("m", max_increase=0.1), flat, flat, 0.05)
    assert (verdict.verdict, verdict.interval, verdict.more_requests) == ("inconclusive", None, None)


def test_min_samples_holds_a_verdict_back() -> None:
    rail = Guardrail("error_rate", max_increase=0.005, min_samples=2_000)
    verdict = judge(rail, errors(10, 10_000), errors(60, 1_000), 0.05)
    assert verdict.verdict == "inconclusive"
    assert verdict.reason == "1000 of 2000 samples"
    assert verdict.more_requests == 1_000


def test_the_forecast_comes_true() -> None:
    """With as many more requests of the same kind the verdict is there, and with two thirds it is not."""
    for failed, n in [(0, 100), (2, 1_000), (13, 1_000)]:
        verdict = judge(ERRORS, errors(10, 10_000), errors(failed, n), 0.05)
        assert verdict.verdict == "inconclusive"
        more = verdict.more_requests
        assert more is not None
        assert verdict.minutes == pytest.approx(more / n * 10)
        for part, decided in [(1.0, True), (0.6, False)]:
            k = 1 + part * more / n
            later = judge(ERRORS, errors(10 * k, 10_000 * k), errors(failed * k, n * k), 0.05)
            assert (later.verdict != "inconclusive") is decided


def test_no_forecast_where_none_is_honest() -> None:
    at_the_limit = judge(ERRORS, errors(10, 10_000), errors(6, 1_000), 0.05)
    assert (at_the_limit.verdict, at_the_limit.more_requests, at_the_limit.minutes) == (
        "inconclusive",
        None,
        None,
    )
    nothing = judge(ERRORS, errors(0, 100), errors(0, 0), 0.05)
    assert nothing.more_requests is None
    timeless = judge(ERRORS, errors(0, 100, seconds=0), errors(0, 100, seconds=0), 0.05)
    assert timeless.more_requests is not None
    assert timeless.minutes is None


def test_ten_requests_an_hour() -> None:
    """A day at ten an hour: a clean candidate can't be cleared yet, a broken one is found."""
    day = 86_400.0
    clean = judge(ERRORS, errors(0, 120, day), errors(0, 120, day), 0.05)
    assert clean.verdict == "inconclusive"
    assert clean.minutes is not None
    assert clean.minutes > 24 * 60
    assert judge(ERRORS, errors(0, 120, day), errors(12, 120, day), 0.05).verdict == "fail"


def test_alpha_is_split() -> None:
    rails = [ERRORS, Guardrail("latency_p99", max_ratio=1.2)]
    judgement = judge_all(rails, errors(0, 10), errors(0, 10), 0.06, edges=edges)
    assert [verdict.alpha for verdict in judgement.verdicts] == pytest.approx([0.02, 0.02])
    assert judgement.sick == ""


def test_a_sick_baseline_is_recognised() -> None:
    sick = judge_all([ERRORS], errors(400, 1_000), errors(0, 100), 0.05).sick
    assert re.fullmatch(r"the baseline's own error rate is above 20% \(at least 3\d(\.\d)?%\)", sick)
    assert judge_all([ERRORS], errors(100, 1_000), errors(0, 1_000), 0.05).sick == ""


def test_a_baseline_that_fails_fast_is_not_the_measure_of_latency() -> None:
    rng = np.random.default_rng(5)
    fast, normal = histogram(rng.lognormal(0.5, 0.1, 2_000)), histogram(rng.lognormal(3, 0.1, 2_000))
    rail = Guardrail("latency_p50", max_ratio=1.2)
    judgement = judge_all([rail], Evidence(2_000, 300, fast), Evidence(2_000, 0, normal), 0.05, edges=edges)
    assert judgement.verdicts[0].verdict == "fail"
    assert "more errors than the candidate" in judgement.sick


def test_counts_that_cannot_be_do_not_make_a_baseline_sick() -> None:
    assert judge_all([ERRORS], errors(11, 10), errors(0, 10), 0.05).sick == ""


@pytest.mark.parametrize(
    ("agreeing", "compared", "outcome"),
    [(0, 0, "inconclusive"), (2_000, 2_000, "pass"), (50, 50, "inconclusive"), (900, 1_000, "fail")],
)
def test_agreement(agreeing: int, compared: int, outcome: str) -> None:
    verdict = judge_agreement(agreeing, compared, 0.98, 0.05, seconds=60)
    if verdict.verdict == "fail":
        assert verdict.breach().startswith("agreement is below 98%: ")
    assert verdict.verdict == outcome
    assert (verdict.more_requests is not None) is (outcome == "inconclusive" and compared > 0)
    if verdict.more_requests is not None:
        more = agreeing + verdict.more_requests
        assert judge_agreement(more, more, 0.98, 0.05).verdict == "pass"
        assert verdict.minutes == pytest.approx(verdict.more_requests / compared)


@pytest.mark.parametrize(
    ("failed", "n", "outcome"),
    [(0, 0, "inconclusive"), (300, 1_000, "fail"), (1, 1_000, "pass"), (2, 1, "error")],
)
def test_without_a_baseline(failed: int, n: int, outcome: str) -> None:
    assert judge_alone(errors(failed, n), 0.2, 0.05).verdict == outcome


@pytest.mark.parametrize(
    "limits", [{}, {"max_increase": 0.1, "max_ratio": 2.0}, {"max_ratio": math.nan}, {"max_decrease": -1.0}]
)
def test_a_guardrail_has_one_limit(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        Guardrail("m", **limits)  # type: ignore[arg-type]


COUNTS = st.integers(0, 10**9)


@settings(max_examples=150, deadline=None)
@given(COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from(["max_increase", "max_decrease", "max_ratio"]))
def test_any_counts_give_a_verdict_that_is_json(a: int, b: int, c: int, d: int, bound: str) -> None:
    rail = Guardrail("error_rate", **{bound: 0.5})  # type: ignore[arg-type]
    verdict = judge(rail, errors(a, b), errors(c, d), 0.01)
    json.dumps(verdict.as_dict(), allow_nan=False)
    possible = a <= b and c <= d
    assert (verdict.verdict == "error") is not possible
    if verdict.interval is not None and verdict.estimate is not None:
        low, high = verdict.interval
        assert low <= verdict.estimate <= high


@pytest.mark.parametrize("rail", [Guardrail("m", max_decrease=0.05), Guardrail("m", min_ratio=0.9)])
@pytest.mark.parametrize("kind", ["fraction", "real"])
def test_verdicts_without_intervals_are_the_same(kind: MetricType, rail: Guardrail) -> None:
    """Where the limit lies is seen without the interval, but near the moment of the verdict."""
    rng, spared = np.random.default_rng(3), 0
    seen: set[str] = set()
    for worse in (0.0, 0.05, 0.3):
        sums = [RewardSums(), RewardSums()]
        for _ in range(12):
            sums[0] += rewards(kind, rng.beta(7, 3, 200)).rewards["m"]
            sums[1] += rewards(kind, rng.beta(7 - 10 * worse, 3 + 10 * worse, 100)).rewards["m"]
            first, second = (
                Evidence(s.count, rewards={"m": s}, kinds={"m": kind}, ranges={"m": (0.0, 1.0)}) for s in sums
            )
            full = judge(rail, first, second, 0.0125, 0.05, forecast=False)
            bare = judge(rail, first, second, 0.0125, 0.05, forecast=False, shown=False)
            assert full.interval is not None
            assert bare == replace(full, interval=bare.interval)
            seen.add(bare.verdict)
            spared += bare.interval is None
    assert {"pass", "fail"} <= seen
    assert spared >= 24  # of 36 looks


@pytest.mark.parametrize("kind", ["error_rate", "boolean", "fraction"])
@pytest.mark.parametrize("by_unit", [False, True], ids=["requests", "units"])
@pytest.mark.parametrize("ratio", [False, True], ids=["difference", "ratio"])
def test_forecasts_without_intervals_are_the_same(kind: str, by_unit: bool, ratio: bool) -> None:
    metric = kind if kind == "error_rate" else "m"
    guardrail = Guardrail(metric, max_ratio=1.3) if ratio else Guardrail(metric, max_increase=0.02)
    forecasts = list[float | None]()
    for worse in (0.0, 0.01, 0.1):
        each = []
        for mean, n in ((0.1, 3000.0), (0.1 + worse, 300.0)):
            share = RewardSums(n, n * mean, n * mean * (1.0 if kind == "boolean" else 0.6))
            units = RewardSums(n, n * mean, n * mean * 0.6) if by_unit else None
            kinds: dict[str, MetricType] = {} if kind == "error_rate" else {"m": kind}  # type: ignore[dict-item]
            each.append(Evidence(n, n * mean, rewards={"m": share}, kinds=kinds, seconds=60.0, units=units))
        measured = measure(metric, *each, ratio=guardrail.relative)
        quick = _missing(guardrail, measured, 0.004)
        assert quick == _missing(guardrail, replace(measured, side=None), 0.004)
        forecasts.append(quick)
    assert any(forecasts)
