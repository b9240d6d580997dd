"""Thompson sampling as an allocation: each variant gets the probability that it is the best.

While the posterior is frozen, drawing from it and taking the best *is* a draw with these
probabilities, so computing them once (`policies.bayes.quadrature`) loses nothing and makes the propensity
that the record keeps exact. W. R. Thompson, "On the Likelihood that One Unknown Probability Exceeds
Another", 1933; D. Russo, "Simple Bayesian Algorithms for Best Arm Identification", 2016 (top-two).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf, isfinite
from typing import Any, Literal

from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation, Learned
from policies.allocation.shares import capped, floored, top_two
from policies.bayes.posterior import Posterior, Student, compare, interval
from policies.bayes.prior import Prior, posteriors
from policies.sequential.winner import Aim, Lead, shown_lead
from policies.types import Discounted, Goal, MetricType, RewardSums, Sums


@dataclass(frozen=True, slots=True)
class Objective:
    """One metric that the bandit is after; ``weight`` counts where there are several."""

    metric: str
    model: MetricType = "boolean"
    goal: Goal = "maximize"
    prior: Prior | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        posteriors(self.model, (_NO_SUMS,), self.prior)  # refuses a prior of another family
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"the weight of {self.metric!r} is {self.weight!r}; write a number not below zero"
            )


@dataclass(frozen=True, slots=True)
class Stop:
    """When the bandit has seen enough: the leader is best with ``probability`` at least, choosing it
    loses ``loss`` at most in expectation, each variant has ``samples`` rewards, and the leader is shown to be
    better than every other (`policies.sequential.winner`): one that is not is named with probability ``alpha``
    at most, over all looks together. None: beliefs alone decide, which among equal variants name one in most
    runs.

    ``then`` "single" gives the leader everything for as long as that is so (for good, once the gateway has taken
    it down as `Learned.winner`); "ask" only says it.
    """

    probability: float = 0.99
    loss: float = inf
    samples: int = 100
    then: Literal["single", "ask"] = "ask"
    alpha: float | None = 0.05


@dataclass(frozen=True, slots=True)
class Debut:
    """A new variant gets ``share`` at most until it has ``samples`` rewards, if another has them already.

    Without it a newcomer's wide prior may take most of the traffic from variants that do badly.
    """

    share: float = 0.1
    samples: int = 100


@dataclass(frozen=True, slots=True)
class Bandit:
    """The plan.

    ``floor``: the least share of every variant; ``half_life``: seconds after which a decision counts
    half (None: all count the same); ``second``: how often top-two plays the runner-up instead.
    """

    variants: tuple[str, ...]
    objectives: tuple[Objective, ...]
    algorithm: Literal["thompson", "top_two"] = "thompson"
    floor: float = 0.0
    half_life: float | None = None
    stop: Stop | None = None
    debut: Debut | None = None
    second: float = 0.5
    shadows: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.variants or not self.objectives:
            raise ValueError("a bandit needs at least one variant and one metric")
        most = 1.0 / len(self.variants)
        if not 0 <= self.floor <= most + 1e-12:
            raise ValueError(
                f"a floor of {self.floor:g} for each of {len(self.variants)} variants is more than "
                f"everything; write one between 0 and {most:g}"
            )
        if self.half_life is not None and not self.half_life > 0:
            raise ValueError(f"the half-life is {self.half_life!r}; write a time above zero")
        if self.stop is not None and self.half_life is not None:
            raise ValueError("a bandit that forgets can't stop for good: remove 'stop' or the half-life")
        if not 0 < self.second < 1:
            raise ValueError(
                f"top-two plays the runner-up with {self.second!r}; write a share between 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class Standing:
    """What a bandit knows of its variants, in the plan's order."""

    variants: tuple[str, ...]
    posteriors: tuple[Posterior, ...]
    """Of the metric's mean; of the weighted utility where there are several metrics."""
    probability_best: tuple[float, ...]
    expected_loss: tuple[float, ...]
    counts: tuple[float, ...]
    """Rewards behind each (of the metric that has fewest)."""
    stopped: str | None
    """The variant that the stop rule names, if it does."""
    lead: Lead | None = None
    """By how much it is better, where that is asked."""
    believed: str | None = None
    """The variant that beliefs alone would name, if it must be shown to be better (by `Learned.periods`)."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: the posterior of each variant with its number of rewards, and the winner of the stop rule."""
        each = zip(self.posteriors, self.probability_best, self.expected_loss, self.counts, strict=True)
        rows = [
            {"mean": posterior.mean, "probability_best": best, "expected_loss": loss, "rewards": count}
            for posterior, best, loss, count in each
        ]
        return {
            "variants": dict(zip(self.variants, rows, strict=True)),
            "stopped": self.stopped,
            "lead": None if self.lead is None else self.lead.as_dict(),
        }

    def interval(self, k: int, level: float = 0.95) -> tuple[float, float]:
        return interval(self.posteriors[k], level)


