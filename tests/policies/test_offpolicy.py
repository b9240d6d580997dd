from __future__ import annotations

import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from policies.contextual.features import Categorical
from policies.offpolicy.evaluation import Limits, Report, evaluate
from policies.offpolicy.sums import Logged

MEANS = {"a": 0.3, "b": 0.5, "c": 0.8}
LOGGED = {"a": 0.6, "b": 0.3, "c": 0.1}
TARGET = {"a": 0.1, "b": 0.3, "c": 0.6}
TRUTH = sum(TARGET[v] * MEANS[v] for v in MEANS)


def record(n: int, seed: int, shares: dict[str, float] = LOGGED) -> list[Logged]:
    rng = np.random.default_rng(seed)
    names = list(shares)
    chosen = rng.choice(len(names), n, p=list(shares.values()))
    rewards = rng.random(n) < np.array([MEANS[v] for v in names])[chosen]
    return [Logged(names[k], shares[names[k]], float(r)) for k, r in zip(chosen, rewards, strict=True)]


def by_hand(rows: list[Logged]) -> tuple[float, float]:
    w = [TARGET[row.variant] / row.propensity for row in rows]
    wr = [x * row.reward for x, row in zip(w, rows, strict=True)]  # type: ignore[operator]
    return sum(wr) / len(rows), sum(wr) / sum(w)


def test_estimates_are_the_formulas() -> None:
    rows = record(2000, 1)
    report = evaluate(rows, TARGET)
    ips, snips = by_hand(rows)
    assert report["ips"].value == pytest.approx(ips)
    assert report["snips"].value == pytest.approx(snips)
    assert report["logged"].value == pytest.approx(np.mean([row.reward for row in rows]))
    w = np.array([TARGET[row.variant] / row.propensity for row in rows])
    assert report.effective == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert report.mean_weight == pytest.approx(w.mean())
    assert report.largest_weight == pytest.approx(6.0)
    assert report.shares["c"][1] == pytest.approx(0.6)
    assert report["ips"].error == pytest.approx(
        stats.sem([x * r.reward for x, r in zip(w, rows, strict=True)]), rel=1e-3
    )


def test_the_policy_that_ran_is_estimated_by_the_plain_mean() -> None:
    rows = record(3000, 2)
    report = evaluate(rows, LOGGED)
    assert report.mean_weight == pytest.approx(1.0)
    assert report.effective == pytest.approx(3000)
    for name in ("ips", "snips"):
        assert report[name].value == pytest.approx(report["logged"].value)
    for name in ("dm", "dr"):
        assert report[name].value == pytest.approx(report["logged"].value, abs=0.01)


