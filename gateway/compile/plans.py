"""What a route's policy section means to `policies`: a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from gateway.config.document import Document
from gateway.config.policy import (
    BanditConfig,
    BetaPriorConfig,
    CanaryConfig,
    GammaPriorConfig,
    GuardrailConfig,
    NormalPriorConfig,
    PriorConfig,
    ShadowConfig,
    SingleConfig,
)
from gateway.config.route import RouteConfig
from gateway.config.service import PAST, MetricConfig
from policies.allocate import Plan
from policies.allocation.bandit import Bandit, Debut, Objective, Stop
from policies.allocation.bucketing import UNMOVED, placed, placement_of, unit_hash
from policies.allocation.fixed_plans import Canary, Shadow, Single, Split
from policies.bayes import prior
from policies.contextual.bandit import Contextual
from policies.contextual.features import Categorical, Covariate, Feature, Numeric, SegmentFeature
from policies.rollout import state as rollout
from policies.rollout.verdicts import Guardrail


def plan(document: Document, name: str) -> Plan:
    """The plan of one route. Raises ValueError for what `policies` refuses."""
    route = document.routes[name]
    shadows = tuple(route.all_shadows.items())
    section = route.policy
    if isinstance(section, SingleConfig):
        return Single(section.variant, shadows)
    if isinstance(section, ShadowConfig):
        return Shadow(section.primary, shadows)
    if isinstance(section, CanaryConfig):
        return _canary(document, route, section, shadows)
    if isinstance(section, BanditConfig):
        return _bandit(document, route, section, shadows)
    return Split(tuple(section.weights.items()), shadows)


def reported(document: Document, name: str) -> dict[str, MetricConfig]:
    """The metrics that may be reported for the route, in the order of the document."""
    allowed = document.routes[name].feedback
    return {metric: m for metric, m in document.metrics.items() if allowed is None or metric in allowed}


def adjustments(document: Document, name: str) -> dict[str, str]:
    """The metrics of a route that are adjusted: by the id of a covariate in hexadecimal, or by the units' past ("")."""
    route, metrics = document.routes[name], reported(document, name)
    if route.unit is not None:
        return {m: "" for m, one in metrics.items() if one.adjust == PAST}
    ids = {covariate.name: covariate.id.hex() for covariate in covariate_features(route)}
    found = {m: ids.get(one.covariate or "") for m, one in metrics.items()}
    return {m: one for m, one in found.items() if one is not None}


def salt(document: Document, name: str) -> bytes:
    """What the assignment of a route's units depends on. Each rollout has its own, so that it is not the same users
    who get every new candidate first."""
    policy = document.routes[name].policy
    if isinstance(policy, CanaryConfig):
        return _rollout_salt(name, policy.baseline, policy.candidate)
    return name.encode()


def _rollout_salt(route: str, baseline: str, candidate: str) -> bytes:
    return f"{route}\0{baseline}\0{candidate}".encode()


def placement(document: Document, name: str) -> tuple[int, int]:
    """How hashes of units are placed (`policies.allocation.bucketing.placed`): their hashes, which the record keeps,
    are the same in every rollout."""
    policy = document.routes[name].policy
    return (
        rollout_placement(name, policy.baseline, policy.candidate)
        if isinstance(policy, CanaryConfig)
        else UNMOVED
    )


def rollout_placement(route: str, baseline: str, candidate: str) -> tuple[int, int]:
    """The `placement` in a rollout."""
    return placement_of(_rollout_salt(route, baseline, candidate))


def unit_point(document: Document, name: str, unit: bytes) -> float:
    """Where in [0, 1) a unit of a route is placed."""
    return placed(unit_hash(name.encode(), unit), placement(document, name))


def experiment(document: Document, name: str) -> str:
    """What tells values under one placement of units from those under another; "" if all get the same variant."""
    route = document.routes.get(name)
    if route is None or isinstance(route.policy, SingleConfig | ShadowConfig):
        return ""
    return blake2b(salt(document, name), digest_size=4).hexdigest()


def period(route: RouteConfig | None, epoch: int, decided: float, competing: float | None = None) -> str:
    """Within what all values of a sticky unit are one observation (`gateway.state.units`).

    Guardrails of a canary compare within an epoch, so a unit counts once in each. A bandit's epochs follow one
    another each second, and its beliefs are of all time; where it forgets, of about a half-life. ``competing``:
    since when a canary's bandit decides.
    """
    section = route.policy if route is not None else None
    if isinstance(section, CanaryConfig) and competing is not None and decided >= competing:
        section = section.contest or section
    if not isinstance(section, BanditConfig):
        return f"e{epoch}"
    if section.discount is None:
        return "all"
    return f"h{decided // section.discount.half_life:.0f}"


@dataclass(frozen=True, slots=True)
class RolloutOverride:
    """What a rollout has made of a canary's plan: the candidate's share, and the gate's shadow; or that a bandit
    decides."""

    weight: float
    shadows: tuple[tuple[str, float], ...] = ()
    competing: float | None = None
    """Since when the rollout is with its bandit (`policies.rollout.state.State.competing`)."""
    deciding: bool = False
    """Whether that decides now, in place of ``weight``."""
    promoted: bool = False
    """The bandit is over; what is left of the baseline's share is the holdback."""
    place: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Where the rollout stands, for the evidence of an allocation: phase, stage, state, baseline and candidate."""


def overridden(found: Plan, override: RolloutOverride | None) -> Plan:
    """``found`` where its rollout stands."""
    if override is None or not isinstance(found, Canary):
        return found
    if override.deciding and found.then is not None:
        return replace(found.then, shadows=found.shadows)
    return replace(found, weight=override.weight, shadows=(*found.shadows, *override.shadows))


def segment_features(route: RouteConfig) -> tuple[SegmentFeature, ...]:
    """The features by whose values the route is compared, in the order of the document."""
    return tuple(SegmentFeature(name, one.values) for name, one in route.segments.items())


def covariate_features(route: RouteConfig) -> tuple[Covariate, ...]:
    """The covariates of the route's requests, in the order of the document."""
    return tuple(Covariate(name, one.minimum, one.maximum) for name, one in route.covariates.items())


