"""The `policy` of a route: a union discriminated by `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from gateway.config.features import FeatureConfig
from gateway.config.model import ConfigModel, Name
from gateway.config.units import (
    Amount,
    AmountOrTime,
    Count,
    Duration,
    FiniteFloat,
    PositiveDuration,
    Share,
    milliseconds,
)

Weight = Annotated[Amount, Field(gt=0)]
"""A finite number above 0."""
UtilityWeight = Annotated[Amount, Field(ge=1e-50, le=1e50)]
"""Squared, times the square of the largest reward (1e100), it is still finite."""
PriorCount = Annotated[Amount, Field(ge=0.001, le=1e15)]
"""Of 20,986 random comparisons of posteriors with parameters from 0.001 to 1e9 none failed; from 1e-9 on, 77 of 10,816
did."""
PriorStrength = Annotated[Amount, Field(ge=1e-15, le=1e15)]
"""In observations."""


class SingleConfig(ConfigModel):
    """Every request goes to one variant."""

    type: Literal["single"] = "single"
    variant: Name


class SplitConfig(ConfigModel):
    """Fixed shares; a variant without a weight gets no requests."""

    type: Literal["split"] = "split"
    weights: Annotated[Mapping[Name, Amount], Field(min_length=1)]
    """Weights on any scale: {v1: 9, v2: 1} and {v1: 90%, v2: 10%} are equivalent."""


class ShadowConfig(ConfigModel):
    """One variant serves the response; the others get copies, whose responses are compared and discarded."""

    type: Literal["shadow"] = "shadow"
    primary: Name
    shadows: Annotated[Mapping[Name, Share], Field(min_length=1)]


class GuardrailConfig(ConfigModel):
    """Limit on how much worse than the baseline a variant may be in one metric; set exactly one bound."""

    metric: Name
    """A declared metric, or one that the gateway measures: error_rate, client_error_rate, latency_p99, ..."""
    max_increase: AmountOrTime | None = None
    """Maximum difference above the baseline (latencies: in milliseconds)."""
    max_decrease: AmountOrTime | None = None
    """Maximum difference below the baseline."""
    max_ratio: Weight | None = None
    """Maximum ratio to the baseline, for example 1.2."""
    max_relative_increase: Amount | None = None
    """Maximum increase relative to the baseline."""
    max_relative_decrease: Annotated[Amount, Field(lt=1)] | None = None
    """Maximum decrease relative to the baseline."""
    min_samples: Count = 0
    """Minimum number of samples; with fewer, the result is `inconclusive`."""

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


class StageConfig(ConfigModel):
    weight: Share
    """The candidate's share; as a number, 1 is 100%."""
    for_: Annotated[Duration, Field(alias="for")] = 0.0
    """Minimum time at this share."""
    min_samples: Count = 0
    """Minimum number of responses of the candidate in this stage before the next stage starts."""
    confirm: bool = False
    """Whether a person confirms before this stage starts; until then the rollout waits in the stage before it."""

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if not self.for_ and not self.min_samples:
            raise ValueError("this stage would end immediately; write 'for', 'min_samples' or both")
        return self


class GateConfig(ConfigModel):
    """Before the first stage, the candidate shadows the baseline until their responses agree often enough."""

    agreement: Share
    """Value that the lower confidence bound of the agreement rate must reach."""
    share: Annotated[Share, Field(gt=0)] = 1.0
    """Share of requests that is copied to the candidate until then."""
    for_: Annotated[Duration, Field(alias="for")] = 0.0
    min_samples: Count = 100


class BetaPriorConfig(ConfigModel):
    """For boolean and fraction metrics."""

    alpha: PriorCount = 1.0
    beta: PriorCount = 1.0


