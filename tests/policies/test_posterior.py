from __future__ import annotations

import json
import math
from fractions import Fraction
from math import comb, inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from policies.bayes.coordinates import (
    BetaCoordinates,
    GammaCoordinates,
    StudentCoordinates,
    log1p_less,
    stirling,
)
from policies.bayes.posterior import (
    Beta,
    Gamma,
    Posterior,
    Student,
    compare,
    interval,
)
from policies.bayes.quadrature import compare_posteriors

CASES = Path(__file__).parent / "cases"
OUTSIDE = json.loads((CASES / "probability_best.json").read_text())["cases"]
REFERENCE = json.loads((CASES / "contests.json").read_text())["cases"]
FAMILIES = {"beta": Beta, "gamma": Gamma, "student": Student}


def posteriors_of(case: dict[str, Any]) -> list[Posterior]:
    rows = [[inf if p is None else p for p in row] for row in case["parameters"]]
    return [FAMILIES[case["family"]](*row) for row in rows]


@pytest.mark.parametrize("case", OUTSIDE, ids=lambda c: str(c["alpha"]))
def test_outside_values_of_p_best(case: dict[str, Any]) -> None:
    best = compare([Beta(a, b) for a, b in zip(case["alpha"], case["beta"], strict=True)]).probability_best
    assert math.isclose(sum(best), 1.0, abs_tol=1e-12)
    if "p_best_exact" in case:
        assert best == pytest.approx(case["p_best_exact"], abs=1e-9)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['family']}-{c['goal']}-{c['parameters'][0]}")
def test_reference_values_in_forty_digits(case: dict[str, Any]) -> None:
    made = compare(posteriors_of(case), case["goal"])
    assert made.probability_best == pytest.approx(case["probability_best"], abs=1e-10)
    assert made.expected_loss == pytest.approx(case["expected_loss"], rel=1e-7, abs=1e-13)


def exact_two(a1: int, b1: int, a2: int, b2: int) -> Fraction:
    """P(θ1 > θ2) for whole parameters, by the order of a1 + b1 + a2 + b2 - 2 uniform draws."""
    n, m = a1 + b1 - 1, a2 + b2 - 1
    total = Fraction(0)
    # θ2 < θ1: of the pooled order statistics, at least a2 of the second sample lie below the a1-th of the first.
    for below in range(a2, m + 1):
        ways = comb(a1 - 1 + below, below) * comb(n - a1 + m - below, m - below)
        total += Fraction(ways, comb(n + m, m))
    return total


@given(st.tuples(*[st.integers(1, 60)] * 4))
@settings(deadline=None)
def test_two_betas_agree_with_exact_fractions(p: tuple[int, int, int, int]) -> None:
    best = compare([Beta(p[0], p[1]), Beta(p[2], p[3])]).probability_best
    assert best[0] == pytest.approx(float(exact_two(*p)), abs=1e-11)


positive = st.floats(math.log(0.05), math.log(1e9)).map(math.exp)
betas = st.builds(Beta, positive, positive)
gammas = st.builds(Gamma, positive, st.floats(-6, 6).map(math.exp))
students = st.builds(
    Student,
    st.one_of(st.just(inf), st.floats(1.5, 1e9)),
    st.floats(-100, 100),
    st.floats(-7, 7).map(math.exp),
)
contests = st.one_of(*[st.lists(family, min_size=2, max_size=8) for family in (betas, gammas, students)])


@given(contests, st.sampled_from(["maximize", "minimize"]))
@settings(deadline=None, max_examples=300)
def test_any_posteriors_can_be_compared(posteriors: list[Posterior], goal: Any) -> None:
    made = compare(posteriors, goal)
    assert math.isclose(made.probability_best.sum(), 1.0, abs_tol=1e-9)
    assert (made.probability_best >= 0).all()
    assert (made.expected_loss >= 0).all()
    sign = 1 if goal == "maximize" else -1
    means = np.array([p.mean for p in posteriors])
    # The losses differ by exactly the difference of the means: E[best - θ_i] - E[best - θ_j].
    scale = max(1e-300, float(np.abs(means).max()), max(min(p.sd, 1e300) for p in posteriors))
    differences = made.expected_loss + sign * means
    if all(not isinstance(p, Student) or p.df > 3 for p in posteriors):
        assert np.ptp(differences) <= 1e-8 * scale


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize(
    "pair",
    [
        (Beta(0.178, 9842), Beta(0.368, 38425)),
        (Beta(0.525, 756), Beta(0.146, 656)),
        (Gamma(0.047, 373), Gamma(0.695, 611)),
    ],
)
def test_losses_are_exact_where_densities_have_no_bound(pair: tuple[Posterior, Posterior], goal: Any) -> None:
    """Panels of the right mass, but too long for the loss, made it wrong by up to 3e-7 of the greatest mean."""
    first, second = pair
    lost, sign = compare(pair, goal).expected_loss, 1 if goal == "maximize" else -1
    assert lost[0] - lost[1] == pytest.approx(
        sign * (second.mean - first.mean), abs=1e-12 * max(first.mean, second.mean)
    )


