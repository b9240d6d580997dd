"""The shapes of what callers send: bodies and query strings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictInt

from gateway.control.times import Moment

Number = Annotated[float, Field(allow_inf_nan=False)]
Tag = str | int | float | bool


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeedbackItem(Question):
    decision_id: Annotated[str, Field(description="The value of x-decision-id as it came.")]
    metric: str
    value: Annotated[bool | Number | None, Field(description="null retracts what was reported before.")]
    tags: dict[str, Tag] | None = None


class FeedbackByRequest(Question):
    """For clients that hide response headers; needs ``record: {request_ids: true}``."""

    route: str
    request_id: Annotated[str, Field(description="The x-request-id that the client sent or got.")]
    metric: str
    value: bool | Number | None
    tags: dict[str, Tag] | None = None


class FeedbackTokenRequest(Question):
    ttl: Annotated[int, Field(ge=1, le=86_400, description="Seconds for which the token is good.")] = 3600
    routes: Annotated[
        list[str] | None, Field(min_length=1, description="Only these routes; absent: those of the key.")
    ] = None


class FeedbackItems(Question):
    items: list[FeedbackItem | FeedbackByRequest]


class Feedback(RootModel[FeedbackItem | FeedbackByRequest | FeedbackItems]):
    pass


class RolloutStep(Question):
    action: Literal["promote", "rollback", "pause", "resume", "set"]
    weight: Annotated[
        float | None, Field(ge=0, le=1, description="The candidate's share; with 'set' only.")
    ] = None
    reason: Annotated[str, Field(max_length=200, description="Kept in the history.")] = ""
    if_epoch: Annotated[
        int | None, Field(ge=0, description="Only while the route is at this epoch; else 409.")
    ] = None
    if_state: Annotated[
        str | None, Field(description="Only while the rollout is in this state; else 409.")
    ] = None


class VerdictQuery(Question):
    of: Annotated[
        Literal["rollout", "stage"],
        Field(description="rollout: may the candidate take over; stage: does the present stage hold."),
    ] = "rollout"


class Restore(Question):
    revision: Annotated[StrictInt, Field(ge=0)]


class Login(Question):
    key: str
    steer: Annotated[bool, Field(description="Whether the session may change something, not only look.")] = (
        False
    )


class ConfigQuery(Question):
    revision: Annotated[int | None, Field(ge=0, description="An earlier revision's text.")] = None


class HistoryQuery(Question):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class RouteQuery(Question):
    since: Annotated[Moment | None, Field(description="Count only decisions made after it.")] = None
    epoch: Annotated[int | None, Field(ge=0, description="Count only decisions of this epoch.")] = None
    baseline: Annotated[
        str | None, Field(description="The variant that the others are compared with; default: the policy's.")
    ] = None


class SeriesQuery(Question):
    since: Annotated[Moment | None, Field(description="Default: an hour before `until`.")] = None
    until: Annotated[Moment | None, Field(description="Default: now.")] = None
    step: Annotated[
        float | None,
        Field(
            gt=0,
            description="Seconds of a bucket, rounded up to a multiple of 10; default: so that about 120 fit.",
        ),
    ] = None
    after: Annotated[
        Moment | None, Field(description="Only buckets from this one's start on: the tail of what is known.")
    ] = None
    allocations: Annotated[bool, Field(description="Whether to list each change of the allocation.")] = False


class OutcomeQuery(Question):
    route: str | None = None
    variant: Annotated[str | None, Field(description="The variant that was assigned, or that served.")] = None
    status: Annotated[int | None, Field(ge=100, le=599)] = None
    errors: Annotated[bool, Field(description="Only those where the assigned variant failed.")] = False
    since: Moment | None = None
    until: Moment | None = None
    cursor: Annotated[
        str | None, Field(pattern="^[0-9a-f]{32}$", description="`next` of the page before.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class StepsQuery(Question):
    limit: Annotated[int, Field(ge=1, le=400)] = 100


class Note(Question):
    text: Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]


class DisagreementQuery(Question):
    shadow: Annotated[str, Field(description="The variant whose copies are compared.")]
    order: Annotated[
        Literal["worst", "newest"],
        Field(description="`worst`: what has no distance first, then the largest distance."),
    ] = "worst"
    kind: Annotated[str | None, Field(description="Only those of this kind, as `kinds` names them.")] = None
    since: Annotated[Moment | None, Field(description="Default: a day ago.")] = None
    cursor: Annotated[
        str | None, Field(pattern="^[0-9a-f]{32}$", description="`next` of the page before.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class ConfigText(Question):
    text: Annotated[str, Field(description="The YAML text.")]


class DifferenceQuery(Question):
    from_: Annotated[int, Field(ge=0, alias="from", description="A revision.")]
    to: Annotated[int, Field(ge=0, description="Another one.")]


class EventQuery(Question):
    after: Annotated[
        int | None, Field(ge=0, description="Events with a higher id; Last-Event-ID goes before it.")
    ] = None
    route: str | None = None
    kind: str | None = None
    view: Annotated[
        str | None,
        Field(
            pattern="^(routes|route:.+)$",
            description="`routes` or `route:NAME`: also the list or the report, then what changes in it.",
        ),
    ] = None


class RecentQuery(Question):
    route: str | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