class NormalPriorConfig(ConfigModel):
    """For real metrics: a normal-inverse-gamma distribution (``weight`` of the mean in observations)."""

    mean: Annotated[FiniteFloat, Field(ge=-1e100, le=1e100)] = 0.0
    weight: PriorStrength = 1e-3
    shape: Annotated[Amount, Field(gt=0.5, le=1e15)] = 1.0
    scale: Annotated[Amount, Field(ge=1e-100, le=1e100)] = 1.0


class GammaPriorConfig(ConfigModel):
    """For count metrics: a gamma distribution."""

    shape: PriorCount = 1.0
    rate: PriorStrength = 1.0


def _prior_kind(value: Any) -> str:
    keys = set(value) if isinstance(value, Mapping) else set(getattr(value, "model_fields_set", ()))
    if isinstance(value, NormalPriorConfig) or keys & {"mean", "weight", "scale"}:
        return "normal"
    return "gamma" if isinstance(value, GammaPriorConfig) or keys & {"shape", "rate"} else "beta"


PriorConfig = Annotated[
    Annotated[BetaPriorConfig, Tag("beta")]
    | Annotated[NormalPriorConfig, Tag("normal")]
    | Annotated[GammaPriorConfig, Tag("gamma")],
    Discriminator(_prior_kind),
]


class DiscountConfig(ConfigModel):
    """Down-weighting of old rewards: a reward counts half at the age ``half_life``, from its decision."""

    half_life: PositiveDuration


class StopConfig(ConfigModel):
    """Conditions under which the bandit names a winner; all must hold."""

    probability_best: Annotated[Share, Field(gt=0.5, lt=1)] = 0.95
    expected_loss: Amount | None = None
    """Maximum expected loss from choosing the winner, in units of the metric; null: not checked."""
    min_samples: Count = 100
    """Minimum number of rewards of each variant."""
    alpha: Annotated[Share, Field(gt=0, lt=0.5)] | None = 0.05
    """Probability that a variant that is not best is ever named, over all looks; null: no such guarantee."""
    then: Literal["ask", "single"] = "ask"


class DebutConfig(ConfigModel):
    """A variant that joins a running bandit gets at most ``share`` until it has ``samples`` rewards."""

    share: Annotated[Share, Field(gt=0)] = 0.1
    samples: Annotated[Count, Field(gt=0)] = 100


class BanditConfig(ConfigModel):
    """Shares follow the probability that a variant is best, given the rewards."""

    type: Literal["bandit"] = "bandit"
    algorithm: Literal["thompson", "top_two", "linear"] = "thompson"
    metric: Name | None = None
    utility: Annotated[Mapping[Name, UtilityWeight], Field(min_length=1)] | None = None
    """Weighted sum of several metrics, instead of ``metric``; a metric to minimize is subtracted."""
    floor: Share = 0.01
    """Minimum share f of each variant; with K variants a share is f + (1 - K f) P(best)."""
    prior: PriorConfig | None = None
    """Prior distribution of the metric; if absent, Beta(1, 1), or the weak default of the metric's type."""
    discount: DiscountConfig | None = None
    stop: StopConfig | None = None
    debut: DebutConfig | None = None
    """Share of a variant that joins a running bandit; if absent, it follows the prior immediately."""
    baseline: Name | None = None
    """Variant that the guardrails compare with."""
    guardrails: tuple[GuardrailConfig, ...] = ()
    features: Mapping[Name, FeatureConfig] = Field(default_factory=dict)

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
                "with features there is no single winner: which variant is best depends on the request; "
                "leave 'stop' out"
            )
        if self.debut is not None:
            raise ValueError(
                "with features a newcomer's share depends on the request, so 'debut' can't hold it; leave it out"
            )

    @property
    def columns(self) -> int:
        """Number of columns of a feature row (`policies.contextual.features.columns`)."""
        return 1 + sum(2 if f.values is None else len(f.values) for f in self.features.values())

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that the bandit learns from."""
        return tuple(self.utility or ()) if self.metric is None else (self.metric,)


def _learns_one_thing(section: BanditConfig | ContestConfig) -> None:
    if (section.metric is None) == (section.utility is None):
        raise ValueError("write exactly one of 'metric' and 'utility'")
    if section.prior is not None and section.utility is not None:
        raise ValueError("'prior' belongs to one metric, not to a 'utility'; leave it out")
    if section.stop is not None and section.discount is not None:
        raise ValueError("a bandit that forgets can't stop for good; leave 'stop' or 'discount' out")


class ContestConfig(ConfigModel):
    """The bandit over baseline and candidate that follows the last stage of a canary."""

    metric: Name | None = None
    utility: Annotated[Mapping[Name, UtilityWeight], Field(min_length=1)] | None = None
    algorithm: Literal["thompson", "top_two"] = "thompson"
    floor: Share = 0.01
    prior: PriorConfig | None = None
    discount: DiscountConfig | None = None
    stop: StopConfig | None = None
    """When there is a winner, which is promoted or rolled back to; if absent, a person ends the bandit."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _learns_one_thing(self)
        return self

    def policy(self, **more: Any) -> BanditConfig:
        """The same section as a `Bandit`, with additional fields ``more``."""
        return BanditConfig.model_construct(
            **{name: getattr(self, name) for name in type(self).model_fields}, **more
        )


