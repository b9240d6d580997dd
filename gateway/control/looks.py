"""The shapes of the answers that a person looks into: steps, disagreements, distributions, differences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.control.answers import FaultShape
from gateway.control.shapes import Count, Shape


class HistoryStep(Shape):
    id: Annotated[Count, Field(description="Of the event; of `config`, the revision.")]
    time: float
    kind: Literal["rollout", "steered", "winner", "guardrail", "alarm", "alarm_over", "note", "config"]
    data: Any


class Steps(Shape):
    route: str
    steps: Annotated[list[HistoryStep], Field(description="Newest first.")]


class Noted(Shape):
    id: Count
    time: float


class Side(Shape):
    where: str
    primary: Any
    shadow: Any


class Disagreement(Shape):
    decision: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    time: float
    shadow: str
    primary: str
    kind: str
    difference: Annotated[
        float | None, Field(description="The largest distance; null where none was measured.")
    ]
    latency_ms: float
    primary_ms: float
    sides: Annotated[list[Side], Field(description="The first differences.")]


class Disagreements(Shape):
    seen: Annotated[Count, Field(description="At most 2000.")]
    kinds: Annotated[list[tuple[str, Count]], Field(description="The most frequent first.")]
    disagreements: list[Disagreement]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last.")]


class Density(Shape):
    points: list[float]
    variants: Annotated[dict[str, list[float]], Field(description="The density at each point.")]


class Distributions(Shape):
    densities: Annotated[dict[str, Density], Field(description="By metric, of the posterior of the mean.")]
    quantiles: Annotated[
        dict[str, list[tuple[float, float | None]]],
        Field(description="By variant: quantile and milliseconds."),
    ]


class Compared(Shape):
    difference: Annotated[str, Field(description="A unified difference; empty where the texts are the same.")]


class Checked(Shape):
    """What would follow from a configuration; nothing of it is in force."""

    faults: Annotated[list[FaultShape], Field(description="Empty: it would be accepted.")]
    changes: Annotated[list[str], Field(description="Against the text in force, in words.")]
    difference: Annotated[str, Field(description="Against the text in force, as a unified difference.")]
