"""From sums of rewards and a prior to posteriors of the variants' means.

Where no prior is declared, a boolean or fraction starts at Beta(1, 1). Real and count metrics have a
unit that we can't guess, so their prior is worth one observation drawn from all variants together
(the unit information prior: Kass & Wasserman, "A Reference Bayesian Test for Nested Hypotheses", 1995).
It is the same for every variant, moves with the metric's unit, and is soon outweighed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Final, TypeVar

from policies.bayes.posterior import Beta, Gamma, Posterior, Student
from policies.types import Discounted, MetricType, RewardSums, Sums

MAX_SHAPE: Final = 1e24
"""Shape of a Gamma distribution whose standard deviation is 1e-12 of its mean; floats cannot hold a narrower one."""
COMMON_DISPERSION: Final = 30.0
"""Counts of a variant at which its own dispersion weighs as much as that of all variants together."""
MIN_TELLING: Final = 4.0
"""Effective number of counts that carry the sum, below which their burstiness is unknown."""
MIN_COUNTS_WITH_BURSTS: Final = 100.0
"""Counts of a variant from which on bursts as rare as one in twenty would have been seen."""


@dataclass(frozen=True, slots=True)
class BetaPrior:
    """Beta(alpha, beta): as if alpha successes and beta failures had been seen."""

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        _above_zero("a Beta prior", alpha=self.alpha, beta=self.beta)

    @classmethod
    def of(cls, mean: float, strength: float) -> BetaPrior:
        """The prior with this mean that is worth ``strength`` observations."""
        return cls(mean * strength, (1.0 - mean) * strength)


@dataclass(frozen=True, slots=True)
class NormalPrior:
    """Normal-Inverse-Gamma: 1/σ² ~ Gamma(df/2, df scale²/2) and mean | σ² ~ N(``mean``, σ²/strength).

    ``strength`` is in observations; ``scale`` is a guess at σ that is worth ``df`` observations.
    """

    mean: float
    scale: float
    strength: float = 1.0
    df: float = 3.0

    def __post_init__(self) -> None:
        _above_zero("a Normal-Inverse-Gamma prior", scale=self.scale, strength=self.strength)
        if not 1 < self.df < inf or not isfinite(self.mean):
            raise ValueError(
                "a Normal-Inverse-Gamma prior needs a finite mean, and df (twice its shape) above 1: below, "
                "the mean it implies does not exist"
            )


@dataclass(frozen=True, slots=True)
class GammaPrior:
    """Gamma(shape, rate): as if ``rate`` observations had counted ``shape`` in all."""

    shape: float
    rate: float

    def __post_init__(self) -> None:
        _above_zero("a Gamma prior", shape=self.shape, rate=self.rate)

    @classmethod
    def of(cls, mean: float, strength: float) -> GammaPrior:
        """The prior with this mean that is worth ``strength`` observations."""
        return cls(mean * strength, strength)


def _above_zero(what: str, **parameters: float) -> None:
    for name, value in parameters.items():
        if not 0 < value < inf:
            raise ValueError(f"{what} needs {name} above zero and finite, not {value!r}")


Prior = BetaPrior | NormalPrior | GammaPrior
P = TypeVar("P", BetaPrior, NormalPrior, GammaPrior)


def posteriors(model: MetricType, sums: Sequence[Sums], prior: Prior | None = None) -> tuple[Posterior, ...]:
    """One posterior for each of ``sums`` (K of them; empty sums give the prior).

    Raises ValueError when the prior is of another family than the model's, or the sums can't be those
    of such a metric.
    """
    if model in ("boolean", "fraction"):
        return tuple(_beta(s, _of(prior, BetaPrior, model) or BetaPrior()) for s in sums)
    if model == "count":
        declared = _of(prior, GammaPrior, model)
        one, common = _count_prior(sums), dispersion(sums)
        return tuple(_gamma(s, declared or one, common, one.rate) for s in sums)
    return tuple(_student(s, _of(prior, NormalPrior, model) or _real_prior(sums)) for s in sums)


def _of(prior: Prior | None, family: type[P], model: MetricType) -> P | None:
    if prior is None or isinstance(prior, family):
        return prior
    raise ValueError(f"a {model} metric takes a {family.__name__}, not a {type(prior).__name__}")


def _beta(sums: Sums, prior: BetaPrior) -> Beta:
    failures = sums.count - sums.total
    slack = 1e-9 * (1.0 + sums.count)
    # A correction may be discounted less than the value that it corrects, which is in an older, coarser bucket.
    if not isinstance(sums, Discounted) and (sums.total < -slack or failures < -slack):
        raise ValueError(
            f"{sums.count} values of a boolean or fraction metric can't sum to {sums.total}; "
            "declare the metric as count or real"
        )
    return Beta(prior.alpha + max(0.0, sums.total), prior.beta + max(0.0, failures))


def _gamma(sums: Sums, prior: GammaPrior, common: float, least: float) -> Gamma:
    """What was seen is divided by its dispersion (quasi-Poisson: McCullagh & Nelder, "Generalized Linear Models", 1989,
    section 6.2.3), or counts that come in bursts would look far more certain than they are.

    ``common``: the dispersion within all variants. A variant whose bursts have not come yet shows none of its own.
    ``least``: the rate that is worth one count. Few counts that may have come in one burst are worth no more: other
    variants without bursts do not show that this one has none.
    """
    if not isinstance(sums, Discounted) and sums.total < -1e-9 * (1.0 + sums.squares):
        raise ValueError(f"values of a count metric can't sum to {sums.total}; declare the metric as real")
    discount = (sums.count * dispersion([sums]) + COMMON_DISPERSION * common) / (
        sums.count + COMMON_DISPERSION
    )
    if sums.count < MIN_COUNTS_WITH_BURSTS and carried_by_few(sums):
        discount = max(discount, sums.count / least)
    shape, rate = prior.shape + max(0.0, sums.total) / discount, prior.rate + sums.count / discount
    excess = max(1.0, shape / MAX_SHAPE)
    return Gamma(shape / excess, rate / excess)


def _student(sums: Sums, prior: NormalPrior) -> Student:
    """The marginal posterior of the mean (Gelman et al., section 3.3, with κ₀ = strength, ν₀ = df)."""
    n, strength = sums.count, prior.strength + sums.count
    mean = sums.total / n if n else prior.mean
    df = prior.df + n
    spread = (
        prior.df * prior.scale**2 + centred(sums) + prior.strength * n / strength * (mean - prior.mean) ** 2
    )
    loc = (prior.strength * prior.mean + sums.total) / strength
    return Student(df, loc, max(sqrt(spread / df / strength), _least(loc)))


def _least(loc: float) -> float:
    """The smallest scale that still tells two floats near ``loc`` apart."""
    return max(1e-150, 1e-12 * abs(loc))


def centred(sums: Sums) -> float:
    """Σ (value - mean)²; never negative."""
    return max(0.0, sums.squares - sums.total * sums.total / sums.count) if sums.count else 0.0


def carried_by_few(sums: Sums) -> bool:
    """Whether so few counts carry the sum that their burstiness is unknown: (sum of y)^2 / sum of y^2 of them do."""
    return sums.total * sums.total <= MIN_TELLING * sums.squares


def dispersion(sums: Sequence[Sums]) -> float:
    """Variance within the variants over the mean of all counts, at least 1: how many times wider than Poisson they
    scatter."""
    freedom = sum(max(s.count - 1, 0.0) for s in sums)
    pooled = _pooled(sums)
    if freedom <= 0 or pooled.total <= 0:
        return 1.0
    return max(1.0, sum(map(centred, sums)) / freedom / (pooled.total / pooled.count))


def _pooled(sums: Sequence[Sums]) -> RewardSums:
    return RewardSums(sum(s.count for s in sums), sum(s.total for s in sums), sum(s.squares for s in sums))


def _real_prior(sums: Sequence[Sums]) -> NormalPrior:
    pooled = _pooled(sums)
    if not pooled.count:
        return NormalPrior(0.0, 1.0)
    mean = pooled.total / pooled.count
    spread = sqrt(centred(pooled) / pooled.count)
    # df = 3 has the variance 3 scale², so this scale gives the mean the spread of one observation.
    return NormalPrior(mean, max(spread, _least(mean)) / sqrt(3.0))


def _count_prior(sums: Sequence[Sums]) -> GammaPrior:
    pooled = _pooled(sums)
    # One more of both: without a value yet the prior is still proper.
    return GammaPrior(1.0, (pooled.count + 1.0) / (max(0.0, pooled.total) + 1.0))
