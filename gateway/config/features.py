"""Features of requests: what a bandit decides by, and segments by which variants are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.config.faults import KeyPath
from gateway.config.model import ConfigModel, HeaderName
from gateway.config.units import FiniteFloat
from gateway.http.fields import REQUEST_ACTIONS
from policies.contextual.features import LONGEST, MAX_SEGMENTS


class RequestValueConfig(ConfigModel):
    """A value of the request; set exactly one of ``header`` and ``json``."""

    header: HeaderName | None = None
    json_: Annotated[str | None, Field(alias="json", min_length=1)] = None
    """Path in the JSON body, keys joined by dots: ``parameters.tier``."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.header is None) == (self.json_ is None):
            raise ValueError("write exactly one of 'header' and 'json'")
        return self


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("'values' lists a category twice; write each once")
    return values


Categories = Annotated[tuple[str, ...], AfterValidator(_each_once)]
Segments = Annotated[
    tuple[Annotated[str, StringConstraints(max_length=LONGEST)], ...], AfterValidator(_each_once)
]


class SegmentConfig(RequestValueConfig):
    """A feature of the request by whose values the variants are compared."""

    values: Annotated[Segments, Field(min_length=1)]
    """Each value is a segment; all others, and requests without the feature, are one more."""

    @property
    def segments(self) -> int:
        """Number of segments."""
        return len(self.values) + 1


class FeatureConfig(RequestValueConfig):
    """A feature of the request for the contextual bandit."""

    values: Annotated[Categories, Field(min_length=2)] | None = None
    """The categories; if absent, the feature is a number."""
    minimum: FiniteFloat = 0.0
    maximum: FiniteFloat = 1.0
    """Upper bound: numbers are clipped to ``minimum`` and ``maximum`` and scaled to [-1, 1]."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.minimum < self.maximum:
            raise ValueError("'minimum' is not below 'maximum'; write a range")
        if self.values is not None and (self.minimum, self.maximum) != (0.0, 1.0):
            raise ValueError("categories have no range; leave 'minimum' and 'maximum' out, or 'values'")
        return self


def refusals(
    segments: Mapping[str, SegmentConfig], features: Mapping[str, FeatureConfig]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong with the segments of a route and the features of its policy."""
    if segments and features:
        yield ("segments",), "the policy's 'features' make segments already; remove 'segments'"
    number = sum(one.segments for one in segments.values())
    if number > MAX_SEGMENTS:
        message = f"these are {number} segments, one for each value and one for all others of each feature"
        yield ("segments",), f"{message}; write at most {MAX_SEGMENTS}"
    for at, each in ((("segments",), segments), (("policy", "features"), features)):
        for name, one in each.items():
            if one.header is not None and one.header.lower().encode() in REQUEST_ACTIONS:
                message = f"'{one.header}' is a field that the gateway itself acts on; write another header"
                yield (*at, name, "header"), message
