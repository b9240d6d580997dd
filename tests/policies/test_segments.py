"""Predicted means by segment, against the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from policies.contextual.features import Categorical, Numeric, Scalar, encode
from policies.contextual.regression import LinearSums, fit, total
from policies.contextual.segments import Segment, segments

FEATURES = (Categorical("tier", ("free", "paid")), Numeric("age", 0, 100))


def rows(n: int) -> list[dict[str, Scalar]]:
    """Free, paid and other tiers; every fifth has no age."""
    rng = np.random.default_rng(4)
    tiers = ("free", "free", "paid", "gold")
    return [
        {"tier": tiers[k % 4], "age": None if k % 5 == 0 else float(rng.normal(40, 10))} for k in range(n)
    ]


def test_a_segments_row_is_the_mean_of_its_requests_over_all_variants() -> None:
    raw = rows(400)
    encoded = np.array([encode(FEATURES, one) for one in raw])
    halves = [LinearSums.of(encoded[k::2], np.zeros(200)) for k in (0, 1)]
    found = {(s.feature, s.value): s for s in segments(FEATURES, total(halves, 5).xx)}
    members = {
        ("", "all requests"): np.ones(400, bool),
        ("tier", "free"): np.array([one["tier"] == "free" for one in raw]),
        ("tier", "paid"): np.array([one["tier"] == "paid" for one in raw]),
        ("tier", "any other"): np.array([one["tier"] == "gold" for one in raw]),
        ("age", "missing"): np.array([one["age"] is None for one in raw]),
    }
    for name, member in members.items():
        assert found.pop(name).row == pytest.approx(encoded[member].mean(axis=0)), name
    low, high = (float(value.removeprefix("about ")) for _, value in found)
    ages = [one["age"] for one in raw if isinstance(one["age"], float)]
    assert low == pytest.approx(np.mean(ages) - np.std(ages), abs=0.1)
    assert high == pytest.approx(np.mean(ages) + np.std(ages), abs=0.1)
    assert all(one.rewards is None for one in found.values())


def test_a_variant_that_is_better_for_some_is_predicted_to_be() -> None:
    rng = np.random.default_rng(5)
    encoded = np.array([encode(FEATURES, one) for one in rows(2000)])
    paid = encoded[:, 2]
    truth = {"v1": 0.6 - 0.3 * paid, "v2": 0.4 + 0.4 * paid}
    sums = [
        LinearSums.of(encoded[k::2], rng.random(1000) < chance[k::2])
        for k, chance in enumerate(truth.values())
    ]
    first, second = fit(sums)
    for segment in segments(FEATURES, total(sums, 5).xx):
        share = float(segment.row[2])
        for one, expected in ((first, 0.6 - 0.3 * share), (second, 0.4 + 0.4 * share)):
            mean, (low, high) = segment.predict(one)
            assert low < mean < high
            assert low - 0.03 < expected < high + 0.03, (segment.feature, segment.value)
        apart, (least, most) = segment.difference(second, first)
        assert apart == pytest.approx(segment.predict(second)[0] - segment.predict(first)[0])
        widths = [high - low for _, (low, high) in (segment.predict(first), segment.predict(second))]
        assert most - least == pytest.approx(float(np.hypot(widths[0], widths[1])), rel=1e-3)


def test_without_requests_there_is_no_segment_and_a_constant_number_has_no_points() -> None:
    assert segments(FEATURES, np.zeros((5, 5))) == []
    same = [encode(FEATURES, {"tier": "free", "age": 30}) for _ in range(9)]
    found: list[Segment] = segments(FEATURES, LinearSums.of(same, np.ones(9)).xx)
    assert [(s.feature, s.value) for s in found] == [("", "all requests"), ("tier", "free")]
