"""Sums that forget nothing."""

from __future__ import annotations

from fractions import Fraction
from math import fsum

from hypothesis import given
from hypothesis import strategies as st

from gateway.state.exact import ExactSums, Expansion

values = st.floats(-1e100, 1e100).filter(lambda v: v == 0 or abs(v) > 1e-100)


@given(st.lists(values, max_size=30))
def test_an_expansion_is_exact(numbers: list[float]) -> None:
    total = Expansion()
    for number in numbers:
        total.add(number)
    assert sum(map(Fraction, total.parts), Fraction(0)) == sum(map(Fraction, numbers), Fraction(0))
    assert total.rounded == fsum(numbers)
    again = Expansion.joined(*total.split())
    assert sum(map(Fraction, again.parts), Fraction(0)) == sum(map(Fraction, numbers), Fraction(0))


@given(st.lists(values, max_size=20), st.lists(values, max_size=20), st.randoms())
def test_what_is_retracted_leaves_no_trace(kept: list[float], passing: list[float], order: object) -> None:
    steps = (
        [("report", v) for v in kept] + [("report", v) for v in passing] + [("retract", v) for v in passing]
    )
    order.shuffle(steps)  # type: ignore[attr-defined]
    sums, plain = ExactSums(), ExactSums()
    for name, value in steps:
        getattr(sums, name)(value)
    for value in kept:
        plain.report(value)
    assert sums.rounded == plain.rounded


def test_one_float_is_usually_enough() -> None:
    total = Expansion()
    for number in (1.0, 0.5, 0.25):
        total.add(number)
    assert total.split() == (1.75, None)
    assert Expansion().split() == (0.0, None)
    total.add(1e100)
    rounded, rest = total.split()
    assert rounded == 1e100
    assert rest is not None
    total.add(-1e100)
    assert total.split() == (1.75, None)