def allocate(plan: Bandit, learned: Learned) -> Allocation:
    """The allocation that the rewards so far call for; see `refresh`."""
    if (
        learned.sums
        or learned.discounted
        or learned.winner
        or (plan.stop is not None and not plan.stop.samples)
    ):
        return refresh(plan, learned)[0]
    # Before the first reward all variants have the same belief: nothing need be integrated.
    return _laid_out(plan, learned, [1.0 / len(plan.variants)] * len(plan.variants), _caps(plan, learned))


def refresh(plan: Bandit, learned: Learned, known: Standing | None = None) -> tuple[Allocation, Standing]:
    """The allocation, and the standing that it follows from; ``known``: what `assess` makes of ``learned``.

    Shares are floor + (1 - K floor) P: never clipped and rescaled, so the floor holds and P keeps its
    proportions. A guardrail's cap then binds; what it takes goes to the others in proportion. A winner
    that the bandit was handed over to has everything, unless a guardrail ejected it. Raises ValueError when the caps
    leave less than everything.
    """
    standing = _shown(plan, learned, known or assess(plan, learned))
    winner = learned.winner
    if winner in plan.variants and learned.caps.get(winner, 1.0) > 0.0:
        alone = [float(name == winner) for name in plan.variants]
        return _laid_out(plan, learned, alone, [1.0] * len(alone)), standing
    return _laid_out(plan, learned, _shares(plan, standing), _caps(plan, learned, standing.counts)), standing


def _laid_out(plan: Bandit, learned: Learned, shares: Sequence[float], caps: Sequence[float]) -> Allocation:
    made = dict(zip(plan.variants, capped(shares, caps), strict=True))
    return allocation(made, previous=learned.previous, shadows=plan.shadows)


def assess(plan: Bandit, learned: Learned) -> Standing:
    """Posteriors, P(best), expected loss, and the variant that the stop rule names as far as beliefs decide."""
    made, goal = _posteriors(plan, learned)
    best, loss = compare(made, goal)
    counts = tuple(min(_sums(plan, learned, v, o).count for o in plan.objectives) for v in plan.variants)
    leader = int(best.argmax())
    rule = plan.stop
    over = (
        rule is not None
        and best[leader] >= rule.probability
        and loss[leader] <= rule.loss
        and min(counts) >= rule.samples
        and len(plan.variants) > 1
    )
    named = plan.variants[leader] if over else None
    shows = rule is not None and rule.alpha is not None
    return Standing(
        plan.variants,
        made,
        tuple(best.tolist()),
        tuple(loss.tolist()),
        counts,
        stopped=None if shows else named,
        believed=named if shows else None,
    )


def _shown(plan: Bandit, learned: Learned, standing: Standing) -> Standing:
    """The standing with its winner named, if that is shown to be better than every other variant."""
    name, rule = standing.believed, plan.stop
    if name is None or rule is None or rule.alpha is None:
        return standing
    aims = [Aim(o.metric, o.model, o.goal, o.weight) for o in plan.objectives]
    others = [v for v in plan.variants if v != name]
    lead = shown_lead(name, others, aims, learned.sums, rule.alpha, learned.periods)
    return standing if lead is None else replace(standing, stopped=name, lead=lead)


