"""The mergeable histogram."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from gateway.record.histogram import (
    CEILING_MS,
    FLOOR_MS,
    GAMMA,
    TOP,
    edges,
    index,
    indices,
    merge,
    merge_packed,
    pack,
    quantile,
    quantile_interval,
    unpack,
    value,
)

times = st.floats(0, 1e9, allow_nan=False)
counts = st.dictionaries(st.integers(0, TOP), st.integers(1, 2**34), max_size=50)


@given(times)
def test_a_time_lies_within_its_bucket(ms: float) -> None:
    low, high = edges(index(ms))
    clamped = min(ms, CEILING_MS)
    assert low * (1 - 1e-9) <= clamped <= high * (1 + 1e-9)
    assert high <= max(low * GAMMA * (1 + 1e-9), FLOOR_MS)


@given(st.floats(FLOOR_MS, CEILING_MS))
def test_what_stands_for_a_bucket_is_within_one_percent(ms: float) -> None:
    assert value(index(ms)) == pytest.approx(ms, rel=0.0101)


def test_the_ends() -> None:
    assert index(-1) == index(0) == 0
    assert index(1e300) == index(float("inf")) == TOP < 2**16
    assert edges(0) == (0.0, FLOOR_MS)
    with pytest.raises(ValueError, match="NaN"):
        index(float("nan"))


@given(st.lists(times, min_size=1, max_size=50))
def test_batches_fall_where_single_times_do(ms: list[float]) -> None:
    found = indices(np.array(ms))
    # The two logarithms may differ in the last bit, right at an edge.
    for one, place in zip(ms, found.tolist(), strict=True):
        low, high = edges(place)
        assert place == index(one) or min(abs(one / low - 1), abs(one / high - 1)) < 1e-9


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_that_of_the_times(ms: list[float], q: float) -> None:
    histogram = merge({index(one): 1} for one in ms)
    exact = float(np.quantile(ms, q, method="higher"))
    assert quantile(histogram, q) == pytest.approx(exact, rel=0.0101)


def test_no_quantile_of_nothing() -> None:
    assert quantile({}, 0.5) is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile({1: 1}, 1.5)


@given(st.lists(counts, max_size=5))
def test_packed_histograms_add_up(parts: list[dict[int, int]]) -> None:
    total = merge(parts)
    packed = [pack(part) for part in parts]
    assert unpack(*packed) == total
    assert unpack(b"".join(packed)) == total
    assert unpack(merge_packed(*packed)) == total
    assert merge_packed(*packed) == pack(total)


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_the_interval_of_a_quantile_covers_it(q: float) -> None:
    """In 95 of 100 samples, or more often, since ranks are whole numbers; buckets only widen it."""
    rng = np.random.default_rng(7)
    true = float(np.exp(3.0 + 0.5 * norm.ppf(q)))
    covered = 0
    for _ in range(400):
        sample = np.exp(rng.normal(3.0, 0.5, 600))
        found = quantile_interval(Counter(indices(sample).tolist()), q)
        assert found is not None
        covered += found[0] <= true and (found[1] is None or true <= found[1])
    assert covered / 400 >= 0.93


def test_a_p99_of_few_values_has_no_upper_end() -> None:
    """T9: of 25 requests the p99 is the maximum, and nothing bounds it from above."""
    found = quantile_interval({index(10.0): 25}, 0.99)
    assert found is not None
    assert found[1] is None
    assert quantile_interval({}, 0.99) is None
