"""Adjustment by the units' past: against weighted least squares on the values themselves, and by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from benchmarks import covariates, unit_pasts
from policies.rollout.guardrails import judge
from policies.sequential.adjusted import Paired, adjusted, without_predicted
from policies.sequential.design_based import WeightedSums
from policies.sequential.metric_comparison import Evidence
from policies.types import PairSums, RewardSums

Floats = npt.NDArray[np.float64]


def weighted(values: Floats, w: Floats) -> WeightedSums:
    y, w2 = values, w * w
    parts = (w.sum(), w @ y, w @ (y * y), w2.sum(), w2 @ y, w2 @ (y * y))
    return WeightedSums(float(len(y)), *map(float, parts))


def paired(y: Floats, x: Floats, known: npt.NDArray[np.bool_], w: Floats) -> Paired:
    parts = (x[known], y[known], x[known] + y[known])
    return Paired(weighted(y, w), *(weighted(part, w[known]) for part in parts))


@pytest.mark.parametrize("moved", [False, True])
def test_against_weighted_least_squares(moved: bool) -> None:
    """The adjusted difference is the coefficient of the variant in the regression of y on variant and past."""
    rng = np.random.default_rng(4)
    n = 800
    level, t, known = rng.gamma(2, 3, n), rng.random(n) < 0.2, rng.random(n) < 0.7
    x, y = level + rng.normal(0, 1, n), level + 0.3 * t + rng.normal(0, 1, n)
    w = rng.uniform(0.1, 1, n) if moved else np.ones(n)
    mu = np.average(x[known], weights=w[known])
    z = np.where(known, x - mu, 0.0)
    design, root = np.column_stack([np.ones(n), t, z]), np.sqrt(w)
    (_, effect, theta), *_ = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)
    first, second = adjusted(*(paired(y[s], x[s], known[s], w[s]) for s in (~t, t)))
    assert second.total / second.weight - first.total / first.weight == pytest.approx(effect, rel=1e-9)
    rest = y - theta * z
    for sums, side in ((first, ~t), (second, t)):
        expected = weighted(rest[side], w[side])
        assert (sums.total, sums.squares, sums.total2, sums.squares2) == pytest.approx(
            (expected.total, expected.squares, expected.total2, expected.squares2), rel=1e-9
        )


def test_without_a_past_nothing_is_adjusted() -> None:
    values = [WeightedSums.of(RewardSums(n, n / 2, n / 2), 1.0) for n in (100, 60)]
    none = WeightedSums()
    assert adjusted(*(Paired(v, none, none, none) for v in values)) == tuple(values)
    same = PairSums(RewardSums(60, 60, 60), RewardSums(60, 30, 30), RewardSums(60, 90, 150))
    found = adjusted(*(Paired.of(RewardSums(60, 30, 30), same) for _ in range(2)))
    assert found[0].squares == 30, "a past that is the same for all predicts nothing"


def test_the_verdict_says_so() -> None:
    first, second = next(unit_pasts.looks(unit_pasts.WORLDS[0], np.random.default_rng(1), 0.5))
    assert judge(covariates.RAIL, first, second, 0.05).adjusted_by == "past"
    plain = covariates.plain
    assert judge(covariates.RAIL, plain(first), plain(second), 0.05).adjusted_by is None
    bare, other = (replace(one, before={"m": PairSums()}) for one in (first, second))
    assert judge(covariates.RAIL, bare, other, 0.05).adjusted_by is None, "as in a first rollout"
    few = Evidence(9, rewards={"m": RewardSums(9, 5, 5)}, kinds={"m": "boolean"}, before={"m": PairSums()})
    verdict = judge(covariates.RAIL, few, few, 0.05)
    assert (verdict.interval, verdict.verdict) == (None, "inconclusive")


@pytest.mark.slow
@pytest.mark.parametrize("world", unit_pasts.WORLDS[:4:2], ids=lambda world: world.kind)
def test_it_keeps_the_level(world: unit_pasts.World) -> None:
    runs = 40
    assert unit_pasts.false_alarms(world, 0.05, 0.05, runs) <= binom.isf(1e-3, runs, 0.05)


@pytest.mark.slow
def test_it_needs_half_of_the_requests() -> None:
    world = unit_pasts.WORLDS[1]
    plain, with_past = (
        float(np.median(unit_pasts.requests(world, 0.2, world.loss, 0.02, 9, adjust=adjust)))
        for adjust in (False, True)
    )
    assert with_past <= 0.6 * plain


def test_of_requests_the_verdict_names_the_covariate() -> None:
    (first, second), *_ = covariates.looks(covariates.WORLDS[1], np.random.default_rng(1), 0.5, 2_000)
    plain = covariates.plain
    verdicts = (
        judge(covariates.RAIL, first, second, 0.05),
        judge(covariates.RAIL, plain(first), plain(second), 0.05),
    )
    assert [one.adjusted_by for one in verdicts] == ["covariate", None]
    widths = [one.interval[1] - one.interval[0] for one in verdicts if one.interval is not None]
    assert widths[0] == pytest.approx(widths[1] * (1 - 0.9**2) ** 0.5, rel=0.15)
    assert without_predicted(first.rewards["m"], first.before["m"]).squares < 0.6 * first.rewards["m"].squares


@pytest.mark.slow
@pytest.mark.parametrize("place", [2, 5, 6])
def test_a_covariate_keeps_the_level(place: int) -> None:
    """One that predicts, one that does not and has no mean, and one that is missing where values are large."""
    runs = 40
    found = covariates.false_alarms(covariates.WORLDS[place], 0.05, 0.05, runs)
    assert found <= binom.isf(1e-3, runs, 0.05)


@pytest.mark.slow
def test_a_covariate_that_predicts_needs_half_of_the_requests() -> None:
    plain, adjusted_ = (
        float(np.median(covariates.requests(covariates.WORLDS[1], 0.5, 600, 0.05 / 3, 9, adjust=adjust)))
        for adjust in (False, True)
    )
    assert adjusted_ <= 0.6 * plain


@pytest.mark.parametrize(
    ("x", "mean", "sd"),
    [(0.1, 1e9, 1e6), (1 / 3, 1e9, 0.0), (0.1, 0.0, 1e6), (1e50, 1e9, 1e6), (1e50, 0.0, 1.0)],
)
def test_a_covariate_that_does_not_vary_changes_nothing(x: float, mean: float, sd: float) -> None:
    """Its sums differ by rounding alone, of which a slope would make any difference."""
    rng = np.random.default_rng(1)
    sides = []
    for n in (1_000, 60):
        values = mean + sd * rng.standard_normal(n)
        sides.append(Paired.of(RewardSums.of(values), PairSums.of(np.full(n, x), values)))
    first, second = sides
    assert adjusted(first, second) == (first.values, second.values)
