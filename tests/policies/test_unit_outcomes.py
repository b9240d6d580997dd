"""Errors and latencies of sticky users of very different activity: each user is one observation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from policies.rollout.guardrails import judge
from policies.rollout.verdicts import Guardrail
from policies.sequential.metric_comparison import Evidence
from policies.sequential.stratified import Stratum, stratified
from policies.sequential.unit_outcomes import MAX_LATENCIES_PER_UNIT, MAX_STRATA, STRATUM_S, Row, UnitOutcomes

RAIL = Guardrail("error_rate", max_increase=0.0)


def edges(bucket: int) -> tuple[float, float]:
    return 1.05**bucket, 1.05 ** (bucket + 1)


def seen(side: Stratum) -> Evidence:
    assert side.units is not None
    return Evidence(side.units.count, latency=side.latency, units=side.units)


class Users:
    """``n`` users whose k-th sends requests in proportion to 1 / k, and whose fates are alike."""

    def __init__(self, rng: np.random.Generator, n: int, rate: float, icc: float) -> None:
        self.rng, self.n = rng, n
        self.mixes = rng.integers(1, 2**62, n).tolist()
        self.variant = np.where(rng.random(n) < 0.5, "v2", "v1").tolist()
        weight = 1 / icc - 1
        self.rates = rng.beta(rate * weight, (1 - rate) * weight, n)
        self.slowness = rng.normal(0, 0.5, n)
        self.activity = 1 / np.arange(1, n + 1)
        self.activity /= self.activity.sum()

    def requests(self, n: int, time: float, worse: float = 0.0) -> list[Row]:
        who = self.rng.choice(self.n, n, p=self.activity)
        extra = np.where(np.asarray(self.variant)[who] == "v2", worse, 0.0)
        failed = (self.rng.random(n) < self.rates[who] + extra).tolist()
        refused = (np.arange(n) % 7 == 0).tolist()
        speed = self.rng.lognormal(3 + self.slowness[who], 0.3)
        buckets = np.floor(np.log(speed) / np.log(1.05)).astype(int).tolist()
        return [
            (self.mixes[w], time, self.variant[w], failed[k], buckets[k], 0.5, refused[k])
            for k, w in enumerate(who.tolist())
        ]


def by_request(rows: list[Row]) -> tuple[Evidence, Evidence]:
    first, second = (
        Evidence(
            sum(r[2] == v for r in rows),
            sum(r[2] == v and r[3] for r in rows),
            Counter(r[4] for r in rows if r[2] == v),
        )
        for v in ("v1", "v2")
    )
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("rail", [RAIL, Guardrail("latency_p95", max_ratio=1.0)], ids=["errors", "latency"])
def test_identical_variants_with_heavy_users_raise_no_alarm(rail: Guardrail) -> None:
    runs, looks, alarms, naive = 40, 8, 0, 0
    for seed in range(runs):
        users, outcomes, rows = Users(np.random.default_rng(seed), 300, 0.05, 0.1), UnitOutcomes(), []
        wrong = set()
        for look in range(looks):
            new = users.requests(600, float(look))
            outcomes.add(new)
            rows += new
            sides = outcomes.whole()
            verdict = judge(rail, seen(sides["v1"]), seen(sides["v2"]), 0.05, edges=edges, forecast=False)
            assert verdict.unit == "units"
            if verdict.verdict in ("pass", "fail"):
                wrong.add("units")
        last = judge(rail, *by_request(rows), 0.05, edges=edges, forecast=False)
        alarms, naive = alarms + ("units" in wrong), naive + (last.verdict != "inconclusive")
    assert alarms <= binom.isf(1e-3, runs, 0.05)
    if rail is RAIL:
        assert naive > 0.15 * runs  # at a single look; looked at all the time it is about half


def test_a_worse_candidate_is_found_by_users() -> None:
    users, outcomes = Users(np.random.default_rng(1), 3_000, 0.02, 0.05), UnitOutcomes()
    outcomes.add(users.requests(20_000, 0.0, worse=0.08))
    sides = outcomes.whole()
    assert judge(RAIL, seen(sides["v1"]), seen(sides["v2"]), 0.01, forecast=False).verdict == "fail"


def test_sums_are_those_of_the_shares_of_units() -> None:
    rng = np.random.default_rng(2)
    rows = Users(rng, 40, 0.2, 0.1).requests(2_000, 0.0)
    outcomes = UnitOutcomes()
    for row in rows:
        outcomes.add([row])
    for variant, side in outcomes.whole().items():
        shares, refusals, weights = list[float](), list[float](), Counter[int]()
        for unit in {r[0] for r in rows if r[2] == variant}:
            own = [r for r in rows if r[0] == unit]
            shares.append(sum(r[3] for r in own) / len(own))
            refusals.append(sum(r[6] for r in own) / len(own))
            kept = [r[4] for r in own][:MAX_LATENCIES_PER_UNIT]
            kept = kept[: 2 ** (len(kept).bit_length() - 1)]
            for bucket in kept:
                weights[bucket] += 1 / len(kept)  # type: ignore[assignment]
        assert side.units is not None
        for found, each in ((side.units, shares), (side.rewards["client_error_rate"], refusals)):
            assert found.count == len(each)
            assert found.total == pytest.approx(sum(each))
            assert found.squares == pytest.approx(sum(s * s for s in each))
        assert side.latency == pytest.approx(dict(weights))
        assert sum(side.latency.values()) == pytest.approx(len(shares))
        sent = Counter(r[0] for r in rows if r[2] == variant)
        for metric, place in (("error_rate", 3), ("client_error_rate", 6)):
            failed = Counter(r[0] for r in rows if r[2] == variant and r[place])
            pairs = outcomes.failures()[variant, metric]
            assert pairs.x.squares == pytest.approx(sum((0.5 * n) ** 2 for n in failed.values()))
            assert pairs.y.squares == pytest.approx(sum((0.5 * n) ** 2 for n in sent.values()))
            assert pairs.both.squares == pytest.approx(
                sum((0.5 * (n + failed[u])) ** 2 for u, n in sent.items())
            )


def test_memory_is_bounded_and_what_was_counted_stays() -> None:
    rng = np.random.default_rng(3)
    outcomes = UnitOutcomes(size=100)
    mixes = rng.integers(0, 2**64, 2_000, dtype=np.uint64).tolist()
    outcomes.add([(m, float(k), "v1", k % 10 == 0, 3, 0.5, False) for k, m in enumerate(mixes)])
    side = outcomes.whole()["v1"]
    assert side.units is not None
    before = side.units.count
    assert 100 <= before < 1_000
    assert outcomes.below < 2**62
    for found in (outcomes.requests()["v1"].y, outcomes.failures()["v1", "error_rate"].y):
        assert found.count == pytest.approx(2_000, rel=0.5), "estimated from those that are remembered"
    outcomes.add([(m, 3_000.0, "v1", True, 3, 0.5, False) for m in mixes if m >= outcomes.below])
    after = outcomes.whole()["v1"].units
    assert after is not None
    assert after.count == before


def test_stretches_are_joined_when_there_are_many() -> None:
    outcomes = UnitOutcomes()
    n = 3 * MAX_STRATA
    outcomes.add([(k, k * STRATUM_S, f"v{1 + k % 2}", False, 1, 0.5, False) for k in range(n)])
    found = outcomes.strata()
    assert len(found) <= MAX_STRATA
    assert sum(side.units.count for s in found for side in s.values() if side.units) == n


def test_a_bandit_compares_units_that_came_at_the_same_time() -> None:
    """Everything fails more often in the evening, when the candidate has most of the traffic."""
    rng, outcomes = np.random.default_rng(4), UnitOutcomes()
    for k in range(200):
        share, rate = 0.05 + 0.9 * k / 200, 0.01 + 0.2 * k / 200
        outcomes.add(
            (
                int(rng.integers(2**62)),
                k * STRATUM_S,
                "v2" if rng.random() < share else "v1",
                bool(rng.random() < rate),
                1,
                0.5,
                False,
            )
            for _ in range(40)
        )
    pairs = [(s.get("v1", Stratum()), s.get("v2", Stratum())) for s in outcomes.strata()]
    baseline, candidate = stratified(pairs).evidence({}, 60.0)
    assert judge(RAIL, baseline, candidate, 0.05, forecast=False).verdict == "inconclusive"
    whole = outcomes.whole()
    pooled = judge(RAIL, seen(whole["v1"]), seen(whole["v2"]), 0.05, forecast=False)
    assert pooled.verdict == "fail"  # so the world does confound
