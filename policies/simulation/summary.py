"""What many repetitions say: means and shares with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy import special


class Estimated(NamedTuple):
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Plain:
    """A report that can be written as JSON."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what is infinite or undefined is null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    """``value`` as JSON knows it: named tuples as objects, what is not finite as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: _plain(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def spread(periods: int) -> list[int]:
    """At most 50 periods to report, the last among them."""
    return sorted({round(x) for x in np.linspace(0, periods - 1, min(50, periods)).tolist()})


def mean(
    values: Sequence[float] | np.ndarray,
    level: float = 0.95,
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Estimated:
    """The mean of independent values with Student's interval; a single value has an endless one.

    ``within``: the range that the values, and so the mean, can't leave.
    """
    data = np.asarray(values, dtype=float)
    n = len(data)
    centre = float(data.mean())
    if n < 2:
        return Estimated(centre, *within)
    half = float(special.stdtrit(n - 1, 0.5 + level / 2)) * float(data.std(ddof=1)) / sqrt(n)
    return Estimated(centre, max(within[0], centre - half), min(within[1], centre + half))


def share(count: int, n: int, level: float = 0.95) -> Estimated:
    """count / n with the exact interval of Clopper & Pearson (1934); of nothing at all, [0, 1]."""
    if not n:
        return Estimated(float("nan"), 0.0, 1.0)
    tail = (1 - level) / 2
    low = float(special.betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return Estimated(count / n, low, high)


def median(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimated:
    """The median with the interval of order statistics, which holds for any distribution.

    (Conover, "Practical Nonparametric Statistics", section 3.2.) Values may be infinite ("never").
    """
    data = np.sort(np.asarray(values, dtype=float))
    n = len(data)
    if not n:
        return Estimated(float("nan"), -np.inf, np.inf)
    below = int(special.bdtrik((1 - level) / 2, n, 0.5)) if n > 5 else 0
    middle = data[(n - 1) // 2], data[n // 2]
    centre = float(middle[0] if middle[0] == middle[1] else (middle[0] + middle[1]) / 2)
    return Estimated(centre, float(data[below]), float(data[n - 1 - below]))