def _shares(plan: Bandit, standing: Standing) -> list[float]:
    if standing.stopped is not None and plan.stop is not None and plan.stop.then == "single":
        return [float(name == standing.stopped) for name in plan.variants]
    best = list(standing.probability_best)
    if plan.algorithm == "top_two":
        best = top_two(best, plan.second)
    return floored(best, plan.floor)


def _caps(plan: Bandit, learned: Learned, counts: Sequence[float] = ()) -> list[float]:
    """What guardrails, and a newcomer's lack of rewards, leave each variant at most; no ``counts``: all are new."""
    caps = [learned.caps.get(name, 1.0) for name in plan.variants]
    debut = plan.debut
    if debut is None or max(counts, default=0.0) < debut.samples:
        return caps
    # The floor is promised to every variant, new ones too.
    held = max(debut.share, plan.floor)
    both = [min(cap, held) if n < debut.samples else cap for cap, n in zip(caps, counts, strict=True)]
    # Where a guardrail ejected who is known, the newcomer must do.
    return both if fsum(both) >= 1.0 else caps


def joined(plan: Bandit, before: Mapping[str, float]) -> Allocation:
    """Until the rewards are looked at, the allocation after the variants with the shares ``before`` became the
    plan's: who stays keeps its proportion, and each newcomer gets the debut's share, or an even one."""
    even = 1.0 / len(plan.variants)
    each = even if plan.debut is None else min(even, max(plan.debut.share, plan.floor))
    staying = fsum(before.get(name, 0.0) for name in plan.variants)
    if staying <= 0.0:
        return allocate(plan, Learned())
    rest = 1.0 - each * sum(name not in before for name in plan.variants)
    shares = {name: rest * before[name] / staying if name in before else each for name in plan.variants}
    return allocation(shares, shadows=plan.shadows)


def _sums(plan: Bandit, learned: Learned, variant: str, objective: Objective) -> Sums:
    key = (variant, objective.metric)
    if plan.half_life is not None:
        return learned.discounted.get(key, _NO_DISCOUNTED)
    return learned.sums.get(key, _NO_SUMS)


def _posteriors(plan: Bandit, learned: Learned) -> tuple[tuple[Posterior, ...], Goal]:
    each = [
        posteriors(o.model, [_sums(plan, learned, v, o) for v in plan.variants], o.prior)
        for o in plan.objectives
    ]
    if len(each) == 1:
        return each[0], plan.objectives[0].goal
    return tuple(utility(column, plan.objectives) for column in zip(*each, strict=True)), "maximize"


def utility(column: Sequence[Posterior], objectives: Sequence[Objective]) -> Student:
    """The posterior of Σ weight x mean over several metrics, a metric to be minimised counting negative.

    A normal with the exact mean. The store keeps no products of two metrics, so how they go together is
    unknown; the standard deviation is Σ |weight| sd, the largest that any correlation can give. The
    bandit then explores at least as long as it should.
    """
    signs = [1.0 if o.goal == "maximize" else -1.0 for o in objectives]
    mean = sum(s * o.weight * p.mean for s, o, p in zip(signs, objectives, column, strict=True))
    sd = sum(abs(o.weight) * p.sd for o, p in zip(objectives, column, strict=True))
    return Student(inf, mean, sd)


def discounted(
    buckets: Iterable[tuple[float, Mapping[tuple[str, str], RewardSums]]], *, now: float, half_life: float
) -> dict[tuple[str, str], Discounted]:
    """Sums by (variant, metric) in which what is ``half_life`` seconds old counts half.

    A bucket that begins at ``start`` has the weight 2^-((now - start) / half_life): by the time of the
    decision and not of the report, so that a late reward is as old as what it is about.
    ``buckets`` are (start in seconds, sums) as `Store.series` groups them.
    """
    sums: dict[tuple[str, str], Discounted] = {}
    for start, rewards in buckets:
        w = 0.5 ** (max(0.0, now - start) / half_life)
        for key, s in rewards.items():
            old = sums.get(key, _NO_DISCOUNTED)
            sums[key] = Discounted(
                old.count + w * s.count, old.total + w * s.total, old.squares + w * s.squares
            )
    return sums


_NO_SUMS = RewardSums()
_NO_DISCOUNTED = Discounted()
