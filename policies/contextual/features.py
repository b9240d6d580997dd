"""What a contextual bandit sees of a request: declared features, as a row of numbers.

The row begins with a constant 1. A number is clipped to its declared range and scaled to [-1, 1]; the next
column is 1 when the number is missing or unreadable (its own column is then 0, the middle).
A category has a column for each declared value; any other value is 0 in all of them.

All entries are multiples of 1 / `GRID`: a row packs into few bytes without loss, sums of products of rows
are exact in floats, and so is a product of a row with coefficients on a grid (`policies.contextual.bandit`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite

Scalar = str | float | bool | None
Raw = Mapping[str, Scalar]
"""A request's features as they were found in headers or JSON fields, by name."""

GRID = 4096
"""Steps of a row's entries from 0 to 1."""
MAX_COLUMNS = 32
"""What a row may have at most: the sums behind a posterior hold d (d + 3) / 2 numbers and more."""
MAX_COEFFICIENTS = 256
"""Columns times variants at most: what a request multiplies with and what is published grow with it."""
MAX_SEGMENTS = 24
"""Of a route: the sums of each metric are kept for each of them."""
SEGMENT_BYTES = 6
"""Length of a segment's id."""
MAX_COVARIATES = 4
"""Of a route: three sums of each metric are kept for each of them."""
COVARIATE_BYTES = 4
"""Length of a covariate's id."""
LONGEST = 64
"""Characters of a category that are kept; a longer value is not a declared one and reads as missing."""


@dataclass(frozen=True, slots=True)
class Numeric:
    name: str
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        if not (self.minimum < self.maximum and isfinite(2.0 * (self.maximum - self.minimum))):
            raise ValueError(f"feature {self.name!r}: minimum must be below maximum, by a finite width")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.name, f"{self.name} missing"

    def read(self, value: Scalar) -> float | None:
        """The finite number that ``value`` is or says; None where there is none."""
        try:
            number = float("nan") if value is None else float(value)
        except (ValueError, OverflowError):
            return None
        return number if isfinite(number) else None

    def encode(self, value: Scalar) -> tuple[float, ...]:
        number = self.read(value)
        if number is None:
            return 0.0, 1.0
        clipped = min(max(number, self.minimum), self.maximum)
        scaled = 2.0 * (clipped - self.minimum) / (self.maximum - self.minimum) - 1.0
        return round(scaled * GRID) / GRID, 0.0


@dataclass(frozen=True, slots=True)
class Categorical:
    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"feature {self.name!r} needs at least one value, and each only once")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.name}={value}" for value in self.values)

    def read(self, value: Scalar) -> str | None:
        """``value`` as text, as JSON would write it (true, 3, 0.5); None where there is none or it is too long."""
        if value is None:
            return None
        text = value if isinstance(value, str) else _written(value)
        return text if len(text) <= LONGEST else None

    def encode(self, value: Scalar) -> tuple[float, ...]:
        text = self.read(value)
        return tuple(float(text == declared) for declared in self.values)


@dataclass(frozen=True, slots=True)
class SegmentFeature(Categorical):
    """A category by which a route is compared: any other value than a declared one is in one further segment."""

    def read(self, value: Scalar) -> str | None:
        text = Categorical.read(self, value)
        return text if text in self.values else None

    @property
    def segments(self) -> dict[str | None, bytes]:
        """The id of the segment of each value; None: any other. A further value leaves the ids of the others."""
        found: dict[str | None, bytes] = {v: _digest(["value", self.name, v]) for v in self.values}
        return {**found, None: _digest(["rest", self.name, *sorted(self.values)])}


@dataclass(frozen=True, slots=True)
class Covariate(Numeric):
    """A number by which the values of a request's metrics are adjusted (`policies.sequential.adjusted`)."""

    @property
    def id(self) -> bytes:
        """What sums and decision ids name it by."""
        return _digest(["covariate", self.name], COVARIATE_BYTES)


def _digest(of: list[str], size: int = SEGMENT_BYTES) -> bytes:
    return blake2b(json.dumps(of).encode(), digest_size=size).digest()


Feature = Numeric | Categorical


def _written(value: float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(_plain(value))


def columns(features: Sequence[Feature]) -> tuple[str, ...]:
    """The names of the d columns."""
    return "constant", *(name for feature in features for name in feature.columns)


def encode(features: Sequence[Feature], raw: Raw) -> tuple[float, ...]:
    """The row of one request, d multiples of 1 / `GRID` in [-1, 1]; a feature that ``raw`` lacks is missing."""
    row = [1.0]
    for feature in features:
        row.extend(feature.encode(raw.get(feature.name)))
    return tuple(row)


def recorded(features: Sequence[Feature], raw: Raw) -> str:
    """Canonical JSON of the declared features as they were read; null for what was missing or unreadable.

    `encode` makes of it the very row that it makes of ``raw``.
    """
    found = {feature.name: feature.read(raw.get(feature.name)) for feature in features}
    plain = {name: _plain(value) for name, value in found.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _plain(value: str | float | None) -> str | float | int | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


def fingerprint(features: Sequence[Feature]) -> bytes:
    """Eight bytes that change with whatever changes the meaning of a column: names, ranges, values, their order."""
    said = [
        [f.name, f.minimum, f.maximum] if isinstance(f, Numeric) else [f.name, list(f.values)]
        for f in features
    ]
    return blake2b(json.dumps(said).encode(), digest_size=8).digest()
