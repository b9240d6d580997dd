"""Betting confidence sequences for bounded means, where the values themselves are at hand, in order.

Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B 86(1).
Tightest of all where it applies. From sums alone use `policies.contrast.Bounded`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policies.mixtures import Floats


def predictable_bets(x: npt.ArrayLike, alpha: float) -> Floats:
    """How much to stake on each value, from those before it alone (the predictable plug-in, their (26)).

    sqrt(2 log(2/alpha) / (variance so far * t log(1 + t))); ``x``: values in [0, 1], shape (T,); result (T,).
    """
    x = _values(x)
    t = np.arange(1, x.size + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    spread = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    return np.asarray(np.sqrt(2 * np.log(2 / alpha) / (before * t * np.log1p(t))), dtype=np.float64)


def log_capital(x: npt.ArrayLike, mean: npt.ArrayLike, alpha: float, cap: float = 0.5) -> Floats:
    """log of the hedged capital after each value, for each supposed ``mean`` (Theorem 3).

    Half of one unit is bet on values above the mean, half on values below; the larger half counts.
    ``x``: (T,), ``mean``: (M,) inside (0, 1); result (M, T). ``cap``: the most of a fortune that one bet
    may risk, in (0, 1].
    """
    x, m = _values(x), np.asarray(mean, dtype=np.float64)[:, np.newaxis]
    bets = predictable_bets(x, alpha)
    up = np.cumsum(np.log1p(np.minimum(bets, cap / m) * (x - m)), axis=1)
    down = np.cumsum(np.log1p(-np.minimum(bets, cap / (1 - m)) * (x - m)), axis=1)
    return np.asarray(np.maximum(up, down) + np.log(0.5), dtype=np.float64)


def betting_interval(x: npt.ArrayLike, alpha: float, points: int = 1_000) -> tuple[Floats, Floats]:
    """(low, high), each (T,): the confidence sequence for the mean after each value of ``x`` in [0, 1].

    All supposed means whose capital is below 1/alpha, on a grid of ``points``, widened by one step so
    that the grid never makes it too narrow, and intersected over time.
    """
    x = _values(x)
    grid = (np.arange(points) + 0.5) / points
    kept = np.logical_and.accumulate(log_capital(x, grid, alpha) < -np.log(alpha), axis=1)
    any_kept = kept.any(axis=0)
    first = np.where(any_kept, np.argmax(kept, axis=0), 0)
    last = np.where(any_kept, points - 1 - np.argmax(kept[::-1], axis=0), points - 1)
    low = np.where(first > 0, grid[np.maximum(first - 1, 0)], 0.0)
    high = np.where(last < points - 1, grid[np.minimum(last + 1, points - 1)], 1.0)
    return low, high


def _values(x: npt.ArrayLike) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("values must be a flat array within [0, 1]; scale them first")
    return values
