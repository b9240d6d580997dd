"""Reading the declared features of a route from a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.dataplane.request.json_body import scalar_at
from gateway.record.context import pack, pack_values
from policies.contextual.features import Covariate, Feature, Scalar, SegmentFeature, encode, fingerprint

LENGTH: Final = b"content-length"
FeatureValues = tuple[str | float | None, ...]
"""What a request has for each feature, in the order of their declaration; None: missing or unreadable."""


class FeatureExtractor:
    """The declared features of a route, and where a request has them."""

    __slots__ = ("covariates", "features", "fingerprint", "in_body", "segments", "sources")

    def __init__(self, features: Sequence[tuple[Feature, bytes | None, tuple[str, ...]]]) -> None:
        """``features``: each with its header (lower-cased) or, if that is None, the keys to it in a JSON body."""
        self.sources = tuple(features)
        self.features = tuple(feature for feature, _, _ in features)
        self.segments = tuple([feature for feature in self.features if isinstance(feature, SegmentFeature)])
        """Of a route with segments, its features."""
        self.covariates = tuple([feature for feature in self.features if isinstance(feature, Covariate)])
        self.fingerprint = fingerprint(self.features)
        self.in_body = any(header is None for _, header, _ in features)

    def extract(
        self, headers: Mapping[bytes, bytes], fields: Mapping[str, Any], length: int
    ) -> FeatureValues:
        """The values of one request; a feature that can't be read is missing, so that no request makes this fail.

        Args:
            headers: Values by lower-cased name.
            fields: The JSON body's.
            length: Content-Length, which is not among ``headers``; -1 if there is none.
        """
        found: list[str | float | None] = []
        for feature, header, keys in self.sources:
            if header is None:
                found.append(feature.read(scalar_at(fields, keys)))
            elif header == LENGTH:
                found.append(feature.read(float(length)) if length >= 0 else None)
            else:
                found.append(feature.read(_text(headers.get(header))))
        return tuple(found)

    def read(self, given: Mapping[str, Scalar]) -> FeatureValues:
        """The values that are given by the names of the features."""
        return tuple([feature.read(given.get(feature.name)) for feature in self.features])

    def packed(self, raw: Mapping[str, Scalar]) -> bytes:
        """The row of features by name, or the segments that they are in and the covariates, as decision ids carry it.

        A feature that ``raw`` lacks was declared later, and the request is in none of its segments.
        """
        if self.segments or self.covariates:
            segments = [f.segments[f.read(raw[f.name])] for f in self.segments if f.name in raw]
            found = [(f.id, f.encode(raw.get(f.name))) for f in self.covariates]
            return pack_values(segments, [(name, x) for name, (x, missing) in found if not missing])
        return pack(self.fingerprint, encode(self.features, raw))

    def named(self, values: FeatureValues) -> dict[str, Scalar]:
        """``values`` by the names of the features."""
        return {feature.name: value for feature, value in zip(self.features, values, strict=True)}


def _text(value: bytes | None) -> str | None:
    """A field's value; UTF-8 if it is valid UTF-8, as HTTP allows since RFC 9110, else ISO 8859-1."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
