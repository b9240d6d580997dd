from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allocation.shares import capped, floored, top_two


@st.composite
def shares(draw: st.DrawFn) -> list[float]:
    weights = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=8))
    total = sum(weights)
    return [w / total for w in weights] if total else [1.0 / len(weights)] * len(weights)


@given(shares(), st.floats(0, 1))
def test_floor_holds_and_proportions_stay(p: list[float], part: float) -> None:
    floor = part / len(p)
    out = floored(p, floor)
    assert math.isclose(sum(out), 1.0, abs_tol=1e-12)
    assert all(x >= floor for x in out)
    for x, y, a, b in zip(p, p[1:], out, out[1:], strict=False):
        assert math.isclose(b - a, (1 - len(p) * floor) * (y - x), abs_tol=1e-12)


def test_floors_above_everything_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 floors of 0.4 .* write 0.333333 at most"):
        floored([1.0, 0.0, 0.0], 0.4)


@given(shares(), st.data())
def test_caps_bind_and_the_rest_keep_their_proportions(p: list[float], data: st.DataObject) -> None:
    caps = [data.draw(st.one_of(st.just(1.0), st.just(0.0), st.floats(0, 1))) for _ in p]
    if sum(caps) < 1:
        caps[data.draw(st.integers(0, len(p) - 1))] = 1.0
    out = capped(p, caps)
    assert math.isclose(sum(out), 1.0, abs_tol=1e-12)
    assert all(x <= cap + 1e-15 for x, cap in zip(out, caps, strict=True))
    if all(x <= cap for x, cap in zip(p, caps, strict=True)):
        assert out == p
    free = [k for k, cap in enumerate(caps) if out[k] < cap and p[k] > 0]
    ratios = [out[k] / p[k] for k in free]
    assert all(math.isclose(r, ratios[0], rel_tol=1e-9) for r in ratios)
    assert all(r >= 1 - 1e-9 for r in ratios), "nobody loses by another's cap"


def test_an_ejected_variant_gets_nothing_even_where_nobody_else_had_any() -> None:
    assert capped([1.0, 0.0, 0.0], [0.0, 1.0, 1.0]) == [0.0, 0.5, 0.5]
    assert capped([0.7, 0.2, 0.1], [0.0, 0.25, 1.0]) == pytest.approx([0.0, 0.25, 0.75])


def test_caps_that_leave_less_than_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="leave less than everything"):
        capped([0.5, 0.5], [0.2, 0.3])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        capped([0.5, 0.5], [1.2, 0.3])


def test_top_two_plays_the_runner_up_as_often_as_it_should() -> None:
    # By hand: P = (.8, .15, .05); the second draw is i given j first with P_i / (1 - P_j).
    first = [0.8, 0.15, 0.05]
    again = [
        0.15 * 0.8 / 0.85 + 0.05 * 0.8 / 0.95,
        0.8 * 0.15 / 0.2 + 0.05 * 0.15 / 0.95,
        0.8 * 0.05 / 0.2 + 0.15 * 0.05 / 0.85,
    ]
    assert top_two(first, 0.5) == pytest.approx([(a + b) / 2 for a, b in zip(first, again, strict=True)])
    assert top_two(first, 0.25) == pytest.approx(
        [0.75 * a + 0.25 * b for a, b in zip(first, again, strict=True)]
    )


@given(shares(), st.floats(0.01, 0.5))
def test_top_two_gives_shares(p: list[float], second: float) -> None:
    out = top_two(p, second)
    assert math.isclose(sum(out), 1.0, abs_tol=1e-12)
    assert all(x >= 0 for x in out)
    order = sorted(range(len(p)), key=lambda k: p[k])
    for low, high in itertools.pairwise(order):
        assert out[low] <= out[high] + 1e-12


def test_top_two_when_one_leads_beyond_doubt() -> None:
    assert top_two([1.0, 0.0, 0.0], 0.5) == pytest.approx([0.5, 0.25, 0.25])
    assert top_two([1.0], 0.5) == [1.0]


def test_caps_that_leave_nothing_but_rounding_to_an_ejected_variant() -> None:
    assert capped([1.0, 0.0], [1.0 - 1e-13, 0.0]) == [1.0 - 1e-13, 0.0]