class CanaryConfig(ConfigModel):
    """The candidate's share grows in stages while the guardrails hold."""

    type: Literal["canary"] = "canary"
    baseline: Name
    candidate: Name
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    guardrails: tuple[GuardrailConfig, ...] = ()
    gate: GateConfig | None = None
    on_success: Literal["promote", "wait", "bandit"] = "promote"
    bandit: ContestConfig | None = None
    """The bandit that follows the last stage, with ``on_success: bandit``."""
    bake: Duration = 3600.0
    """How long the guardrails stay active after promotion, with a fast rollback."""
    holdback: Annotated[Share, Field(lt=1)] = 0.05
    """The baseline's share until the bake is over, for a concurrent comparison with the guardrails."""
    inconclusive: PositiveDuration | None = 86400.0
    """Pause the rollout if a stage is still inconclusive this long after its minimum time; null: never."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.on_success == "bandit") != (self.bandit is not None):
            raise ValueError(
                "'on_success: bandit' and the section 'bandit' need each other; write both or neither"
            )
        if self.stages[0].confirm and self.gate is None:
            raise ValueError(
                "nothing comes before the first stage, so it can't wait for a person; leave 'confirm' out, or add a "
                "'gate' that it follows"
            )
        return self

    @property
    def contest(self) -> BanditConfig | None:
        """The bandit that follows the last stage, as a `BanditConfig` over baseline and candidate."""
        if self.bandit is None:
            return None
        return self.bandit.policy(baseline=self.baseline, guardrails=self.guardrails)


PolicyConfig = Annotated[
    SingleConfig | SplitConfig | ShadowConfig | CanaryConfig | BanditConfig, Field(discriminator="type")
]


def bandit_of(policy: PolicyConfig) -> BanditConfig | None:
    """The bandit of ``policy``, including one that follows a canary's stages; None if there is none."""
    if isinstance(policy, CanaryConfig):
        return policy.contest
    return policy if isinstance(policy, BanditConfig) else None


def named_variants(policy: PolicyConfig) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Every variant that ``policy`` names, with its key path inside the policy."""
    match policy:
        case SingleConfig():
            return ((("variant",), policy.variant),)
        case SplitConfig():
            return tuple((("weights", name), name) for name in policy.weights)
        case ShadowConfig():
            shadows = tuple((("shadows", name), name) for name in policy.shadows)
            return ((("primary",), policy.primary), *shadows)
        case CanaryConfig():
            return ((("baseline",), policy.baseline), (("candidate",), policy.candidate))
        case BanditConfig():
            return ((("baseline",), policy.baseline),) if policy.baseline is not None else ()