@pytest.mark.parametrize("rare", [0.0, 0.004])
def test_rewards_that_are_nearly_all_the_same_are_not_certain(rare: float) -> None:
    """Of 300 records with a failure in 250, Student's interval covered the truth of two thirds."""
    covered = dict.fromkeys(("snips", "dr", "gain"), 0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = [
            Logged(v, 0.5, float(rng.random() >= (rare if v == "b" else 0.3)))
            for v in rng.choice(["a", "b"], 600)
        ]
        report = evaluate(rows, {"b": 1.0}, bounds=(0.0, 1.0))
        for name in covered:
            low, high = report[name].interval
            truth = (1 - rare) - (0.5 * (1.7 - rare) if name == "gain" else 0.0)
            covered[name] += low <= truth <= high
            assert high > low
    assert min(covered.values()) >= 32, covered
    low, high = evaluate(
        [Logged("b", 0.5, 1.0)] * 300 + [Logged("a", 0.5, 0.0)] * 300, {"b": 1.0}, bounds=(0, 1)
    )["snips"].interval
    assert (low, high) == pytest.approx((0.025 ** (1 / 300), 1.0)), "Clopper and Pearson's of 300 of 300"


def test_without_bounds_rewards_that_are_all_the_same_give_no_interval() -> None:
    rows = [Logged("ab"[k % 2], 0.5, 3.2 if k % 2 else k / 7) for k in range(600)]
    told = refusal(evaluate(rows, {"b": 1.0}))
    assert "all rewards were the same (3.2 of b)" in told
    assert "or with a 'cap'" in told
    assert evaluate(rows, {"b": 1.0}, bounds=(0.0, 1000.0)).estimates
    assert evaluate(rows, {"a": 0.1, "b": 0.9}).estimates


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    covered = dict.fromkeys(("ips", "snips", "dm", "dr"), 0)
    for seed in range(300):
        report = evaluate(record(800, seed), TARGET)
        for name in covered:
            low, high = report[name].interval
            covered[name] += low <= TRUTH <= high
    # 95 % nominal; below 0.905 or above 0.985 has a chance under 1e-3 with 300 records (binomial).
    assert all(0.905 <= count / 300 <= 0.985 for count in covered.values()), covered


def test_one_unit_is_one_observation() -> None:
    rows = record(600, 3)
    many = [row._replace(unit=k) for k, row in enumerate(rows) for _ in range(5)]
    once, five = evaluate(rows, TARGET), evaluate(many, TARGET)
    assert (five.rows, five.units) == (3000, 600)
    for name in ("ips", "snips", "dr"):
        assert five[name].value == pytest.approx(once[name].value, abs=2e-3)
        assert five[name].error == pytest.approx(once[name].error, rel=0.02)
    assert five.effective == pytest.approx(once.effective)


def test_neither_order_nor_pieces_of_the_record_change_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    features = [Categorical("tier", ("free", "paid"))]
    rows = [row._replace(unit=k * k % 701) for k, row in enumerate(confounded(4000, 12))]
    whole = evaluate(rows, {"a": 0.7, "b": 0.3}, features=features)
    monkeypatch.setattr("policies.offpolicy.evaluation.CHUNK_ROWS", 37)
    mixed = [rows[k] for k in np.random.default_rng(1).permutation(len(rows))]
    pieces = evaluate(mixed, {"a": 0.7, "b": 0.3}, features=features)
    assert (pieces.rows, pieces.units) == (whole.rows, whole.units) == (4000, len({row.unit for row in rows}))
    for estimate in whole.estimates:
        assert pieces[estimate.name].value == pytest.approx(estimate.value, rel=1e-9)
        assert pieces[estimate.name].error == pytest.approx(estimate.error, rel=1e-6)


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.offpolicy.evaluation.CHUNK_ROWS", 500)

    def peak(times: int) -> int:
        rows = [row._replace(unit=k % 200 if k % 2 else None) for k, row in enumerate(record(1000, 13))]
        tracemalloc.start()
        assert evaluate(itertools.chain(*itertools.repeat(rows, times)), TARGET).rows == 1000 * times
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20) < 1.5 * peak(2)


def test_a_large_constant_in_all_rewards_costs_no_digits() -> None:
    rows = record(3000, 14)
    far = [row._replace(reward=(row.reward or 0.0) + 1e7) for row in rows]
    near, away = evaluate(rows, TARGET), evaluate(far, TARGET)
    for name in ("snips", "dm", "dr", "logged"):
        assert away[name].value - 1e7 == pytest.approx(near[name].value, abs=1e-6)
        assert away[name].error == pytest.approx(near[name].error, rel=1e-4)


def confounded(n: int, seed: int) -> list[Logged]:
    """The running policy prefers b for paid, where everything is better."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        tier = ("free", "paid")[rng.integers(2)]
        p = {"a": 0.8, "b": 0.2} if tier == "free" else {"a": 0.2, "b": 0.8}
        v = "a" if rng.random() < p["a"] else "b"
        mean = {"free": 0.2, "paid": 0.8}[tier] + (0.1 if v == "a" else 0.0)
        rows.append(Logged(v, p[v], float(rng.random() < mean), features={"tier": tier}))
    return rows


def test_confounding_by_features_is_undone() -> None:
    rows = confounded(6000, 5)
    plain = float(np.mean([row.reward for row in rows if row.variant == "a"]))
    assert abs(plain - 0.6) > 0.15, "the plain mean of a is confounded"
    report = evaluate(rows, {"a": 1.0}, features=[Categorical("tier", ("free", "paid"))])
    for name in ("ips", "snips", "dm", "dr"):
        estimate = report[name]
        assert abs(estimate.value - 0.6) < 5 * estimate.error
        assert estimate.error < 0.03
    assert report["dr"].error < report["ips"].error
    blind = evaluate(rows, {"a": 1.0})
    assert abs(blind["dm"].value - 0.6) > 5 * blind["dm"].error, "a model without the feature is wrong"
    assert abs(blind["dr"].value - 0.6) < 5 * blind["dr"].error, "and DR is right all the same"


def test_a_policy_that_looks_at_the_request() -> None:
    rows = confounded(6000, 6)
    report = evaluate(
        rows, lambda row: (1.0, 0.0) if row.features["tier"] == "free" else (0.0, 1.0), variants=("a", "b")
    )
    assert report["snips"].value == pytest.approx((0.3 + 0.8) / 2, abs=5 * report["snips"].error)


@pytest.mark.slow
def test_adaptive_records_are_evaluated_without_bias() -> None:
    """Propensities that follow the rewards, as a bandit's do; the estimates average to the truth."""
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        good, seen, rows = np.ones(2), np.full(2, 2.0), []
        for _ in range(20):
            p = 0.1 + 0.8 * (good / seen) / (good / seen).sum()
            for _ in range(40):
                k = int(rng.random() < p[1])
                r = float(rng.random() < (0.3, 0.6)[k])
                rows.append(Logged("ab"[k], float(p[k]), r))
                good[k] += r
                seen[k] += 1
        values.append([evaluate(rows, {"a": 0.5, "b": 0.5})[n].value for n in ("ips", "dr")])
    for column in np.array(values).T:
        assert abs(column.mean() - 0.45) < 4 * column.std() / math.sqrt(len(column))


