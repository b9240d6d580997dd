"""How much better a candidate is than the baseline, as a belief: the difference of two means, or their
ratio less one, with an optional prior that keeps small experiments modest.

Normal throughout (the sums of many rewards are); `policies.bayes.posterior` compares the exact posteriors where
a metric has a model. The effect and its variance are those of `policies.sequential.fixed.effect`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, pi, sqrt

from scipy import special

from policies.bayes.posterior import Student
from policies.sequential.fixed import Effect


@dataclass(frozen=True, slots=True)
class EffectPrior:
    """What effects were like before: normal with this mean and standard deviation, in the effect's unit."""

    mean: float = 0.0
    sd: float = inf


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of the effect after the data."""

    posterior: Student
    """Normal (df = inf)."""
    chance: float
    """P(effect > 0)."""
    risk_of_switching: float
    """E[(0 - effect)⁺]: what the candidate costs in expectation, counting where it is worse."""
    risk_of_staying: float
    """E[effect⁺]: what the baseline costs."""


def belief(effect: Effect, prior: EffectPrior = EffectPrior()) -> Belief:
    """Combines an estimated effect with a prior by their precisions (Gelman et al., section 2.5).

    Raises ValueError when the estimate has no variance (nothing is known of it, or nothing varies).
    """
    if not 0 < effect.variance < inf:
        raise ValueError(f"an effect needs a finite variance above zero, not {effect.variance!r}")
    weight, before = 1.0 / effect.variance, 1.0 / prior.sd**2
    mean = (weight * effect.estimate + before * prior.mean) / (weight + before)
    sd = sqrt(1.0 / (weight + before))
    z = mean / sd
    return Belief(Student(inf, mean, sd), float(special.ndtr(z)), sd * _short(z), sd * _short(-z))


def _short(z: float) -> float:
    """E[(T - z)⁺] of a standard normal T: φ(z) (1 - z M(z)), with Mills' ratio M by erfcx.

    φ(z) - z Φ(-z) would lose all digits for large z.
    """
    if z < 0:
        return _short(-z) - z
    mills = sqrt(pi / 2) * float(special.erfcx(z / sqrt(2)))
    return exp(-z * z / 2) / sqrt(2 * pi) * (1.0 - z * mills)