@given(contests)
@settings(deadline=None)
def test_order_does_not_matter(posteriors: list[Posterior]) -> None:
    forwards, backwards = compare(posteriors), compare(posteriors[::-1])
    assert forwards.probability_best == pytest.approx(backwards.probability_best[::-1], abs=1e-9)


@given(st.lists(betas, min_size=2, max_size=6))
@settings(deadline=None)
def test_less_is_better_mirrors_more_is_better(posteriors: list[Beta]) -> None:
    mirrored = [Beta(p.b, p.a) for p in posteriors]
    less, more = compare(posteriors, "minimize"), compare(mirrored)
    assert less.probability_best == pytest.approx(more.probability_best, abs=1e-9)
    assert less.expected_loss == pytest.approx(more.expected_loss, abs=1e-9)


@pytest.mark.parametrize("k", [2, 3, 10, 100])
@pytest.mark.parametrize(
    "one", [Beta(1, 1), Beta(1e9, 3e8), Gamma(0.5, 2), Student(3, 0, 1), Student(inf, 5, 1e-4)]
)
def test_equal_variants_are_equally_good(one: Posterior, k: int) -> None:
    made = compare([one] * k)
    assert made.probability_best == pytest.approx(np.full(k, 1 / k), abs=1e-12)
    assert np.ptp(made.expected_loss) == pytest.approx(0.0, abs=1e-12)


def test_expected_maximum_of_uniforms() -> None:
    # E[max of K uniforms] is K / (K + 1); each has the mean 1/2.
    for k in (2, 5, 50):
        assert compare([Beta(1, 1)] * k).expected_loss == pytest.approx([k / (k + 1) - 0.5] * k, abs=1e-12)


@pytest.mark.parametrize(
    "posteriors",
    [
        [Beta(40, 60), Beta(45, 55), Beta(9, 21)],
        [Gamma(30, 10), Gamma(3, 1.2), Gamma(300, 110)],
        [Student(4, 0, 1), Student(40, 0.4, 0.5), Student(inf, 0.2, 2)],
    ],
)
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_simulation_agrees(posteriors: list[Posterior], goal: Any) -> None:
    n = 400_000
    rng = np.random.default_rng(11)
    draws = np.array([p.sample(rng, n) for p in posteriors]) * (1 if goal == "maximize" else -1)
    made = compare(posteriors, goal)
    frequency = np.bincount(draws.argmax(axis=0), minlength=3) / n
    assert np.abs(frequency - made.probability_best).max() < 5 * 0.5 / math.sqrt(n)
    loss = draws.max(axis=0) - draws
    assert np.abs(loss.mean(axis=1) - made.expected_loss).max() < 5 * loss.std() / math.sqrt(n)


def test_small_losses_keep_their_digits() -> None:
    # Two normals ten standard deviations of the difference apart: sd x [φ(10) - 10 Φ(-10)].
    made = compare([Student(inf, 0, 1 / math.sqrt(2)), Student(inf, 10, 1 / math.sqrt(2))])
    exact = stats.norm.pdf(10) - 10 * stats.norm.sf(10)
    assert made.expected_loss[1] == pytest.approx(exact, rel=1e-3)


def test_one_posterior_is_the_best_one() -> None:
    made = compare([Beta(3, 4)])
    assert (made.probability_best.tolist(), made.expected_loss.tolist()) == ([1.0], [0.0])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        compare([])
    with pytest.raises(ValueError, match="different families"):
        compare([Beta(1, 1), Gamma(1, 1)])
    for make in (lambda: Beta(0, 1), lambda: Gamma(1, inf), lambda: Student(5, 0, 0)):
        with pytest.raises(ValueError, match="> 0 and finite"):
            make()
    with pytest.raises(ValueError, match="df > 1"):
        Student(1, 0, 1)


