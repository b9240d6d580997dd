"""Rollouts, stop rules and their verdicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from gateway.control.schemas.base import ApiBody, ApiModel, Ordinal, Probability

ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Text without control characters."""


RolloutState = Literal["running", "waiting", "paused", "halted", "promoted", "rolled_back"]
RolloutPhase = Annotated[
    Literal["shadow", "canary", "bandit"],
    Field(description="The shadow gate, the stages, or the bandit that follows them."),
]


class RolloutRequest(ApiBody):
    action: Literal["promote", "rollback", "pause", "resume", "confirm", "set", "restart"]
    weight: Annotated[
        float | None, Field(ge=0, le=1, description="The candidate's share; only for 'set'.")
    ] = None
    reason: Annotated[
        str, Field(max_length=200, pattern=ONE_LINE, description="Kept in the history: one line.")
    ] = ""
    if_epoch: Annotated[
        Ordinal | None, Field(description="Only while the route is at this epoch; otherwise 409.")
    ] = None
    if_state: Annotated[
        str | None, Field(description="Only while the rollout is in this state; otherwise 409.")
    ] = None


class GuardrailVerdict(BaseModel):
    metric: str
    verdict: Literal["pass", "fail", "inconclusive", "error"]


class VariantVerdict(GuardrailVerdict):
    """What a guardrail of a bandit says of a variant against the baseline."""

    variant: str
    bound: Literal["max_increase", "max_decrease", "max_ratio", "min_ratio"]
    limit: float
    estimate: Annotated[float | None, Field(description="The difference, or the ratio.")]
    interval: Annotated[
        tuple[float | None, float | None] | None, Field(description="Of the estimate; always valid.")
    ]
    samples: Annotated[float, Field(description="Observations of the variant.")]
    reason: str


class RolloutStep(BaseModel):
    """A step that a rollout took."""

    time: float
    source: str = ""
    target: str = ""
    reason: str = ""
    actor: Annotated[str, Field(description="The person who steered; empty: the rollout itself.")] = ""
    evidence: Annotated[list[dict[str, Any]], Field(description="The verdicts at that time.")] = []


class RolloutTarget(ApiModel):
    """Where an action would lead."""

    state: RolloutState
    phase: RolloutPhase
    stage: int
    weight: Annotated[float | None, Field(description="The candidate's share; null: its bandit decides.")]


class RolloutResponse(BaseModel):
    state: RolloutState
    phase: RolloutPhase
    stage: int | None = None
    weight: float | None = None
    waits: Annotated[
        str | None,
        Field(description="Why the weight is not in effect on the whole fleet yet; the stage's time stands."),
    ] = None
    verdicts: list[GuardrailVerdict] = []
    possible: Annotated[list[str], Field(description="The actions that fit the state.")] = []
    leads_to: Annotated[
        dict[str, RolloutTarget], Field(description="By action but 'set', what it would lead to now.")
    ] = {}
    decided: Annotated[RolloutStep | None, Field(description="The last step.")] = None


class WinnerLead(ApiModel):
    """By how much a winner was better than the next best, in the unit of the metric (or the utility)."""

    over: str
    difference: Annotated[
        float, Field(description="As observed; biased upwards, since the winner was selected.")
    ]
    shrunk: Annotated[float, Field(description="Shrunk towards 0, which removes a part of that bias.")]
    interval: Annotated[list[float], Field(description="Always valid, at the level of the stop rule.")]


class StopRuleModel(ApiModel):
    """The state of a bandit's stop rule."""

    state: Annotated[
        Literal["learning", "asking", "handed_over"],
        Field(description="asking: the rule names a winner, and a person decides."),
    ]
    winner: str | None
    since: float | None
    by: Annotated[str, Field(description="A person, `rule` or `guardrail`.")]
    probability_best: Annotated[Probability | None, Field(description="Of the winner, now.")]
    lead: Annotated[
        WinnerLead | None, Field(description="Over the next best; while `asking`, re-estimated as data come.")
    ]
    command: Annotated[
        str | None, Field(description="The command that hands over to the winner, or reverts that.")
    ]


class VerdictQuery(ApiModel):
    of: Annotated[
        Literal["rollout", "stage"],
        Field(description="rollout: may the candidate take over; stage: does the current stage pass."),
    ] = "rollout"


class VerdictNeeds(ApiModel):
    requests: Annotated[int | None, Field(description="About how many more requests a decision needs.")]
    minutes: Annotated[float | None, Field(description="About how many more minutes, at the current rate.")]


class VerdictResponse(ApiModel):
    verdict: Literal["pass", "fail", "inconclusive", "error"]
    reasons: list[str]
    needs: VerdictNeeds
