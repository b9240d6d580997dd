from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from policies.allocate import allocate
from policies.allocation.bandit import Bandit, Debut, Objective, Stop, discounted, joined, refresh, utility
from policies.allocation.model import Learned
from policies.allocation.shares import floored, top_two
from policies.bayes.posterior import Beta, Gamma, Student, compare
from policies.bayes.prior import BetaPrior
from policies.types import Discounted, RewardSums

GBSTATS = json.loads((Path(__file__).parent / "cases" / "gbstats_bayes.json").read_text())["cases"]


def plan(*variants: str, **rest: Any) -> Bandit:
    return Bandit(variants or ("a", "b"), rest.pop("objectives", (Objective("correct"),)), **rest)


def learned(metric: str = "correct", **counts: tuple[float, float]) -> Learned:
    return Learned(sums={(v, metric): RewardSums(n, s, s) for v, (n, s) in counts.items()})


def test_shares_are_the_probabilities_of_being_best() -> None:
    made, standing = refresh(plan(), learned(a=(100, 10), b=(100, 13)))
    assert made.as_dict() == pytest.approx({"a": 0.2574551534202252, "b": 0.7425448465797748})
    assert standing.probability_best == pytest.approx(tuple(made.as_dict().values()))
    assert standing.posteriors == (Beta(11, 91), Beta(14, 88))
    assert standing.counts == (100, 100)


def test_nothing_learned_gives_even_shares() -> None:
    assert allocate(plan("a", "b", "c")).as_dict() == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_the_floor_holds_for_who_starves() -> None:
    made = allocate(plan("a", "b", "c", floor=0.01), learned(a=(1e5, 9e4), b=(1e5, 8e4), c=(1e5, 1e4)))
    assert made.as_dict() == pytest.approx({"a": 0.98, "b": 0.01, "c": 0.01})


@pytest.mark.parametrize("floor", [0.51, -0.1, math.nan])
def test_a_floor_that_cannot_hold_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match=r"write one between 0 and 0\.5"):
        plan(floor=floor)


def test_plans_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one variant and one metric"):
        Bandit((), (Objective("m"),))
    with pytest.raises(ValueError, match="half-life is 0"):
        plan(half_life=0.0)
    with pytest.raises(ValueError, match="can't stop for good"):
        plan(half_life=60.0, stop=Stop())
    with pytest.raises(ValueError, match="between 0 and 1"):
        plan(second=1.0)
    with pytest.raises(ValueError, match="a count metric takes a GammaPrior"):
        Objective("m", "count", prior=BetaPrior())
    with pytest.raises(ValueError, match="weight of 'm'"):
        Objective("m", weight=-1.0)


def test_less_is_better_when_the_goal_says_so() -> None:
    goal = plan(objectives=(Objective("latency", "real", "minimize"),))
    sums = {
        ("a", "latency"): RewardSums(50, 50 * 10, 50 * 101),
        ("b", "latency"): RewardSums(50, 50 * 12, 50 * 145),
    }
    made = allocate(goal, Learned(sums=sums))
    assert made.probability("a") > 0.99


def test_caps_bind_and_eject() -> None:
    known = learned(a=(100, 10), b=(100, 30), c=(100, 20))
    capped = allocate(plan("a", "b", "c", floor=0.02), Learned(sums=known.sums, caps={"b": 0.3}))
    assert capped.probability("b") == 0.3
    assert sum(capped.probabilities) == pytest.approx(1.0)
    ejected = allocate(plan("a", "b", "c", floor=0.02), Learned(sums=known.sums, caps={"b": 0.0}))
    assert ejected.probability("b") == 0.0
    assert 1 not in ejected.owners
    with pytest.raises(ValueError, match="leave less than everything"):
        allocate(plan(), Learned(caps={"a": 0.1, "b": 0.2}))


def test_a_newcomer_is_held_back_until_it_is_known() -> None:
    held = plan("a", "b", "new", debut=Debut(share=0.1, samples=50))
    poor = learned(a=(1000, 100), b=(1000, 120))
    assert allocate(plan("a", "b", "new"), poor).probability("new") > 0.8
    assert allocate(held, poor).probability("new") == pytest.approx(0.1)
    known = Learned(sums={**poor.sums, ("new", "correct"): RewardSums(50, 25, 25)})
    assert allocate(held, known).probability("new") > 0.9
    assert allocate(held, Learned()).probability("new") == pytest.approx(1 / 3)


