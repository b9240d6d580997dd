from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bayes.posterior import Beta, Gamma, Student, compare
from policies.bayes.prior import BetaPrior, GammaPrior, NormalPrior, dispersion, posteriors
from policies.types import Discounted, RewardSums


def sums_of(values: np.ndarray) -> RewardSums:
    return RewardSums(len(values), float(values.sum()), float((values**2).sum()))


def test_booleans_start_at_beta_one_one() -> None:
    assert posteriors("boolean", [RewardSums(), RewardSums(10, 7, 7)]) == (Beta(1, 1), Beta(8, 4))


def test_a_declared_prior_is_taken() -> None:
    prior = BetaPrior.of(mean=0.9, strength=20)
    (made,) = posteriors("fraction", [RewardSums(10, 4.5, 3.0)], prior)
    assert (made.a, made.b) == pytest.approx((22.5, 7.5))  # type: ignore[union-attr]
    assert posteriors("count", [RewardSums(10, 30, 100)], GammaPrior.of(2.0, 5)) == (Gamma(40, 15),)


def test_reals_agree_with_the_textbook() -> None:
    # Gelman et al., section 3.3, by hand: κ0 = 2, ν0 = 4, μ0 = 1, σ0² = 9; data 2, 4, 9.
    (made,) = posteriors("real", [RewardSums(3, 15.0, 101.0)], NormalPrior(mean=1, scale=3, strength=2, df=4))
    mu, kappa, nu = (2 * 1 + 15) / 5, 5, 7
    spread = 4 * 9 + 26 + 2 * 3 / 5 * (5 - 1) ** 2
    assert made == Student(nu, mu, math.sqrt(spread / nu / kappa))


def test_an_undeclared_real_prior_moves_with_the_unit() -> None:
    rng = np.random.default_rng(5)
    data = [rng.normal(3, 1, 20), rng.normal(3.5, 2, 30), np.array([])]
    plain = posteriors("real", [sums_of(x) for x in data])
    moved = posteriors("real", [sums_of(1000 * x + 7) for x in data])
    for a, b in zip(plain, moved, strict=True):
        assert isinstance(a, Student)
        assert isinstance(b, Student)
        assert b.df == a.df
        assert b.loc == pytest.approx(1000 * a.loc + 7)
        assert b.scale == pytest.approx(1000 * a.scale, rel=1e-6)
    assert plain[2].mean == pytest.approx(np.concatenate(data).mean())


@pytest.mark.parametrize("model", ["boolean", "fraction", "real", "count"])
def test_nothing_known_makes_everyone_equal(model: str) -> None:
    made = posteriors(model, [RewardSums()] * 4)  # type: ignore[arg-type]
    assert compare(made).probability_best == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6, -1e6])
def test_values_that_never_differ_do_no_harm(value: float) -> None:
    same = RewardSums(50, 50 * value, 50 * value * value)
    made = posteriors("real", [same, same, RewardSums()])
    best = compare(made).probability_best
    assert best[0] == pytest.approx(best[1])
    assert best.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("value", [1e12, 1e40, 1e99])
def test_counts_without_width_are_compared(value: float) -> None:
    """A Gamma distribution whose lower and upper limit were the same float left nothing to integrate over."""
    same, more = (RewardSums(200, 200 * v, 200 * v * v) for v in (value, 1.01 * value))
    assert compare(posteriors("count", [same, same])).probability_best == pytest.approx([0.5, 0.5])
    assert compare(posteriors("count", [same, more, RewardSums()])).probability_best[0] == 0.0
    assert [one.mean for one in posteriors("count", [same])] == pytest.approx([value])


@pytest.mark.parametrize("n", [1.0, 1e9])
@pytest.mark.parametrize("model", ["boolean", "real", "count"])
def test_extreme_counts(model: str, n: float) -> None:
    half = RewardSums(n, 0.5 * n, 0.5 * n)
    more = RewardSums(n, 0.75 * n, 0.75 * n)
    best = compare(posteriors(model, [half, more, RewardSums()])).probability_best  # type: ignore[arg-type]
    assert best.sum() == pytest.approx(1.0, abs=1e-9)
    assert best[1] > best[0]


