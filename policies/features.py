"""What a contextual bandit sees of a request: declared features, as a row of numbers.

The row begins with a constant 1. A number is clipped to its declared range and scaled to [-1, 1]; beside
it stands a column that is 1 when the number is missing or unreadable (its own column is then 0, the middle).
A category has a column for each declared value; any other value is 0 in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

Raw = Mapping[str, str | float | bool | None]
"""A request's features as they were found in headers or JSON fields, by name."""


@dataclass(frozen=True, slots=True)
class Numeric:
    name: str
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        if not (isfinite(self.minimum) and isfinite(self.maximum) and self.minimum < self.maximum):
            raise ValueError(f"feature {self.name!r}: minimum must be below maximum, and both finite")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.name, f"{self.name} missing"

    def encode(self, value: str | float | bool | None) -> tuple[float, ...]:
        try:
            number = float("nan") if value is None else float(value)
        except ValueError:
            number = float("nan")
        if number != number:
            return 0.0, 1.0
        clipped = min(max(number, self.minimum), self.maximum)
        return 2.0 * (clipped - self.minimum) / (self.maximum - self.minimum) - 1.0, 0.0


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

    def encode(self, value: str | float | bool | None) -> tuple[float, ...]:
        return tuple(float(value == declared) for declared in self.values)


Feature = Numeric | Categorical


def columns(features: Sequence[Feature]) -> tuple[str, ...]:
    """The names of the d columns."""
    return "constant", *(name for feature in features for name in feature.columns)


def encode(features: Sequence[Feature], raw: Raw) -> tuple[float, ...]:
    """The row of one request, d numbers in [-1, 1]; a feature that ``raw`` lacks is missing."""
    row = [1.0]
    for feature in features:
        row.extend(feature.encode(raw.get(feature.name)))
    return tuple(row)