def test_a_new_variant_joins_without_moving_more_than_it_takes() -> None:
    before = allocate(plan("a", "b"), learned(a=(100, 10), b=(100, 13)))
    known = learned(a=(100, 10), b=(100, 13))
    after = allocate(plan("a", "b", "new"), Learned(sums=known.sums, previous=before))
    for u in (k / 1000 for k in range(1000)):
        if after.variants[after.pick(u)] != "new":
            assert after.pick(u) == before.pick(u)


def test_top_two_explores_more() -> None:
    known = learned(a=(100, 10), b=(100, 30))
    greedy, bold = allocate(plan(), known), allocate(plan(algorithm="top_two"), known)
    assert bold.probability("a") > 100 * greedy.probability("a")
    assert bold.probability("a") == pytest.approx(0.5, abs=0.01)


def test_the_stop_rule_names_a_winner_only_when_all_of_it_holds() -> None:
    rule = Stop(probability=0.95, loss=0.01, samples=100, alpha=None)
    clear = learned(a=(1000, 100), b=(1000, 200))
    made, standing = refresh(plan(stop=rule), clear)
    assert standing.stopped == "b"
    assert made.probability("a") > 0.0, "asking changes nothing"
    assert refresh(plan(stop=rule), learned(a=(1000, 100), b=(1000, 105)))[1].stopped is None
    assert refresh(plan(stop=rule), learned(a=(99, 1), b=(1000, 200)))[1].stopped is None
    strict = Stop(probability=0.95, loss=1e-15, samples=100, alpha=None)
    assert refresh(plan(stop=strict), learned(a=(1000, 100), b=(1000, 140)))[1].stopped is None


def test_a_stop_rule_may_hand_over_everything() -> None:
    rule = Stop(probability=0.95, samples=100, then="single", alpha=None)
    made, _ = refresh(plan(stop=rule, floor=0.05), learned(a=(1000, 100), b=(1000, 200)))
    assert made.as_dict() == {"a": 0.0, "b": 1.0}
    running, _ = refresh(plan(stop=rule, floor=0.05), learned(a=(1000, 100), b=(1000, 105)))
    assert running.probability("a") >= 0.05


def test_one_variant_is_no_contest() -> None:
    made, standing = refresh(plan("only", stop=Stop(samples=0)), Learned())
    assert (made.as_dict(), standing.stopped) == ({"only": 1.0}, None)


def test_old_decisions_count_less() -> None:
    key = ("a", "correct")
    buckets = [(0.0, {key: RewardSums(100, 50, 50)}), (60.0, {key: RewardSums(10, 1, 1)})]
    sums = discounted(buckets, now=120.0, half_life=60.0)
    assert sums == {key: Discounted(100 / 4 + 10 / 2, 50 / 4 + 1 / 2, 50 / 4 + 1 / 2)}
    forgetful = plan(half_life=60.0)
    assert allocate(forgetful, Learned(sums={key: RewardSums(1000, 0, 0)})).probability("a") == 0.5
    assert allocate(forgetful, Learned(discounted=sums)).probability("a") < 0.5


def test_several_metrics_make_one_utility() -> None:
    objectives = (Objective("correct", weight=1.0), Objective("cost", "count", "minimize", weight=0.1))
    made = utility((Beta(80, 20), Gamma(300, 100)), objectives)
    assert made.mean == pytest.approx(0.8 - 0.3)
    assert made.sd == pytest.approx(Beta(80, 20).sd + 0.1 * Gamma(300, 100).sd)
    both = plan(objectives=objectives)
    sums = {
        ("a", "correct"): RewardSums(1000, 800, 800),
        ("b", "correct"): RewardSums(1000, 850, 850),
        ("a", "cost"): RewardSums(1000, 1000, 2000),
        ("b", "cost"): RewardSums(1000, 3000, 12000),
    }
    made_shares, standing = refresh(both, Learned(sums=sums))
    assert made_shares.probability("a") > 0.999, "0.05 more correct does not pay for two more of cost"
    assert standing.counts == (1000, 1000)
    assert standing.interval(0)[0] < 0.8 - 0.1 < standing.interval(0)[1]