def test_a_density_that_is_none_is_noticed() -> None:
    class Broken(BetaCoordinates):
        def log_density(self, t: Any) -> Any:
            return super().log_density(t) - 0.01

    with pytest.raises(ArithmeticError, match="does not sum to 1"):
        compare_posteriors(Broken(np.array([2.0, 3.0]), np.array([5.0, 4.0])))


@pytest.mark.parametrize("a", [0.3, 1.0, 40.0, 1e5])
def test_densities_are_those_of_scipy(a: float) -> None:
    t = np.linspace(-3, 3, 13)
    x = 1 / (1 + np.exp(-t))
    beta = BetaCoordinates(np.array([a]), np.array([2.0])).log_density(t)[0]
    assert beta == pytest.approx(stats.beta(a, 2).logpdf(x) + np.log(x * (1 - x)), rel=1e-9, abs=1e-9)
    gamma = GammaCoordinates.of(np.array([a]), np.array([2.0])).log_density(t)[0]
    x = a / 2 * np.exp(t)
    assert gamma == pytest.approx(stats.gamma(a, scale=0.5).logpdf(x) + np.log(x), rel=1e-9, abs=1e-9)
    student = StudentCoordinates.of(np.array([a]), np.array([0.0]), np.array([2.0])).log_density(t)[0]
    assert student == pytest.approx(stats.t(a, 0.0, 2.0).logpdf(t), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "log_ratio", "tail"),
    [
        (1e5, -0.018973665961010275, 1.1154797066600566e-09),
        (1e5, -0.0031622776601683794, 0.15903814575260442),
        (1e5, 0.018973665961010275, 8.71620844855866e-10),
        (1e7, -0.0015811388300841897, 2.88774255513028e-07),
        (1e7, 0.0006324555320336759, 0.022733063004337226),
        (1e10, -6e-05, 9.869725205280645e-10),
        (1e10, -1e-05, 0.15865646378810427),
        (1e10, 6e-05, 9.862029086850501e-10),
    ],
)
def test_tails_of_many_counts_keep_their_digits(shape: float, log_ratio: float, tail: float) -> None:
    """From 40-digit integrals; scipy's gammainc is wrong by a factor of ten in some of these."""
    coordinates = GammaCoordinates.of(np.array([shape]), np.array([3.0]))
    below, above = (float(side[0]) for side in coordinates.tails(log_ratio))
    assert (below if log_ratio < 0 else above) == pytest.approx(tail, rel=1e-10)
    assert below + above == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("a", [1.5, 30.0, 2e5])
def test_what_lies_beyond_a_point_is_what_integration_finds(a: float) -> None:
    coordinates, frozen = GammaCoordinates.of(np.array([a]), np.array([2.0])), stats.gamma(a, scale=0.5)
    for z in (-1.5, 0.3, 2.0):
        x = float(max(frozen.mean() + z * frozen.std(), 0.01 * frozen.mean()))
        t = math.log(x / frozen.mean())
        far = frozen.mean() + (40 if a < 10 else 12) * frozen.std()
        expected, _ = integrate.quad(lambda y, x=x: (y - x) * frozen.pdf(y), x, far, epsabs=0, limit=200)
        assert coordinates.excess(t)[0] == pytest.approx(expected, rel=1e-7)
        assert coordinates.shortfall(t)[0] == pytest.approx(expected + x - frozen.mean(), rel=1e-6)


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("k", [2, 10, 100])
def test_a_billion_counts_that_hardly_differ_are_told_apart(k: int, goal: Any) -> None:
    """As normal distributions of the same mean and deviation are."""
    many = [Gamma(1e9 * (10 + 2e-4 * i), 1e9) for i in range(k)]
    normal = [Student(inf, p.mean, p.sd) for p in many]
    found, expected = compare(many, goal), compare(normal, goal)
    assert found.probability_best == pytest.approx(expected.probability_best, abs=1e-5)
    assert found.expected_loss == pytest.approx(expected.expected_loss, abs=1e-8)


