"""The values that a declared metric can have."""

from __future__ import annotations

from math import inf, isfinite
from typing import Final

from gateway.config.service import MetricConfig

MAX_MAGNITUDE: Final = 1e100
"""Squares of larger values overflow the sums."""


class RejectedItem(Exception):
    """A reported item that is not accepted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def checked_value(given: object, metric: MetricConfig, name: str) -> float:
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
    low, high = metric.lowest, metric.highest
    if not low <= number <= high:
        wanted = f"from {low:g} to {high:g}"
        if not isfinite(high):
            wanted = f"of {low:g} or more"
        elif not isfinite(low):
            wanted = f"of {high:g} or less"
        raise RejectedItem("out_of_bounds", f"{number:g} is out of bounds; send a {name!r} {wanted}.")
    return number if metric.cap is None else min(number, metric.cap)


_EXPECTED: Final = {
    "boolean": "true or false (or 1 or 0)",
    "fraction": "a number from 0 to 1",
    "count": "a whole number, not negative",
    "real": "a number",
}


def worst(metric: MetricConfig) -> float | None:
    """Worst value of a metric; None if it is not bounded on that side."""
    most = metric.highest if metric.cap is None else metric.cap
    end = metric.lowest if metric.goal == "maximize" else most
    return end if isfinite(end) else None
