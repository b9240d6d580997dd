"""The `policy` of a route: a union told apart by `type`, so that no two kinds can be mixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from gateway.config.part import HeaderName, Name, Part
from gateway.config.units import Amount, Count, Duration, Positive, Real, Share, milliseconds

Weight = Annotated[Amount, Field(gt=0)]
"""A finite number above 0."""


class Single(Part):
    """Every request goes to one variant."""

    type: Literal["single"] = "single"
    variant: Name


class Split(Part):
    """Fixed shares; a variant that isn't named gets none."""

    type: Literal["split"] = "split"
    weights: Annotated[Mapping[Name, Amount], Field(min_length=1)]
    """Any scale: {v1: 9, v2: 1} and {v1: 90%, v2: 10%} are the same."""


class Shadow(Part):
    """One variant answers; others get copies, and their answers are compared and thrown away."""

    type: Literal["shadow"] = "shadow"
    primary: Name
    shadows: Annotated[Mapping[Name, Share], Field(min_length=1)]


class Guardrail(Part):
    """How much worse than the baseline a variant may be in one metric. Exactly one bound."""

    metric: Name
    """A declared metric, or one the gateway observes: error_rate, latency_p50, latency_p99, ..."""
    max_increase: Amount | None = None
    """The most by which the metric may be above the baseline's (latencies: in milliseconds)."""
    max_decrease: Amount | None = None
    """The most by which it may be below the baseline's."""
    max_ratio: Weight | None = None
    """The most that metric / baseline's metric may be."""
    max_relative_increase: Amount | None = None
    """The most by which it may be above the baseline's, as a share of that."""
    max_relative_decrease: Annotated[Amount, Field(lt=1)] | None = None
    """The most by which it may be below the baseline's, as a share of that."""
    min_samples: Count = 0
    """Before the variant has so many, the verdict is `inconclusive`."""

    @model_validator(mode="before")
    @classmethod
    def _latency_as_time(cls, data: Any) -> Any:
        """The bounds of a latency are times; as numbers they are milliseconds."""
        if not isinstance(data, Mapping) or not str(data.get("metric")).startswith("latency_"):
            return data
        for key in ("max_increase", "max_decrease"):
            if str(data.get(key)).strip().endswith("%"):
                raise ValueError(
                    f"'{key}' of a latency is a time; write it as 20ms, or write 'max_ratio: 1.2'"
                )
            if key in data:
                data = {**data, key: milliseconds(data[key])}
        return data

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        bounds = (
            self.max_increase,
            self.max_decrease,
            self.max_ratio,
            self.max_relative_increase,
            self.max_relative_decrease,
        )
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(
                "write exactly one of 'max_increase', 'max_decrease', 'max_ratio', 'max_relative_increase' and "
                "'max_relative_decrease'"
            )
        return self


class Stage(Part):
    weight: Share
    """The candidate's share; 100% as a number is 1."""
    for_: Annotated[Duration, Field(alias="for")] = 0.0
    """The shortest time at this weight."""
    min_samples: Count = 0
    """Answers of the candidate at this stage before the next one may begin."""

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if not self.for_ and not self.min_samples:
            raise ValueError("this stage would be over at once; write 'for', 'min_samples' or both")
        return self


class Gate(Part):
    """Before the first stage the candidate only shadows, until it agrees with the baseline enough."""

    agreement: Share
    """The lower confidence bound of the agreement rate must reach this."""
    share: Annotated[Share, Field(gt=0)] = 1.0
    """The share of requests copied to the candidate meanwhile."""
    for_: Annotated[Duration, Field(alias="for")] = 0.0
    min_samples: Count = 100


class BetaPrior(Part):
    """For boolean and fraction metrics."""

    alpha: Weight = 1.0
    beta: Weight = 1.0


class NormalPrior(Part):
    """For real metrics: Normal-inverse-gamma with mean, its weight in observations, shape and scale."""

    mean: Real = 0.0
    weight: Weight = 1e-3
    shape: Weight = 1.0
    scale: Weight = 1.0


class GammaPrior(Part):
    """For count metrics: Gamma with shape and rate."""

    shape: Weight = 1.0
    rate: Weight = 1.0


