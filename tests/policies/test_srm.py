"""Sample-ratio mismatch: against its formula in high precision, and against moving shares."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from itertools import product

import mpmath
import numpy as np
import pytest

from policies.sequential.srm import (
    SampleRatio,
    UnitRatio,
    mix,
)

Epochs = list[tuple[Mapping[str, float], Mapping[str, float]]]


def sample_ratio(epochs: Epochs) -> SampleRatio:
    """The test over epochs of (assigned by variant, probabilities by variant)."""
    ratio = SampleRatio()
    for assigned, probabilities in epochs:
        ratio.add(assigned, probabilities)
    return ratio


def test_the_evidence_against_high_precision() -> None:
    """The likelihood ratio of `SampleRatio`, multiplied up decision by decision with 40 digits."""
    epochs: Epochs = [
        ({"a": 40, "b": 7, "c": 3}, {"a": 0.7, "b": 0.2, "c": 0.1}),
        ({"a": 12, "b": 30, "c": 4}, {"a": 0.25, "b": 0.7, "c": 0.05}),
    ]
    with mpmath.workdps(40):
        evidence = []
        for variant in "abc":
            for tilt in [sign * size for size in (0.01, 0.03, 0.1, 0.3, 1, 3) for sign in (-1, 1)]:
                ratio, grown = mpmath.mpf(1), mpmath.exp(mpmath.mpf(str(tilt)))
                for assigned, probabilities in epochs:
                    norm = 1 + mpmath.mpf(str(probabilities[variant])) * (grown - 1)
                    for one, count in assigned.items():
                        ratio *= ((grown if one == variant else 1) / norm) ** count
                evidence.append(ratio)
        expected = mpmath.fsum(evidence) / len(evidence)
        assert sample_ratio(epochs).e_value == pytest.approx(float(expected), rel=1e-10)


def test_it_is_a_martingale_over_every_path() -> None:
    """The mean of the e-value over all paths of six decisions, whose shares move, is exactly 1."""
    shares = [{"a": q, "b": 0.6 - q / 2, "c": 0.4 - q / 2} for q in (0.1, 0.5, 0.2, 0.05, 0.7, 0.3)]
    mean = 0.0
    for path in product("abc", repeat=6):
        ratio, chance = SampleRatio(), 1.0
        for assigned, probabilities in zip(path, shares, strict=True):
            ratio.add({assigned: 1}, probabilities)
            chance *= probabilities[assigned]
        mean += chance * ratio.e_value
    assert mean == pytest.approx(1.0, abs=1e-12)


def test_moving_shares_raise_no_alarm_and_a_lost_variant_does() -> None:
    rng = np.random.default_rng(3)
    healthy, lossy = SampleRatio(), SampleRatio()
    for step in range(300):
        q = 0.5 + 0.45 * math.sin(step / 20)
        a = int(rng.binomial(200, q))
        healthy.add({"a": a, "b": 200 - a}, {"a": q, "b": 1 - q})
        lossy.add({"a": int(rng.binomial(a, 0.9)), "b": 200 - a}, {"a": q, "b": 1 - q})
    assert not healthy.mismatch(0.001)
    assert lossy.mismatch(0.001)
    assert healthy.counts["a"] == pytest.approx(healthy.expected["a"], rel=0.02)


def test_an_assignment_that_could_not_happen_is_a_mismatch_at_once() -> None:
    ratio = sample_ratio([({"a": 10, "b": 1}, {"a": 1.0, "b": 0.0})])
    assert ratio.impossible == 1
    assert ratio.mismatch(1e-9)


def test_nothing_seen_says_nothing() -> None:
    assert SampleRatio().log_evidence == 0.0
    assert sample_ratio([({}, {"a": 0.5, "b": 0.5})]).log_evidence == pytest.approx(0.0, abs=1e-12)


def test_state_survives_as_json() -> None:
    ratio = sample_ratio([({"a": 6, "b": 4}, {"a": 0.5, "b": 0.5}), ({"a": 1, "b": 9}, {"a": 0.1, "b": 0.9})])
    again = SampleRatio.from_dict(json.loads(json.dumps(ratio.as_dict())))
    again.add({"a": 3}, {"a": 0.2, "b": 0.8})
    ratio.add({"a": 3}, {"a": 0.2, "b": 0.8})
    assert again.log_evidence == ratio.log_evidence
    assert again.as_dict() == ratio.as_dict()


# Units --------------------------------------------------------------------------------------------
def split(units: np.ndarray, share: float = 0.1) -> list[str]:
    """What each 64-bit unit is given by its upper bits."""
    return ["v2" if u else "v1" for u in (units >> np.uint64(11)).astype(float) * 2.0**-53 < share]


def of(units: np.ndarray, epoch: int = 1, share: float = 0.1) -> list[tuple[int, int, str]]:
    return [(int(m), epoch, v) for m, v in zip(mix(units), split(units, share), strict=True)]


def hashes(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 1 << 64, n, dtype=np.uint64)


PROBABILITIES = {1: {"v1": 0.9, "v2": 0.1}, 2: {"v1": 0.5, "v2": 0.5}}


def test_a_mix_says_nothing_of_what_a_unit_is_given() -> None:
    units = hashes(np.random.default_rng(1), 200_000)
    mixed = mix(units)
    given = np.asarray(split(units)) == "v2"
    for low in (mixed < 1 << 63, mixed < 1 << 60, mixed & np.uint64(1) == 1):
        assert abs(given[low].mean() - 0.1) < 4 * np.sqrt(0.09 / low.sum())
    assert len(np.unique(mixed)) == len(np.unique(units))


def test_each_unit_counts_once_by_the_epoch_it_first_came_in() -> None:
    units = hashes(np.random.default_rng(2), 500)
    test = UnitRatio()
    test.add(of(units) * 3, PROBABILITIES)
    test.add(of(units, 2, 0.5), PROBABILITIES)
    assert sum(test.ratio.counts.values()) == 500
    assert test.ratio.expected["v2"] == pytest.approx(50)
    fresh = hashes(np.random.default_rng(3), 100)
    test.add(of(fresh, 2, 0.5), PROBABILITIES)
    assert test.ratio.expected["v2"] == pytest.approx(100)
    test.add(of(hashes(np.random.default_rng(4), 10), 3), PROBABILITIES)
    assert sum(test.ratio.counts.values()) == 600, "nothing is known of epoch 3"


def test_the_sample_is_bounded_and_counts_none_twice() -> None:
    rng = np.random.default_rng(5)
    test = UnitRatio(size=256)
    everybody = hashes(rng, 20_000)
    for part in np.array_split(everybody, 40):
        test.add(of(part), PROBABILITIES)
        assert len(test.seen) < 256
    counted = sum(test.ratio.counts.values())
    assert 256 + 128 * 5 < counted < 256 + 128 * 9
    test.add(of(rng.permutation(everybody)), PROBABILITIES)
    assert sum(test.ratio.counts.values()) == counted


def test_a_variant_that_loses_units_is_found_though_the_sample_shrinks() -> None:
    rng = np.random.default_rng(6)
    test = UnitRatio(size=512)
    for _ in range(200):
        units = hashes(rng, 500)
        kept = [one for one in of(units) if one[2] == "v1" or rng.random() < 0.6]
        test.add(kept, PROBABILITIES)
    assert test.ratio.mismatch()
    assert len(test.seen) < 512


def alarms(*, by_unit: bool, repetitions: int, seed: int, looks: int = 60) -> float:
    """How often an A/A test whose users are heavy raises an alarm at a nominal 5 %, in any of the looks."""
    rng = np.random.default_rng(seed)
    raised = 0
    for _ in range(repetitions):
        units = hashes(rng, 3000)
        activity = np.arange(1, 3001.0) ** -1.0
        rows = of(units)
        test, ratio = UnitRatio(size=256), SampleRatio()
        for _ in range(looks):
            came = [rows[k] for k in rng.choice(3000, 100, p=activity / activity.sum())]
            test.add(came, PROBABILITIES)
            ratio.add(Counter(v for _, _, v in came), PROBABILITIES[1])
            if (test.ratio if by_unit else ratio).mismatch(0.05):
                raised += 1
                break
    return raised / repetitions


@pytest.mark.long
def test_heavy_users_raise_no_false_alarm_counted_once() -> None:
    assert alarms(by_unit=False, repetitions=25, seed=7) > 0.5
    assert alarms(by_unit=True, repetitions=60, seed=8) <= 0.1