def features_of(section: BanditConfig) -> tuple[Feature, ...]:
    """The declared features, in the order of the document. Raises ValueError for a range that is none."""
    return tuple(
        Numeric(name, f.minimum, f.maximum) if f.values is None else Categorical(name, f.values)
        for name, f in section.features.items()
    )


def _canary(
    document: Document, route: RouteConfig, section: CanaryConfig, shadows: tuple[tuple[str, float], ...]
) -> Canary:
    then, contest = None, section.contest
    if contest is not None:
        found = _bandit(document, route, contest, ())
        assert isinstance(found, Bandit)
        # Its rule names a winner; what follows from that is the rollout's to say.
        stop = found.stop and replace(found.stop, then="ask")
        # In the order in which the canary lays out its ranges: from one to the other no more units move than must.
        then = replace(found, variants=(section.candidate, section.baseline), stop=stop)
    return Canary(section.baseline, section.candidate, section.stages[0].weight, shadows, then)


def _contextual(
    document: Document, route: RouteConfig, section: BanditConfig, shadows: tuple[tuple[str, float], ...]
) -> Contextual:
    taken = {name for name, _ in shadows}
    assert section.metric is not None
    return Contextual(
        variants=tuple(name for name in route.variants if name not in taken),
        metric=section.metric,
        features=features_of(section),
        goal=document.metrics[section.metric].goal,
        floor=section.floor,
        half_life=section.discount.half_life if section.discount is not None else None,
        shadows=shadows,
    )


def _bandit(
    document: Document, route: RouteConfig, section: BanditConfig, shadows: tuple[tuple[str, float], ...]
) -> Bandit | Contextual:
    if section.algorithm == "linear":
        return _contextual(document, route, section, shadows)
    taken = {name for name, _ in shadows}
    weights = {section.metric: 1.0} if section.metric is not None else dict(section.utility or {})
    stop = section.stop
    return Bandit(
        variants=tuple(name for name in route.variants if name not in taken),
        objectives=tuple(
            Objective(
                metric,
                document.metrics[metric].type,
                document.metrics[metric].goal,
                _prior(section.prior),
                weight,
            )
            for metric, weight in weights.items()
        ),
        algorithm=section.algorithm,
        floor=section.floor,
        half_life=section.discount.half_life if section.discount is not None else None,
        stop=None
        if stop is None
        else Stop(
            stop.probability_best,
            float("inf") if stop.expected_loss is None else stop.expected_loss,
            stop.min_samples,
            stop.then,
            stop.alpha,
        ),
        debut=Debut(section.debut.share, section.debut.samples) if section.debut is not None else None,
        shadows=shadows,
    )


def _prior(section: PriorConfig | None) -> prior.Prior | None:
    if section is None:
        return None
    if isinstance(section, BetaPriorConfig):
        return prior.BetaPrior(section.alpha, section.beta)
    if isinstance(section, GammaPriorConfig):
        return prior.GammaPrior(section.shape, section.rate)
    assert isinstance(section, NormalPriorConfig)
    # σ² ~ InverseGamma(shape, scale) is what ``2 shape`` observations of the variance scale / shape are worth.
    return prior.NormalPrior(
        section.mean, (section.scale / section.shape) ** 0.5, section.weight, 2.0 * section.shape
    )


# Rollouts ---------------------------------------------------------------------------------------------
def canaries(document: Document) -> dict[str, CanaryConfig]:
    """The routes that have a rollout."""
    return {n: r.policy for n, r in document.routes.items() if isinstance(r.policy, CanaryConfig)}


def plan_of(section: CanaryConfig) -> rollout.Plan:
    """What a canary's section asks of its rollout."""
    return rollout.Plan(
        section.baseline,
        section.candidate,
        tuple(rollout.Stage(s.weight, s.for_, s.min_samples, s.confirm) for s in section.stages),
        promote=section.on_success == "promote",
        bandit=None if section.bandit is None else section.bandit.stop.then if section.bandit.stop else "ask",
        bake=section.bake,
        holdback=section.holdback,
        patience=section.inconclusive,
        gate=None
        if section.gate is None
        else rollout.Gate(
            section.gate.agreement, section.gate.share, section.gate.for_, section.gate.min_samples
        ),
    )


def in_force(route: RouteConfig, said: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Return what the guardrails of a bandit said last of each variant, without what was said before an edit of them.

    None: the policy is another, or has no guardrails; a canary's are with its rollout.
    """
    if not isinstance(route.policy, BanditConfig) or not route.policy.guardrails:
        return None
    keys = {rail_of(rail).key for rail in route.policy.guardrails}
    return [
        one
        for one in said
        if one["variant"] in route.variants and f"{one['metric']} {one['bound']} {one['limit']:g}" in keys
    ]


def rail_of(section: GuardrailConfig) -> Guardrail:
    rise, fall = section.max_relative_increase, section.max_relative_decrease
    return Guardrail(
        section.metric,
        section.max_increase,
        section.max_decrease,
        section.max_ratio if rise is None else 1.0 + rise,
        section.min_samples,
        None if fall is None else 1.0 - fall,
    )