def _prior_kind(value: Any) -> str:
    keys = set(value) if isinstance(value, Mapping) else set(getattr(value, "model_fields_set", ()))
    if isinstance(value, NormalPrior) or keys & {"mean", "weight", "scale"}:
        return "normal"
    return "gamma" if isinstance(value, GammaPrior) or keys & {"shape", "rate"} else "beta"


Prior = Annotated[
    Annotated[BetaPrior, Tag("beta")]
    | Annotated[NormalPrior, Tag("normal")]
    | Annotated[GammaPrior, Tag("gamma")],
    Discriminator(_prior_kind),
]


class Discount(Part):
    """Forgetting, for worlds that drift: a reward counts half after ``half_life``, by decision time."""

    half_life: Positive


class Stop(Part):
    """When the bandit has found its winner. All that is written must hold."""

    probability_best: Annotated[Share, Field(gt=0.5, lt=1)] = 0.95
    expected_loss: Amount | None = None
    """In units of the metric; null: not asked."""
    min_samples: Count = 100
    """Rewards of each variant."""
    alpha: Annotated[Share, Field(gt=0, lt=0.5)] | None = 0.05
    """The probability that a variant that is not best is ever named, over all looks; null: beliefs alone decide."""
    then: Literal["ask", "single"] = "ask"


class Debut(Part):
    """A variant that joins a running bandit gets ``share`` at most until it has ``samples`` rewards."""

    share: Annotated[Share, Field(gt=0)] = 0.1
    samples: Annotated[Count, Field(gt=0)] = 100


class Feature(Part):
    """What the contextual bandit sees of a request; from exactly one of ``header`` and ``json``."""

    header: HeaderName | None = None
    json_: Annotated[str | None, Field(alias="json", min_length=1)] = None
    """Keys of the JSON body joined by dots: ``parameters.tier``."""
    values: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The categories of a categorical feature; absent: the feature is a number."""
    minimum: Real = 0.0
    maximum: Real = 1.0
    """A number is clipped to these and scaled to [-1, 1]."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.header is None) == (self.json_ is None):
            raise ValueError("write exactly one of 'header' and 'json'")
        if not self.minimum < self.maximum:
            raise ValueError("'minimum' is not below 'maximum'; write a range")
        if self.values is not None and (self.minimum, self.maximum) != (0.0, 1.0):
            raise ValueError("categories have no range; leave 'minimum' and 'maximum' out, or 'values'")
        if self.values is not None and len(set(self.values)) < len(self.values):
            raise ValueError("'values' has one of them twice; write each once")
        return self


