from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allocate import allocate
from policies.allocation.fixed_plans import Canary, Shadow, Single, Split, shadow_due
from policies.allocation.model import Learned


def test_single_takes_everything() -> None:
    made = allocate(Single("v1", shadows=(("v2", 0.5),)))
    assert (made.as_dict(), made.bounds, made.shadows) == ({"v1": 1.0}, (1.0,), (("v2", 0.5),))


def test_split_normalises_its_weights() -> None:
    made = allocate(Split.of({"v1": 9, "v2": 1}))
    assert made.as_dict() == {"v1": 0.9, "v2": 0.1}
    assert made.bounds == pytest.approx((0.9, 1.0), abs=1e-15)


def test_an_edited_split_moves_as_few_as_it_must() -> None:
    old = allocate(Split.of({"a": 1, "b": 1, "c": 1}))
    new = allocate(Split.of({"a": 2, "b": 1, "c": 1}), Learned(previous=old))
    assert [new.variants[new.pick(u)] for u in (0.1, 0.45, 0.9)] == ["a", "b", "c"]


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}])
def test_a_split_without_shares_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        allocate(Split.of(weights))


@pytest.mark.parametrize("w", [0.0, 0.01, 0.5, 1.0])
def test_the_candidate_owns_the_low_end(w: float) -> None:
    made = allocate(Canary("old", "new", weight=w))
    assert made.probability("new") == w
    for u in (0.0, 0.005, 0.3, 0.75, 1 - 2**-53):
        assert made.variants[made.pick(u)] == ("new" if u < w else "old")


@pytest.mark.parametrize("w", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(w: float) -> None:
    with pytest.raises(ValueError, match="between 0% and 100%"):
        allocate(Canary("old", "new", weight=w))


def test_a_shadow_takes_no_traffic() -> None:
    made = allocate(Shadow.of("v1", {"v2": 1.0, "v3": 0.05}))
    assert (made.as_dict(), made.shadows) == ({"v1": 1.0}, (("v2", 1.0), ("v3", 0.05)))
    with pytest.raises(ValueError, match="share of shadow 'v2'"):
        allocate(Shadow.of("v1", {"v2": 1.5}))


@given(st.integers(0, 10_000), st.integers(0, 3000))
def test_shadow_shares_are_exact(per_myriad: int, n: int) -> None:
    due = sum(shadow_due(count, per_myriad / 10_000) for count in range(n))
    assert due == n * per_myriad // 10_000


def test_a_point_belongs_to_the_variant_whose_range_it_is_in() -> None:
    made = allocate(Split.of({"a": 1, "b": 3}))
    assert [made.pick(u) for u in (0.0, 0.1, 0.25, 0.9, 1 - 2**-53)] == [0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="lies in"):
        made.pick(1.0)
