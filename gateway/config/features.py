"""Features of requests: what a bandit decides by, segments by which variants are compared, and covariates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.config.faults import KeyPath
from gateway.config.model import ConfigModel, HeaderName
from gateway.config.service import PAST
from gateway.config.units import FiniteFloat
from gateway.http.fields import REQUEST_ACTIONS
from policies.contextual.features import LONGEST, MAX_COVARIATES, MAX_SEGMENTS


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


def _check_range(minimum: float, maximum: float) -> None:
    if not minimum < maximum:
        raise ValueError("'minimum' is not below 'maximum'; write a range")
    if not isfinite(2.0 * (maximum - minimum)):  # what a request's place in it is computed from
        raise ValueError("'minimum' and 'maximum' are too far apart; write a range of at most 8e307")


class FeatureConfig(RequestValueConfig):
    """A feature of the request for the contextual bandit."""

    values: Annotated[Categories, Field(min_length=2)] | None = None
    """The categories; if absent, the feature is a number."""
    minimum: FiniteFloat = 0.0
    maximum: FiniteFloat = 1.0
    """Upper bound: numbers are clipped to ``minimum`` and ``maximum`` and scaled to [-1, 1]."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_range(self.minimum, self.maximum)
        if self.values is not None and (self.minimum, self.maximum) != (0.0, 1.0):
            raise ValueError("categories have no range; leave 'minimum' and 'maximum' out, or 'values'")
        return self


class CovariateConfig(RequestValueConfig):
    """A number of the request that predicts its metrics; the header ``content-length`` is the size of the body."""

    minimum: FiniteFloat = 0.0
    """Smaller numbers count as this one."""
    maximum: FiniteFloat
    """Larger numbers count as this one; about the largest that is usual."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        _check_range(self.minimum, self.maximum)
        return self


def refusals(
    segments: Mapping[str, SegmentConfig],
    features: Mapping[str, FeatureConfig],
    covariates: Mapping[str, CovariateConfig],
    *,
    sticky: bool,
) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong with the segments and covariates of a route and the features of its policy."""
    if covariates and sticky:
        yield (
            ("covariates",),
            "requests of one unit are one observation; remove 'covariates', and write 'adjust: past' on the metric",
        )
    elif covariates and features:
        yield ("covariates",), "with the policy's 'features' nothing is adjusted; remove 'covariates'"
    if len(covariates) > MAX_COVARIATES:
        yield ("covariates",), f"these are {len(covariates)} covariates; write at most {MAX_COVARIATES}"
    for name in sorted(covariates.keys() & {*segments, PAST}):
        yield ("covariates", name), "this is the name of something else; write a different one"
    if segments and features:
        yield ("segments",), "the policy's 'features' make segments already; remove 'segments'"
    number = sum(one.segments for one in segments.values())
    if number > MAX_SEGMENTS:
        message = f"these are {number} segments, one for each value and one for all others of each feature"
        yield ("segments",), f"{message}; write at most {MAX_SEGMENTS}"
    places: tuple[tuple[KeyPath, Mapping[str, RequestValueConfig]], ...] = (
        (("segments",), segments),
        (("policy", "features"), features),
        (("covariates",), covariates),
    )
    for at, each in places:
        for name, one in each.items():
            header = "" if one.header is None else one.header.lower()
            if header.encode() in REQUEST_ACTIONS and (header, at) != ("content-length", ("covariates",)):
                message = f"'{one.header}' is a field that the gateway itself acts on; write another header"
                yield (*at, name, "header"), message
