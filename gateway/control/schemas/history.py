"""The history of a route: its steps, notes, disagreements and distributions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.control.schemas.base import ApiBody, ApiModel, Count, Cursor, DecisionHex
from gateway.control.schemas.figures import AdjustedBy, GatewayQuantiles, Lift, RewardEstimate, ServedReport
from gateway.control.timestamps import Timestamp


class StepsQuery(ApiModel):
    limit: Annotated[int, Field(ge=1, le=400)] = 100


class Step(ApiModel):
    """A step of a route: of its rollout, its winner or its guardrails, an alarm or a note."""

    id: Count
    time: float
    kind: Literal["rollout", "steered", "winner", "guardrail", "alarm", "alarm_over", "note"]
    data: Any


class HistoryStep(ApiModel):
    id: Annotated[Count, Field(description="The id of the event; for `config`, the revision.")]
    time: float
    kind: Literal["rollout", "steered", "winner", "guardrail", "alarm", "alarm_over", "note", "config"]
    data: Any


class StepsResponse(ApiModel):
    route: str
    steps: Annotated[list[HistoryStep], Field(description="Newest first.")]


class NoteRequest(ApiBody):
    text: Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]


class NoteResponse(ApiModel):
    id: Count
    time: float


class DisagreementQuery(ApiModel):
    shadow: Annotated[str, Field(description="The variant whose responses are compared.")]
    order: Annotated[
        Literal["worst", "newest"],
        Field(description="`worst`: those without a distance first, then the largest distance."),
    ] = "worst"
    kind: Annotated[str | None, Field(description="Only those of this kind, as in `kinds`.")] = None
    since: Annotated[Timestamp | None, Field(description="Default: a day ago.")] = None
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class DifferingPart(ApiModel):
    where: str
    primary: Any
    shadow: Any


class Disagreement(ApiModel):
    decision: DecisionHex
    time: float
    shadow: str
    primary: str
    kind: str
    difference: Annotated[float | None, Field(description="The largest distance; null if not measured.")]
    latency_ms: float
    primary_ms: float
    sides: Annotated[list[DifferingPart], Field(description="The first differences.")]


class DisagreementsResponse(ApiModel):
    seen: Annotated[Count, Field(description="At most 2000.")]
    whole: Annotated[
        bool, Field(description="Whether these are all since `since`; older ones are not listed.")
    ]
    kinds: Annotated[list[tuple[str, Count]], Field(description="The most frequent first.")]
    disagreements: list[Disagreement]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last.")]


class ShadowQuery(ApiModel):
    shadow: Annotated[str, Field(description="The variant whose responses are compared.")]
    since: Annotated[Timestamp | None, Field(description="Default: a day ago.")] = None


class ShadowReport(ApiModel):
    """A shadow's newest responses next to the primary's."""

    shadow: str
    seen: Annotated[Count, Field(description="Responses, at most 2000.")]
    since: Annotated[float | None, Field(description="The time of the oldest of them.")]
    failed: Annotated[
        list[tuple[str, Count]], Field(description="By error or status, the most frequent first.")
    ]
    latency_ms: GatewayQuantiles | None
    primary_ms: Annotated[GatewayQuantiles | None, Field(description="Of the same requests.")]
    latency: Annotated[
        dict[str, Lift | None], Field(description="By p50 and p99: the shadow's against the primary's.")
    ]


class Density(ApiModel):
    points: list[float]
    variants: Annotated[dict[str, list[float]], Field(description="The density at each point.")]


class BaselineQuery(ApiModel):
    baseline: Annotated[
        str | None,
        Field(description="The variant to compare the others with; default: the policy's baseline."),
    ] = None


class DistributionsResponse(ApiModel):
    baseline: str
    densities: Annotated[
        dict[str, Density], Field(description="By metric, the posterior density of the mean.")
    ]
    differences: Annotated[
        dict[str, Density], Field(description="By metric, that of the mean's difference from the baseline's.")
    ]
    quantiles: Annotated[
        dict[str, list[tuple[float, float | None]]],
        Field(description="By variant: quantile and milliseconds."),
    ]


class SegmentVariant(ApiModel):
    """A variant in one segment; by metric, as in the report of the route."""

    rewards: dict[str, RewardEstimate]
    lift: Annotated[
        dict[str, Lift],
        Field(description="The intervals of one metric hold together for all pairs and all segments."),
    ]
    latest: Annotated[ServedReport, Field(description="Of the newest requests; intervals hold for one look.")]


class ComparedSegment(ApiModel):
    feature: str
    value: Annotated[str | None, Field(description="Null: any other value, or none.")]
    variants: dict[str, SegmentVariant]


class LatestRequests(ApiModel):
    since: Annotated[float | None, Field(description="When the oldest was decided; null without any.")]
    requests: Count


class SegmentsResponse(ApiModel):
    route: str
    baseline: str
    as_of: Annotated[
        float, Field(description="When it was computed: what takes long is kept for ten times as long.")
    ]
    latest: Annotated[LatestRequests, Field(description="The newest requests of the route, at most 10,000.")]
    segments: Annotated[
        list[ComparedSegment], Field(description="In the order of the configuration; empty if it has none.")
    ]


class LiftQuery(BaselineQuery):
    metric: Annotated[
        str,
        Field(
            description="A declared metric, error_rate, client_error_rate, latency_p50 or latency_p99.",
            max_length=200,
        ),
    ]
    points: Annotated[int, Field(ge=1, le=200)] = 60


class LiftPoint(ApiModel):
    """A comparison of what had been recorded until a time."""

    time: float
    absolute: float | None
    interval: tuple[float | None, float | None] | None
    better: bool | None
    adjusted_by: AdjustedBy


class LiftOverTimeResponse(ApiModel):
    route: str
    metric: str
    baseline: str
    variants: Annotated[
        dict[str, list[LiftPoint]],
        Field(
            description="Oldest first; the last is the report's `lift`. Empty for errors, latencies and metrics with "
            "`missing: zero` of sticky units, and for what a bandit with features has no `lift` of."
        ),
    ]
