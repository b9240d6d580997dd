"""Histograms of milliseconds on a logarithmic scale, which merge by addition.

A histogram is a mapping from a bucket's number to a count. Bucket ``i`` covers ``[FLOOR_MS * GAMMA**(i - 1),
FLOOR_MS * GAMMA**i)``, and bucket 0 everything below `FLOOR_MS`; a quantile is therefore off by at most 1 %
(Masson, Rim & Lee 2019, "DDSketch", whose rank rule `quantile` uses).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from math import ceil, exp, log
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrik

GAMMA: Final = 1.02
"""Ratio of a bucket's ends."""
FLOOR_MS: Final = 0.001
CEILING_MS: Final = 86_400_000.0
"""A day; longer times count as a day."""

_LOG_GAMMA: Final = log(GAMMA)
_FACTOR: Final = 1.0 / _LOG_GAMMA
_OFFSET: Final = 1.0 - log(FLOOR_MS) * _FACTOR
TOP: Final = int(log(CEILING_MS) * _FACTOR + _OFFSET)
"""Number of the highest bucket, which fits in 16 bits."""


def index(ms: float) -> int:
    """Bucket of a time in milliseconds; 0 for negative times. Raises ValueError for NaN."""
    if ms < FLOOR_MS:
        return 0
    if ms >= CEILING_MS:
        return TOP
    return int(log(ms) * _FACTOR + _OFFSET)


def indices(ms: NDArray[np.float64]) -> NDArray[np.int64]:
    """`index` of each element; the result has the shape of ``ms``."""
    clamped = np.clip(ms, FLOOR_MS * 0.5, CEILING_MS)
    found = np.floor(np.log(clamped) * _FACTOR + _OFFSET).astype(np.int64)
    return np.clip(found, 0, TOP)


def edges(i: int) -> tuple[float, float]:
    """Lower (inclusive) and upper (exclusive) end of bucket ``i`` in milliseconds."""
    if i <= 0:
        return 0.0, FLOOR_MS
    return FLOOR_MS * exp((i - 1) * _LOG_GAMMA), FLOOR_MS * exp(i * _LOG_GAMMA)


def value(i: int) -> float:
    """Representative of bucket ``i`` in milliseconds: its relative distance to both ends is equal."""
    low, high = edges(i)
    return 2.0 * low * high / (low + high) if i > 0 else high


def quantile_interval(
    counts: Mapping[int, int], q: float, level: float = 0.95
) -> tuple[float, float | None] | None:
    """Confidence interval of the q-quantile in milliseconds, valid for one look; None without data.

    The ends are order statistics whose ranks are quantiles of Binomial(n, q), without an assumption on the
    distribution (Hahn & Meeker 1991, Section 5.2). The upper end is None below about 1 / (1 - q) values.
    """
    return Ranked(counts).interval(q, level)


@lru_cache(maxsize=65_536)
def _ranks(n: int, q: float, tail: float) -> tuple[int, int]:
    below, above = np.ceil(bdtrik([tail, 1.0 - tail], n, q)).clip(0)
    return int(below), int(above) + 1


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The ``q``-quantile in milliseconds, within 1 %; None without data.

    The value at rank ``q * (n - 1)``, rounded up, of ``n`` times in ascending order. Raises ValueError if ``q`` is
    outside [0, 1].
    """
    return Ranked(counts).quantile(q)


class Ranked:
    """A histogram in ascending order, for several quantiles of it."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._buckets = sorted(counts)
        self._passed = list(accumulate(map(counts.__getitem__, self._buckets)))
        """Number of times up to the end of each bucket."""
        self._total = self._passed[-1] if self._passed else 0

    def quantile(self, q: float) -> float | None:
        """See `quantile`."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
        if self._total <= 0:
            return None
        return value(self._buckets[bisect_right(self._passed, ceil(q * (self._total - 1)))])

    def interval(self, q: float, level: float = 0.95) -> tuple[float, float | None] | None:
        """See `quantile_interval`."""
        if self._total <= 0:
            return None
        below, above = _ranks(self._total, q, (1.0 - level) / 2)
        low, high = (bisect_left(self._passed, rank) for rank in (below, above))
        return (
            edges(self._buckets[low])[0] if below else 0.0,
            edges(self._buckets[high])[1] if high < len(self._buckets) else None,
        )


def merge(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The sum of histograms, without empty buckets."""
    merged: dict[int, int] = {}
    for one in histograms:
        for i, count in one.items():
            merged[i] = merged.get(i, 0) + count
    return {i: count for i, count in merged.items() if count}


# The packed format of the stores ------------------------------------------------------------------
_PAIR: Final = np.dtype([("i", "<u2"), ("n", "<u4")])
_MAX_PAIR_COUNT: Final = 0xFFFF_FFFF


def pack(counts: Mapping[int, int]) -> bytes:
    """Pack a histogram: six bytes per bucket, number (16 bits) and count (32 bits), little-endian, ascending.

    Packed histograms may be concatenated: `unpack` adds counts of the same number. A count beyond 32 bits takes
    several pairs.
    """
    numbers = np.fromiter(counts.keys(), np.int64, len(counts))
    found = np.fromiter(counts.values(), np.int64, len(counts))
    order = np.argsort(numbers)
    order = order[found[order] > 0]
    return _packed(numbers[order], found[order])


def is_packed(data: object) -> bool:
    """Whether `unpack` can read ``data``."""
    return isinstance(data, bytes) and len(data) % _PAIR.itemsize == 0


def merge_packed(*packed: bytes) -> bytes:
    """The sum of packed histograms, packed."""
    return _packed(*_summed(packed))


def less_packed(packed: bytes, taken: bytes) -> bytes:
    """A packed histogram without what is ``taken`` from it, packed."""
    return _packed(*_summed((packed,), (taken,)))


def unpack(*packed: bytes) -> dict[int, int]:
    """The sum of any number of packed histograms."""
    if not any(packed):
        return {}
    numbers, counts = _summed(packed)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _summed(
    packed: Iterable[bytes], taken: Iterable[bytes] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pairs, less = (np.frombuffer(b"".join(each), dtype=_PAIR) for each in (packed, taken))
    numbers, weights = np.append(pairs["i"], less["i"]), np.append(pairs["n"], -less["n"].astype(np.int64))
    # Weighted bincount adds in doubles: exact to 2**53, which is 285 years at a million a second.
    sums = np.bincount(numbers, weights=weights)
    present = np.flatnonzero(sums > 0)
    return present, sums[present].astype(np.int64)


def _packed(numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> bytes:
    parts = []
    while len(numbers):
        pairs = np.empty(len(numbers), _PAIR)
        pairs["i"] = numbers
        pairs["n"] = np.minimum(counts, _MAX_PAIR_COUNT)
        parts.append(pairs.tobytes())
        more = counts > _MAX_PAIR_COUNT
        numbers, counts = numbers[more], counts[more] - _MAX_PAIR_COUNT
    return b"".join(parts)