@pytest.mark.parametrize(
    "case", [c for c in GBSTATS if c["kind"] == "bandit_weights"], ids=lambda c: str(c["input"]["top_two"])
)
def test_weights_of_another_bandit(case: dict[str, Any]) -> None:
    given, out = case["input"], case["output"]
    normal = [
        Student(math.inf, m, math.sqrt(v / n))
        for m, v, n in zip(given["mean"], given["var"], given["n"], strict=True)
    ]
    best = compare(normal).probability_best.tolist()
    # Theirs are frequencies in 10,000 draws: five standard errors.
    noise = 5 * 0.5 / math.sqrt(given["n_samples"])
    assert best == pytest.approx(out["best_arm_probabilities"], abs=noise)
    for normal_k, (low, high) in zip(normal, out["ci"], strict=True):
        assert (normal_k.quantile(0.025), normal_k.quantile(0.975)) == pytest.approx((low, high), rel=1e-9)
    if not given["top_two"]:
        weights = floored(best, given["min_variation_weight"])
    else:
        weights = floored(top_two(best, 0.5), given["min_variation_weight"])
    assert weights == pytest.approx(out["bandit_weights"], abs=noise)


@pytest.mark.parametrize(
    "rest",
    [
        {}, {"floor": 0.1}, {"algorithm": "top_two"}, {"debut": Debut(0.1, 10)}, {"stop": Stop(0.9)},
        {"stop": Stop(0.9, samples=0, then="single")}, {"half_life": 60.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("caps", [{}, {"b": 0.0}, {"a": 0.2, "c": 0.5}])
def test_before_the_first_reward_shares_are_those_that_integrals_give(
    rest: dict[str, Any], caps: dict[str, float]
) -> None:
    plan = Bandit(("a", "b", "c"), (Objective("m", "real"),), **rest)
    learned = Learned(caps=caps)
    assert allocate(plan, learned).as_dict() == pytest.approx(refresh(plan, learned)[0].as_dict(), abs=1e-9)


def test_a_winner_has_everything_whatever_is_believed_until_a_guardrail_ejects_it() -> None:
    sums = {("a", "correct"): RewardSums(100, 90, 90), ("b", "correct"): RewardSums(100, 10, 10)}
    made, standing = refresh(plan("a", "b"), Learned(sums=sums, winner="b"))
    assert made.as_dict() == {"a": 0.0, "b": 1.0}
    assert standing.probability_best[0] > 0.99
    assert refresh(plan("a", "b"), Learned(sums=sums, winner="gone"))[0].probability("a") > 0.99
    ejected = Learned(sums=sums, winner="b", caps={"b": 0.0})
    assert refresh(plan("a", "b"), ejected)[0].as_dict() == {"a": 1.0, "b": 0.0}
    assert allocate(plan("a", "b"), Learned(winner="a")).as_dict() == {"a": 1.0, "b": 0.0}


def test_who_joins_takes_no_more_than_the_debut_from_the_first_moment() -> None:
    held = plan("a", "b", "new", floor=0.01, debut=Debut(share=0.1, samples=50))
    made = joined(held, {"a": 0.03, "b": 0.97})
    assert made.as_dict() == pytest.approx({"a": 0.027, "b": 0.873, "new": 0.1})
    assert joined(plan("a", "b", "new"), {"a": 0.5, "b": 0.5}).probability("new") == pytest.approx(1 / 3)
    assert joined(plan("a", "b"), {"a": 0.2, "b": 0.2, "gone": 0.6}).as_dict() == {"a": 0.5, "b": 0.5}
    assert joined(held, {}).as_dict() == pytest.approx(dict.fromkeys(("a", "b", "new"), 1 / 3))


def test_a_newcomer_stands_in_for_those_that_were_ejected() -> None:
    held = plan("a", "new", debut=Debut(share=0.1, samples=50))
    known = Learned(sums={("a", "correct"): RewardSums(100, 50, 50)}, caps={"a": 0.0})
    assert refresh(held, known)[0].as_dict() == {"a": 0.0, "new": 1.0}
