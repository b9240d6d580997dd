from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from policies.allocate import allocate
from policies.allocation.model import Learned
from policies.bayes.posterior import Student, compare
from policies.contextual.bandit import Contextual, discounted, ensemble, moved, restored
from policies.contextual.features import GRID, Categorical, Numeric, columns, encode, fingerprint, recorded
from policies.contextual.regression import LinearSums, fit, total

FEATURES = (Categorical("tier", ("free", "paid")), Numeric("length", 0, 100))


def plan(*variants: str, **rest: object) -> Contextual:
    return Contextual(variants or ("a", "b"), "correct", rest.pop("features", FEATURES), **rest)  # type: ignore[arg-type]


def test_rows_of_features() -> None:
    assert columns(FEATURES) == ("constant", "tier=free", "tier=paid", "length", "length missing")
    assert encode(FEATURES, {"tier": "paid", "length": "75"}) == (1, 0, 1, 0.5, 0)
    assert encode(FEATURES, {"tier": "else", "length": 1e9}) == (1, 0, 0, 1, 0)
    for unreadable in (None, "long", "nan", float("nan")):
        assert encode(FEATURES, {"length": unreadable}) == (1, 0, 0, 0, 1)


@given(
    st.dictionaries(
        st.sampled_from(["tier", "length", "other"]),
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=70)),
    )
)
def test_what_is_recorded_makes_the_same_row(raw: dict[str, str | float | bool | None]) -> None:
    row = encode(FEATURES, raw)
    assert all((x * GRID).is_integer() and -1 <= x <= 1 for x in row)
    text = recorded(FEATURES, raw)
    found = json.loads(text)
    assert set(found) == {"tier", "length"}
    assert encode(FEATURES, found) == row
    assert recorded(FEATURES, found) == text


def test_categories_of_json_are_read_as_json_writes_them() -> None:
    feature = Categorical("x", ("true", "3", "0.5"))
    assert [feature.encode(v).index(1.0) for v in (True, 3, 3.0, 0.5, "true")] == [0, 1, 1, 2, 0]
    assert recorded((feature, Numeric("n")), {"x": "a" * 65, "n": 10**400}) == '{"n":null,"x":null}'


def test_a_fingerprint_changes_with_the_meaning_of_a_column() -> None:
    tier, length = FEATURES
    others = (
        (length, tier), (tier,), (tier, Numeric("length", 0, 99)), (tier, Numeric("size", 0, 100)),
        (Categorical("tier", ("paid", "free")), length),
    )  # fmt: skip
    assert len({fingerprint(f) for f in (FEATURES, *others)}) == 6
    assert fingerprint(FEATURES) == fingerprint(
        (Categorical("tier", ("free", "paid")), Numeric("length", 0, 100))
    )


@pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, math.inf)])
def test_a_range_that_is_none_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="minimum must be below maximum"):
        Numeric("x", *bad)
    with pytest.raises(ValueError, match="each only once"):
        Categorical("x", ("a", "a"))


def test_the_posterior_is_the_textbook_one() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
    r = x @ [2.0, -1.0, 0.5] + rng.normal(0, 0.3, 40)
    (made,) = fit([LinearSums.of(x.tolist(), r.tolist())], strength=0.7)
    m0 = np.array([r.mean(), 0, 0])
    prior, b0 = 0.7 * np.eye(3), 0.5 * r.var()
    precision = prior + x.T @ x
    mean = np.linalg.solve(precision, prior @ m0 + x.T @ r)
    assert made.mean == pytest.approx(mean)
    assert made.a == 1.5 + 20
    assert made.b == pytest.approx(b0 + 0.5 * (r @ r + m0 @ prior @ m0 - mean @ precision @ mean))
    draws = made.draw(np.random.default_rng(2), 100_000)
    assert draws.mean(axis=0) == pytest.approx(mean, abs=1e-9), "mirrored pairs have the exact mean"
    covariance = made.b / (made.a - 1) * np.linalg.inv(precision)
    assert np.cov(draws.T) == pytest.approx(covariance, abs=0.02 * covariance.max())


def test_sums_commute_and_subtract() -> None:
    rng = np.random.default_rng(4)
    x, r = rng.normal(size=(30, 3)), rng.normal(size=30)
    whole = LinearSums.of(x, r)
    parts = [LinearSums.of(x[k : k + 10], r[k : k + 10]) for k in (0, 10, 20)]
    again = total([parts[2], parts[0], parts[1]], 3) - parts[1] + parts[1]
    assert again.xx == pytest.approx(whole.xx)
    assert again.xr == pytest.approx(whole.xr)
    assert (again.count, again.rr) == pytest.approx((30, whole.rr))
    kept = LinearSums.from_dict(whole.as_dict())
    assert (kept.xx == whole.xx).all()
    assert kept.rr == whole.rr


