"""The values that a declared metric can have."""

from __future__ import annotations

from math import inf, isfinite
from typing import Final, Protocol

MAX_MAGNITUDE: Final = 1e100
"""Squares of larger values overflow the sums."""


class Metric(Protocol):
    """A declared metric; optional attributes ``minimum``, ``maximum`` and ``cap`` bound its values further."""

    @property
    def type(self) -> str:
        """boolean | fraction | real | count"""
        ...

    @property
    def goal(self) -> str:
        """maximize | minimize"""
        ...

    @property
    def window(self) -> float:
        """Seconds after the decision within which a value is accepted."""
        ...


class RejectedItem(Exception):
    """A reported item that is not accepted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def checked_value(given: object, metric: Metric, name: str) -> float:
    """The number for a reported value. Raises RejectedItem."""
    if isinstance(given, bool):
        if metric.type != "boolean":
            raise RejectedItem("invalid", f"{name!r} is a {metric.type}; send a number.")
        return float(given)
    if not isinstance(given, int | float):
        raise RejectedItem("invalid", f"{name!r} is a {metric.type}; send {_EXPECTED[metric.type]}.")
    number = float(given) if abs(given) <= MAX_MAGNITUDE else inf
    if not isfinite(number):
        raise RejectedItem(
            "invalid", f"The value of {name!r} is not finite or too large; send at most {MAX_MAGNITUDE:g}."
        )
    if (metric.type == "boolean" and number not in (0.0, 1.0)) or (
        metric.type == "count" and not number.is_integer()
    ):
        raise RejectedItem("invalid", f"{name!r} is a {metric.type}; send {_EXPECTED[metric.type]}.")
    low, high = bounds(metric)
    if not low <= number <= high:
        raise RejectedItem(
            "out_of_bounds", f"{number:g} is out of bounds; send a {name!r} from {low:g} to {high:g}."
        )
    cap = getattr(metric, "cap", None)
    return number if cap is None else min(number, cap)


_EXPECTED: Final = {
    "boolean": "true or false (or 1 or 0)",
    "fraction": "a number from 0 to 1",
    "count": "a whole number, not negative",
    "real": "a number",
}
_OF_TYPE: Final = {"boolean": (0.0, 1.0), "fraction": (0.0, 1.0), "count": (0.0, inf), "real": (-inf, inf)}


def bounds(metric: Metric) -> tuple[float, float]:
    """Smallest and largest value of a metric; infinite if it is not bounded."""
    low, high = _OF_TYPE[metric.type]
    minimum, maximum = getattr(metric, "minimum", None), getattr(metric, "maximum", None)
    return (low if minimum is None else max(low, minimum), high if maximum is None else min(high, maximum))


def worst(metric: Metric) -> float | None:
    """Worst value of a metric; None if it is not bounded on that side."""
    low, high = bounds(metric)
    cap = getattr(metric, "cap", None)
    end = low if metric.goal == "maximize" else high if cap is None else min(high, cap)
    return end if isfinite(end) else None