def test_helpers_keep_their_digits() -> None:
    # Values to 17 digits from 40-digit arithmetic.
    assert stirling(np.array([0.5, 10.0, 1e6])) == pytest.approx(
        [0.15342640972002735, 0.0083305634333628594, 8.3333333333305556e-08], rel=1e-10
    )
    u = np.array([1e-9, -1e-4, 0.29, 0.31, -0.9])
    exact = [-4.9999999966666673e-19, -5.000333358335334e-9, -0.035357781626419249, -0.039972862786939823]
    assert log1p_less(u, np.log1p(u))[:4] == pytest.approx(exact, rel=1e-12)
    assert log1p_less(u, np.log1p(u))[4] == pytest.approx(math.log(0.1) + 0.9, rel=1e-14)


@pytest.mark.parametrize(
    ("posterior", "frozen"),
    [
        (Beta(3, 9), stats.beta(3, 9)),
        (Gamma(3, 9), stats.gamma(3, scale=1 / 9)),
        (Student(7, 1, 2), stats.t(7, 1, 2)),
        (Student(inf, 1, 2), stats.norm(1, 2)),
    ],
)
def test_moments_and_intervals_are_those_of_scipy(posterior: Posterior, frozen: Any) -> None:
    assert posterior.mean == pytest.approx(frozen.mean())
    assert posterior.sd == pytest.approx(frozen.std())
    assert interval(posterior, 0.9) == pytest.approx(frozen.interval(0.9))


@pytest.mark.parametrize(
    ("first", "second", "goal"),
    [(Beta(1e9, 2), Beta(1, 2), "minimize"), (Beta(2, 1e9), Beta(2, 1), "maximize")],
)
def test_a_billion_counts_of_a_rare_event_are_told_from_a_few(first: Beta, second: Beta, goal: Any) -> None:
    found = compare([first, second], goal)
    assert found.probability_best[1] == pytest.approx(1.0, abs=1e-12)
    assert found.expected_loss[0] == pytest.approx(abs(second.mean - first.mean), rel=1e-9)


@pytest.mark.parametrize("tiny", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_tiny_parameter_is_exact_and_takes_few_panels(tiny: float) -> None:
    # The distribution function of Beta(a, 1) is x^a, and E[x^a] is a ratio of beta functions.
    raised = float(np.exp(special.betaln(2.0 + tiny, 3.0) - special.betaln(2.0, 3.0)))
    # A ratio of two Gammas is that of the parts of a Beta.
    of_gammas = float(special.betainc(tiny, 3.0, 1.0 / 3.0)), float(special.betainc(tiny, 2 * tiny, 0.25))
    pairs: list[tuple[Posterior, Posterior, float]] = [
        (Beta(tiny, 1.0), Beta(2.0, 3.0), raised),
        (Beta(tiny, 1.0), Beta(2 * tiny, 1.0), 2 / 3),
        (Gamma(tiny, 1.0), Gamma(3.0, 2.0), of_gammas[0]),
        (Gamma(tiny, 1.0), Gamma(2 * tiny, 3.0), of_gammas[1]),
    ]
    for first, second, higher in pairs:
        assert compare([first, second]).probability_best == pytest.approx((1 - higher, higher), abs=1e-9)
        assert compare([first, second], "minimize").probability_best == pytest.approx(
            (higher, 1 - higher), abs=1e-9
        )
    few = BetaCoordinates(np.array([1.0, 1.0]), np.array([tiny, 2 * tiny]))
    lower, upper = few.limits()
    assert len(few.edges(1.0, float(lower.max()), upper, 1.0)) < 1_000


def test_limits_hold_where_the_quantiles_of_scipy_do_not() -> None:
    a, b = (np.ravel(axis) for axis in np.meshgrid(10.0 ** np.arange(2, 13), 10.0 ** np.arange(2, 13)))
    lower, upper = BetaCoordinates(a, b).limits()
    mean, deviation = np.log(a / b), np.sqrt(special.polygamma(1, a) + special.polygamma(1, b))
    assert ((mean - lower > 7.0 * deviation) & (mean - lower < 13.0 * deviation)).all()
    assert ((upper - mean > 7.0 * deviation) & (upper - mean < 13.0 * deviation)).all()
    assert compare([Beta(1e3, 1e9), Beta(1e3, 1e9)]).probability_best == pytest.approx((0.5, 0.5), abs=1e-9)