@given(st.integers(2, 6), st.integers(0, 2**32), st.one_of(st.just(0.0), st.floats(1e-3, 0.1)))
@settings(deadline=None, max_examples=40)
def test_the_recorded_propensity_is_the_length_of_the_range(k: int, seed: int, floor: float) -> None:
    names = tuple(f"v{i}" for i in range(k))
    rng = np.random.default_rng(seed)
    sums = {n: LinearSums.of(rng.normal(size=(20, 5)), rng.normal(size=20)) for n in names}
    made = ensemble(plan(*names, floor=floor, draws=64), sums, rng)
    row = tuple(rng.uniform(-1, 1, 5).tolist())
    shares, allocation = made.shares(row), made.allocation(row)
    assert math.isclose(sum(shares), 1.0, abs_tol=1e-12)
    cuts = np.concatenate([[0.0], np.cumsum(shares)])
    for i, share in enumerate(shares):
        if share > 0:
            inside = allocation.pick(float(cuts[i] + 0.5 * share))
            assert inside == i
            assert math.isclose(allocation.probabilities[inside], share, rel_tol=1e-12)
    assert all(share >= floor for share in shares)
    assert allocation.probabilities[allocation.pick(1 - 2**-53)] > 0


def test_shares_tend_to_the_probability_of_being_best() -> None:
    rng = np.random.default_rng(9)
    x = np.column_stack([np.ones(60), rng.integers(0, 2, 60), np.zeros((60, 3))])
    sums = {
        n: LinearSums.of(x, x @ [0.4, shift, 0, 0, 0] + rng.normal(0, 0.5, 60))
        for n, shift in (("a", 0.1), ("b", 0.2))
    }
    made = ensemble(plan(floor=0.0, draws=100_000), sums, rng)
    row = (1.0, 1.0, 0.0, 0.0, 0.0)
    marginals = []
    for coefficients in made.posteriors:
        mean, scale = coefficients.predict(np.array([row]))
        marginals.append(Student(2 * coefficients.a, float(mean[0]), float(scale[0])))
    assert made.shares(row) == pytest.approx(compare(marginals).probability_best, abs=0.01)


def test_every_replica_with_the_seed_decides_alike() -> None:
    sums = {"a": LinearSums.of([[1, 0, 1, 0.5, 0]] * 5, [1, 0, 1, 1, 0])}
    one, two = (ensemble(plan(), sums, np.random.default_rng([7, 3])) for _ in range(2))
    row = encode(one.plan.features, {"tier": "paid"})
    assert one.allocation(row) == two.allocation(row)


@pytest.mark.long
@given(st.integers(1, 5), st.integers(0, 2**32), st.sampled_from([1e-90, 1e-3, 1.0, 1e6, 1e90]))
@settings(deadline=None, max_examples=30)
def test_a_restored_ensemble_decides_alike_to_the_last_bit(k: int, seed: int, unit: float) -> None:
    """Products on the grids are exact: whichever way they are summed, the votes are the same."""
    names = tuple(f"v{i}" for i in range(k))
    rng = np.random.default_rng(seed)
    xs = np.round(rng.uniform(-1, 1, (30, 5)) * GRID) / GRID
    sums = {n: LinearSums.of(xs, unit * (7 + rng.normal(size=30))) for n in names}
    made = ensemble(plan(*names, draws=64), sums, rng, caps={names[0]: 1.0 if k == 1 else 0.4})
    again = restored(made.plan, made.packed(), caps={names[0]: 1.0 if k == 1 else 0.4})
    assert (again.coefficients == made.coefficients).all()
    assert again.packed() == made.packed()
    for row in xs[:10]:
        assert again.shares(row.tolist()) == made.shares(row.tolist())
        by_hand = [[sum(map(Fraction, (w * row).tolist())) for w in each] for each in made.coefficients]
        product = made.coefficients @ row
        assert [[Fraction(float(p)) for p in each] for each in product] == by_hand


def test_bytes_of_another_plan_are_refused() -> None:
    made = ensemble(plan(), {}, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"do not hold coefficients of the shape \(256, 3, 5\)"):
        restored(plan("a", "b", "c"), made.packed())


