"""Sample-ratio mismatch: against an outside implementation, and against moving shares."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.srm import SampleRatio, multinomial_log_martingale, multinomial_p_values, sample_ratio

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "cases" / "sequential_srm.json").read_text()
)["cases"]


@pytest.mark.parametrize("case", CASES)
def test_outside_values(case: dict[str, Any]) -> None:
    totals = np.cumsum(case["counts"], axis=0)
    shape = np.asarray(case["dirichlet_probability"] or case["null"])
    prior = case["dirichlet_concentration"] * shape
    log = multinomial_log_martingale(totals, case["null"], prior)
    assert log == pytest.approx(np.asarray(case["log_bayes_factor"]), abs=1e-9)
    assert multinomial_p_values(totals, case["null"], prior) == pytest.approx(
        np.asarray(case["p_values"]), abs=1e-9
    )


def test_shares_must_be_shares() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        multinomial_log_martingale([1, 2], [0.5, 0.6], [1, 1])
    with pytest.raises(ValueError, match="above 0"):
        multinomial_log_martingale([1, 2], [0.5, 0.5], [0, 1])


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