@given(st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=30))
def test_corrections_leave_no_trace(kept: list[bool], retracted: list[bool]) -> None:
    sums = RewardSums()
    for value in kept + retracted:
        sums += RewardSums(1, value, value)
    for value in retracted:
        sums -= RewardSums(1, value, value)
    assert posteriors("boolean", [sums]) == (Beta(1 + sum(kept), 1 + len(kept) - sum(kept)),)


def test_counts_in_bursts_are_less_certain() -> None:
    rng = np.random.default_rng(2)
    poisson, bursts = rng.poisson(4.0, 5000), rng.negative_binomial(1, 0.2, 5000)
    assert dispersion([sums_of(poisson.astype(float))]) == pytest.approx(1.0, abs=0.1)
    assert dispersion([sums_of(bursts.astype(float))]) == pytest.approx(5.0, rel=0.1)
    calm, wild = posteriors("count", [sums_of(poisson.astype(float)), sums_of(bursts.astype(float))])
    assert wild.sd == pytest.approx(bursts.std() / math.sqrt(5000), rel=0.02)
    assert wild.sd > 2 * calm.sd
    assert wild.mean == pytest.approx(calm.mean, rel=0.05)


@pytest.mark.parametrize("each", [2, 5, 20, 29, 30, 60])
def test_few_counts_in_bursts_make_no_variant_the_best(each: int) -> None:
    """Nine of ten counts are 0, the tenth is about 20: with 20 of each variant, 62 % of equal ones were surely best."""
    rng = np.random.default_rng(each)
    values = rng.poisson(20, (200, 2, each)) * (rng.random((200, 2, each)) < 0.1).astype(float)
    best = [max(compare(posteriors("count", [sums_of(v) for v in pair])).probability_best) for pair in values]
    assert np.mean(np.array(best) >= 0.99) < 0.06


@pytest.mark.parametrize("each", [1, 5, 20, 60])
@pytest.mark.parametrize("mean", [2, 20])
def test_few_counts_of_a_variant_whose_bursts_have_not_come_do_not_rule_it_out(each: int, mean: int) -> None:
    """One in twenty counts is not 0, and the other variant has no bursts: with five of each, and equal means, 62 % of
    runs were sure."""
    rng = np.random.default_rng(each)
    bursts = rng.poisson(20 * mean, (200, each)) * (rng.random((200, each)) < 0.05).astype(float)
    calm = rng.poisson(mean, (200, each)).astype(float)
    best = [
        max(compare(posteriors("count", [sums_of(one), sums_of(other)])).probability_best)
        for one, other in zip(bursts, calm, strict=True)
    ]
    assert np.mean(np.array(best) >= 0.99) < 0.03


def test_a_variant_that_gets_nothing_is_ruled_out_by_a_hundred_counts() -> None:
    nothing, little = RewardSums(100), RewardSums(100, 20, 24)
    assert compare(posteriors("count", [nothing, little])).probability_best[1] > 0.99


def test_discounted_sums_make_posteriors_too() -> None:
    assert posteriors("boolean", [Discounted(2.5, 1.5, 1.5)]) == (Beta(2.5, 2.0),)


def test_sums_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="can't sum to 11"):
        posteriors("boolean", [RewardSums(10, 11, 11)])
    with pytest.raises(ValueError, match="declare the metric as real"):
        posteriors("count", [RewardSums(10, -4, 11)])
    with pytest.raises(ValueError, match="a real metric takes a NormalPrior, not a BetaPrior"):
        posteriors("real", [RewardSums()], BetaPrior())


def test_priors_that_cannot_be_are_refused() -> None:
    for make in (lambda: BetaPrior(0, 1), lambda: GammaPrior(1, math.inf), lambda: NormalPrior(0, -1)):
        with pytest.raises(ValueError, match="above zero and finite"):
            make()
    with pytest.raises(ValueError, match="above 1"):
        NormalPrior(0, 1, df=1.0)


def test_rounding_of_subtracted_sums_is_forgiven() -> None:
    sums = RewardSums(3, 0.1 + 0.2 + 0.3, 0.14) - RewardSums(3, 0.6, 0.14)
    assert posteriors("fraction", [sums]) == (Beta(1 + max(0.0, sums.total), 1.0),)