def test_nothing_has_moved_until_the_posterior_has() -> None:
    rng = np.random.default_rng(5)
    x, r = np.round(rng.uniform(-1, 1, (4000, 5)) * GRID) / GRID, rng.normal(size=4000)
    fits = [[fit([LinearSums.of(x[:n], r[:n])])[0].belief] for n in (2000, 2001, 4000)]
    assert not moved(fits[0], fits[0])
    assert not moved(fits[0], fits[1])
    assert moved(fits[0], fits[2])
    assert moved(fits[0], fits[0] * 2)
    assert moved((), fits[0])


def test_old_rewards_count_less() -> None:
    one = LinearSums.of([[1.0, 0.5]], [2.0])
    found = discounted([(0.0, {"a": one}), (100.0, {"a": one, "b": one})], now=200.0, half_life=100.0)
    assert found["a"].count == 0.25 + 0.5
    assert found["b"].xr.tolist() == [1.0, 0.5]
    assert found["a"].xx[0, 1] == 0.75 * 0.5


def test_the_average_share_is_the_mean_over_rows() -> None:
    made = ensemble(plan(), {}, np.random.default_rng(3))
    rows = [(1.0, 1.0, 0.0, 0.5, 0.0), (1.0, 0.0, 1.0, -0.5, 0.0)]
    wanted = np.mean([made.shares(row) for row in rows], axis=0)
    assert made.average(rows) == pytest.approx(wanted)


def test_less_is_better_when_the_goal_says_so() -> None:
    x = [[1.0, 0, 0, 0, 0]] * 50
    noise = np.random.default_rng(0).normal(0, 0.1, 50)
    sums = {"a": LinearSums.of(x, 1 + noise), "b": LinearSums.of(x, 2 + noise)}
    for goal, better in (("minimize", "a"), ("maximize", "b")):
        made = ensemble(plan(goal=goal, floor=0.0), sums, np.random.default_rng(1))
        assert dict(zip(("a", "b"), made.shares(tuple(x[0])), strict=True))[better] > 0.99


def test_caps_hold_for_every_row() -> None:
    made = ensemble(plan("a", "b", "c"), {}, np.random.default_rng(1), caps={"b": 0.0, "c": 0.05})
    assert made.shares((1, 0, 0, 0, 0)) == pytest.approx((0.95, 0.0, 0.05))
    with pytest.raises(ValueError, match="leave less than everything"):
        ensemble(plan(), {}, np.random.default_rng(1), caps={"a": 0.1, "b": 0.1})


def test_plans_that_make_no_sense_are_refused() -> None:
    for kwargs, message in (
        ({"floor": 0.6}, "more than everything"),
        ({"draws": 7}, "even number"),
        ({"strength": 0.0}, "strength"),
        ({"half_life": 0.0}, "half-life"),
        ({"features": (Categorical("c", tuple(map(str, range(32)))),)}, "make 33 columns .constant, c=0"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(**kwargs)
    with pytest.raises(ValueError, match="rows of 5 columns: constant, tier=free"):
        ensemble(plan(), {"a": LinearSums.empty(3)}, np.random.default_rng(1))


def test_before_the_first_ensemble_shares_are_even() -> None:
    assert allocate(plan("a", "b", "c"), Learned(caps={"a": 0.2})).as_dict() == pytest.approx(
        {"a": 0.2, "b": 0.4, "c": 0.4}
    )


def test_it_learns_who_is_best_for_whom_and_the_record_can_be_trusted() -> None:
    """b is better for paid, a for free; importance weights with the recorded propensities are unbiased."""
    rng = np.random.default_rng(17)
    made_plan = plan(floor=0.05, features=(Categorical("tier", ("free", "paid")),))
    chance = {("a", "free"): 0.7, ("a", "paid"): 0.4, ("b", "free"): 0.5, ("b", "paid"): 0.6}
    sums = {name: LinearSums.empty(3) for name in made_plan.variants}
    weights, best = [], 0
    for step in range(40):
        now = ensemble(made_plan, sums, rng)
        for _ in range(50):
            tier = ("free", "paid")[rng.integers(2)]
            row = encode(made_plan.features, {"tier": tier})
            allocation = now.allocation(row)
            place = allocation.pick(rng.random())
            variant = allocation.variants[place]
            reward = float(rng.random() < chance[variant, tier])
            sums[variant] += LinearSums.of([row], [reward])
            weights.append((variant == "a") / allocation.probabilities[place])
            best += step >= 20 and variant == {"free": "a", "paid": "b"}[tier]
    assert best / 1000 > 0.8
    error = np.std(weights) / math.sqrt(len(weights))
    assert abs(np.mean(weights) - 1.0) < stats.norm.isf(1e-5) * error
