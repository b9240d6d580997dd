"""Mixtures against the values that the method's authors publish."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.sequential.mixtures import gamma_exponential_log_mixture, normal_rho
from policies.sequential.two_sample import rate_log_martingale

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "cases" / "confidence_sequences.json").read_text()
)
TARGETS: dict[str, Any] = CASES["targets"]
BOUNDS = [case for case in CASES["grid"] if case["fn"] == "gamma_exponential_mixture_bound"]
INTERVALS = [case for case in CASES["grid"] if case["fn"] == "bernoulli_confidence_interval"] + [
    {**dict(zip(("successes", "n", "t_opt"), map(float, key), strict=True)), "alpha": 0.05, "out": ends}
    for name, ends in TARGETS["bernoulli_confidence_interval(succ,n,alpha=.05,t_opt)"].items()
    if (key := [part.split("=")[-1] for part in name.split(",")])
]


def test_published_precision() -> None:
    assert normal_rho(100, 0.05) == pytest.approx(12.60056, abs=1e-5)


def test_published_gamma_exponential_mixture() -> None:
    rho = normal_rho(100, one_sided=True)
    assert float(gamma_exponential_log_mixture(10, 100, rho, 2)) == pytest.approx(-0.2490165, abs=1e-6)


@pytest.mark.parametrize("case", BOUNDS, ids=lambda case: str(case["v"]))
def test_the_gamma_exponential_mixture_reaches_its_level_at_the_published_bound(case: dict[str, Any]) -> None:
    rho = normal_rho(case["v_opt"], one_sided=True)
    log = gamma_exponential_log_mixture(case["out"], case["v"], rho, case["c"])
    assert float(log) == pytest.approx(-math.log(case["alpha"]), rel=1e-7)


@pytest.mark.parametrize(
    "case", INTERVALS, ids=lambda case: f"{case['successes']}-{case['n']}-{case['t_opt']}"
)
def test_the_martingale_of_a_rate_reaches_its_level_at_the_published_ends(case: dict[str, Any]) -> None:
    """Ends at 0 and 1 are rates that the data can't refute at the level."""
    concentration = np.asarray([max(normal_rho(case["t_opt"]) - 1, 1e-3)])
    level = -math.log(case["alpha"])
    for end in case["out"]:
        log = float(
            rate_log_martingale(
                np.asarray(end),
                np.asarray(float(case["successes"])),
                np.asarray(float(case["n"])),
                concentration,
            )
        )
        if 0 < end < 1:
            assert log == pytest.approx(level, abs=1e-3)
        else:
            assert log < level