class Bandit(Part):
    """Shares follow the probability of being best, as the rewards tell it."""

    type: Literal["bandit"] = "bandit"
    algorithm: Literal["thompson", "top_two", "linear"] = "thompson"
    metric: Name | None = None
    utility: Annotated[Mapping[Name, Weight], Field(min_length=1)] | None = None
    """Weighted sum of several metrics; one to minimise is subtracted. Instead of ``metric``."""
    floor: Share = 0.01
    """The least share of each variant: f + (1 - K f) P(best)."""
    prior: Prior | None = None
    """Null: Beta(1, 1), or the weak default of the metric's type."""
    discount: Discount | None = None
    stop: Stop | None = None
    debut: Debut | None = None
    """Null: a newcomer's share follows its prior at once."""
    baseline: Name | None = None
    """What the guardrails compare with."""
    guardrails: tuple[Guardrail, ...] = ()
    features: Mapping[Name, Feature] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _learns_one_thing(self)
        if self.guardrails and self.baseline is None:
            raise ValueError("guardrails compare with a baseline; write 'baseline: VARIANT'")
        if (self.algorithm == "linear") != bool(self.features):
            raise ValueError("'features' and 'algorithm: linear' need each other; write both or neither")
        if self.algorithm == "linear":
            self._fits_features()
        if self.debut is not None and self.debut.share < self.floor:
            raise ValueError(
                "the debut's 'share' is below the floor, which every variant has; write more, or a lower floor"
            )
        return self

    def _fits_features(self) -> None:
        if self.utility is not None:
            raise ValueError(
                "'algorithm: linear' learns from one metric; write 'metric' instead of 'utility'"
            )
        if self.prior is not None:
            raise ValueError("'algorithm: linear' has a prior of its own; leave 'prior' out")
        if self.stop is not None:
            raise ValueError(
                "with features there is no one winner to stop at: who is best depends on the request; "
                "leave 'stop' out"
            )
        if self.debut is not None:
            raise ValueError(
                "with features a newcomer's share depends on the request, so 'debut' can't hold it; leave it out"
            )

    @property
    def columns(self) -> int:
        """Of the row that the features of a request become (`policies.features.columns`)."""
        return 1 + sum(2 if f.values is None else len(f.values) for f in self.features.values())

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it learns from."""
        return tuple(self.utility or ()) if self.metric is None else (self.metric,)


def _learns_one_thing(section: Bandit | Contest) -> None:
    if (section.metric is None) == (section.utility is None):
        raise ValueError("write exactly one of 'metric' and 'utility'")
    if section.prior is not None and section.utility is not None:
        raise ValueError("'prior' belongs to one metric, not to a 'utility'; leave it out")
    if section.stop is not None and section.discount is not None:
        raise ValueError("a bandit that forgets can't stop for good; leave 'stop' or 'discount' out")


class Contest(Part):
    """The bandit that goes on where a canary's stages end, over its baseline and its candidate."""

    metric: Name | None = None
    utility: Annotated[Mapping[Name, Weight], Field(min_length=1)] | None = None
    algorithm: Literal["thompson", "top_two"] = "thompson"
    floor: Share = 0.01
    prior: Prior | None = None
    discount: Discount | None = None
    stop: Stop | None = None
    """Whoever it names is promoted, or rolled back to; null: a person ends it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _learns_one_thing(self)
        return self

    def policy(self, **more: Any) -> Bandit:
        """The same as a bandit's section; ``more`` of its fields."""
        return Bandit.model_construct(
            **{name: getattr(self, name) for name in type(self).model_fields}, **more
        )


class Canary(Part):
    """The candidate's share grows by stages while the guardrails hold."""

    type: Literal["canary"] = "canary"
    baseline: Name
    candidate: Name
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    guardrails: tuple[Guardrail, ...] = ()
    gate: Gate | None = None
    on_success: Literal["promote", "wait", "bandit"] = "promote"
    bandit: Contest | None = None
    """After the last stage, with ``on_success: bandit``."""
    bake: Duration = 3600.0
    """After promotion the guardrails are still watched for this long, with a fast way back."""
    holdback: Annotated[Share, Field(lt=1)] = 0.05
    """The baseline's share until the bake is over, so that the guardrails have a concurrent comparison."""
    inconclusive: Positive | None = 86400.0
    """So long past its time may a stage stay undecided before the rollout pauses; null: for ever."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.on_success == "bandit") != (self.bandit is not None):
            raise ValueError(
                "'on_success: bandit' and the section 'bandit' need each other; write both or neither"
            )
        return self

    @property
    def contest(self) -> Bandit | None:
        """The bandit over baseline and candidate that follows the last stage, as a policy of its own."""
        if self.bandit is None:
            return None
        return self.bandit.policy(baseline=self.baseline, guardrails=self.guardrails)


Policy = Annotated[Single | Split | Shadow | Canary | Bandit, Field(discriminator="type")]


def bandit_of(policy: Single | Split | Shadow | Canary | Bandit) -> Bandit | None:
    """The bandit that ``policy`` is, or will come to."""
    return policy.contest if isinstance(policy, Canary) else policy if isinstance(policy, Bandit) else None


def named_variants(
    policy: Single | Split | Shadow | Canary | Bandit,
) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Every variant that ``policy`` names, with the key path inside the policy where it does."""
    match policy:
        case Single():
            return ((("variant",), policy.variant),)
        case Split():
            return tuple((("weights", name), name) for name in policy.weights)
        case Shadow():
            shadows = tuple((("shadows", name), name) for name in policy.shadows)
            return ((("primary",), policy.primary), *shadows)
        case Canary():
            return ((("baseline",), policy.baseline), (("candidate",), policy.candidate))
        case Bandit():
            return ((("baseline",), policy.baseline),) if policy.baseline is not None else ()