def refusal(report: Report) -> str:
    assert report.estimates == ()
    assert report.refusal is not None
    return report.refusal


def test_it_refuses_what_the_record_cannot_answer() -> None:
    rows = record(2000, 7)
    assert "no decision with a reward" in refusal(evaluate([], TARGET))
    told = refusal(evaluate(rows, {"new": 0.5, "a": 0.5}))
    assert (
        "no rewarded decision for new, which the policy would use, but for a, b, c; correct the name" in told
    )
    assert "10 units, and 100 are needed" in refusal(evaluate(rows[:10], {"a": 1.0}))
    rare = {"a": 0.985, "b": 0.01, "c": 0.005}
    assert "effective sample size" in refusal(evaluate(record(3000, 8, rare), {"c": 1.0}))
    lucky = [*record(5000, 9), Logged("a", 1e-4, 1.0)]
    limits = Limits(effective=0)
    assert "one unit carries" in refusal(evaluate(lucky, TARGET, limits=limits))
    wrong = [row._replace(propensity=1 / 3) for row in rows]
    assert "the weights average" in refusal(evaluate(wrong, TARGET))
    before = [Logged("a", 1.0, 0.0)] * 1000
    assert "no share for a part of the time" in refusal(evaluate([*before, *rows], {"a": 0.5, "b": 0.5}))


def test_rows_that_were_not_drawn_or_not_rewarded_are_left_out_and_counted() -> None:
    rows = record(500, 10)
    extra = [Logged("a", 1.0, 1.0, forced=True)] * 3 + [Logged("b", 0.3, None)] * 2
    report = evaluate([*rows, *extra], TARGET)
    assert report.left_out == {"forced": 3, "no_reward": 2}
    assert report["ips"] == evaluate(rows, TARGET)["ips"]


def test_wrong_records_and_policies_are_errors() -> None:
    with pytest.raises(ValueError, match=r"outside \(0, 1\]"):
        evaluate([Logged("a", 0.0, 1.0)], {"a": 1.0})
    with pytest.raises(ValueError, match="must sum to 1"):
        evaluate(record(50, 1), {"a": 0.5})


def test_a_few_busy_units_are_called_what_they_are() -> None:
    rows = [row._replace(unit=min(k, 40)) for k, row in enumerate(record(3000, 8))]
    for k in range(4):
        rows += [row._replace(unit=1000 + k) for row in record(3000, 9 + k)]
    found = evaluate(rows, LOGGED, limits=Limits(effective=30.0, largest=1.0)).refusal
    assert (
        found == "a few of the 45 units sent most of the requests: they count as 5 alike, and 30 are needed"
    )


def test_too_few_units_are_not_called_busy() -> None:
    assert evaluate(record(40, 8), LOGGED).refusal == "the record has 40 units, and 100 are needed"


@pytest.mark.long
def test_the_gain_is_the_difference_with_an_interval_of_its_own() -> None:
    """Both estimates hang on the same rows, so the interval of their difference is narrower than theirs suggest."""
    report = evaluate(record(4000, 21), TARGET)
    gain, dr, logged = report["gain"], report["dr"], report["logged"]
    assert gain.value == pytest.approx(dr.value - logged.value)
    assert gain.interval[0] > 0
    same = evaluate(record(4000, 22), LOGGED)
    assert same["gain"].error < 0.5 * same["dr"].error
    held = 0
    truth = TRUTH - sum(LOGGED[v] * MEANS[v] for v in MEANS)
    for seed in range(100):
        low, high = evaluate(record(800, 1000 + seed), TARGET)["gain"].interval
        held += low <= truth <= high
    assert held >= stats.binom.ppf(1e-4, 100, 0.95)


def test_a_report_is_plain_data() -> None:
    data = json.loads(json.dumps(evaluate(record(1000, 11), TARGET).as_dict()))
    assert [e["name"] for e in data["estimates"]] == ["ips", "snips", "dm", "dr", "logged", "gain"]
    assert data["refusal"] is None
