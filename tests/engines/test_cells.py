"""Whole parts of 10^9: exact sums, the propensities that a proxy really has, and ramps that move no unit back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allocation.bucketing import allocation
from policies.allocation.cells import PARTS, cells
from policies.allocation.model import Allocation, normalised

WEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-3)


def spread(weights: list[float], previous: Allocation | None = None) -> Allocation:
    shares = dict(zip((f"v{n}" for n in range(len(weights))), normalised(weights), strict=True))
    return allocation(shares, previous=previous)


@given(st.lists(WEIGHTS, min_size=1, max_size=5))
def test_parts_sum_to_the_whole_and_are_near_the_shares_however_often_they_moved(
    history: list[list[float]],
) -> None:
    held: Allocation | None = None
    for weights in history:
        held = spread(weights, held)
        found = cells(held)
        assert sum(parts for _, parts in found.segments) == PARTS
        for variant, propensity in found.propensities.items():
            assert propensity == pytest.approx(held.probability(variant), abs=len(held.bounds) / PARTS)


@given(st.lists(WEIGHTS, min_size=1, max_size=5))
def test_merged_segments_have_the_same_propensities(history: list[list[float]]) -> None:
    held: Allocation | None = None
    for weights in history:
        held = spread(weights, held)
    found = cells(held or spread([1.0]))
    assert found.merged.propensities == found.propensities
    assert len({variant for variant, _ in found.merged.segments}) == len(found.merged.segments)


@given(WEIGHTS, st.lists(st.integers(0, PARTS - 1), min_size=1, max_size=20))
def test_a_part_falls_to_the_variant_that_owns_its_point(weights: list[float], parts: list[int]) -> None:
    held = spread(weights)
    edges = {round(bound * PARTS) for bound in held.bounds}
    for part in parts:
        if part not in edges:
            assert cells(held).pick(part) == held.variants[held.pick((part + 0.5) / PARTS)]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).map(sorted), st.integers(0, PARTS - 1))
def test_a_ramp_takes_no_unit_back(ramp: list[float], part: int) -> None:
    stages = [cells(allocation({"old": 1 - share, "new": share}, anchor=("new", "old"))) for share in ramp]
    for before, after in pairwise(stages):
        assert not (before.pick(part) == "new" and after.pick(part) == "old")


def test_a_share_below_half_a_part_is_nothing_and_says_so() -> None:
    found = cells(allocation({"old": 1 - 1e-10, "new": 1e-10}))
    assert found.propensities == {"old": 1.0, "new": 0.0}
    with pytest.raises(ValueError, match="below 1000000000"):
        found.pick(PARTS)
