"""Boundaries against the values that the method's authors publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.sequential import mixtures as m
from policies.sequential.quantiles import (
    double_stitching_bound,
    empirical_process_lil_bound,
    quantile_ab_p_value,
)
from policies.sequential.rates import bernoulli_confidence_interval

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "cases" / "confidence_sequences.json").read_text()
)
TARGETS: dict[str, Any] = CASES["targets"]

COMPUTED: dict[str, Callable[[], Any]] = {
    "best_rho_two_sided_normal(v=100,alpha=.05)": lambda: m.normal_rho(100, 0.05),
    "normal_log_mixture(s=10,v=100,v_opt=100,alpha_opt=.05,one_sided=False)": lambda: m.normal_log_mixture(
        10, 100, 100, 0.05, one_sided=False
    ),
    "normal_mixture_bound(v=100,alpha=.05,v_opt=100,alpha_opt=.05,False)": lambda: m.normal_mixture_bound(
        100, 0.05, 100, 0.05, one_sided=False
    ),
    "normal_log_mixture(10,100,100) one-sided": lambda: m.normal_log_mixture(10, 100, 100),
    "normal_mixture_bound(100,.05,100) one-sided": lambda: m.normal_mixture_bound(100, 0.05, 100),
    "gamma_exponential_log_mixture(10,100,100,c=2)": lambda: m.gamma_exponential_log_mixture(10, 100, 100, 2),
    "gamma_exponential_mixture_bound(100,.05,100,2)": lambda: m.gamma_exponential_mixture_bound(
        100, 0.05, 100, 2
    ),
    "gamma_poisson_log_mixture(10,100,100,2)": lambda: m.gamma_poisson_log_mixture(10, 100, 100, 2),
    "gamma_poisson_mixture_bound(100,.05,100,2)": lambda: m.gamma_poisson_mixture_bound(100, 0.05, 100, 2),
    "beta_binomial_log_mixture(10,100,100,g=.2,h=.8,.05,False)": lambda: m.beta_binomial_log_mixture(
        10, 100, 100, 0.2, 0.8, 0.05, one_sided=False
    ),
    "beta_binomial_mixture_bound(100,.05,100,.2,.8,.05,False)": lambda: m.beta_binomial_mixture_bound(
        100, 0.05, 100, 0.2, 0.8, 0.05, one_sided=False
    ),
    "beta_binomial_log_mixture(10,100,100,.2,.8) one-sided": lambda: m.beta_binomial_log_mixture(
        10, 100, 100, 0.2, 0.8
    ),
    "beta_binomial_mixture_bound(100,.05,100,.2,.8) one-sided": lambda: m.beta_binomial_mixture_bound(
        100, 0.05, 100, 0.2, 0.8
    ),
    "poly_stitching_bound(100,.05,10,c=3)": lambda: m.poly_stitching_bound(100, 0.05, 10, 3),
    "poly_stitching_bound(100,.05,10,-1)": lambda: m.poly_stitching_bound(100, 0.05, 10, -1),
    "empirical_process_lil_bound(1000,.05,100,.85)": lambda: empirical_process_lil_bound(
        1000, 0.05, 100, 0.85
    ),
    "double_stitching_bound(q=.5,t=1000,.05,100)": lambda: double_stitching_bound(0.5, 1000, 0.05, 100),
    "double_stitching_bound(.9,...)": lambda: double_stitching_bound(0.9, 1000, 0.05, 100),
    "double_stitching_bound(.1,...)": lambda: double_stitching_bound(0.1, 1000, 0.05, 100),
}


@pytest.mark.parametrize("name", [name for name, value in TARGETS.items() if isinstance(value, float)])
def test_scalar_targets(name: str) -> None:
    assert float(COMPUTED[name]()) == pytest.approx(TARGETS[name], abs=1e-5)


AB = TARGETS["quantile_ab_p_value a=1..1000 b=1+off..1000+off t_opt=100 alpha_opt=.05"]


@pytest.mark.parametrize("name", list(AB))
def test_quantile_ab_targets(name: str) -> None:
    q, offset = (float(part.split("=")[1]) for part in name.split(","))
    a = np.arange(1.0, 1001.0)
    assert quantile_ab_p_value(a, a + offset, q, 100, 0.05) == pytest.approx(AB[name], abs=1e-5)
    assert quantile_ab_p_value(a[::-1] + offset, a, q, 100, 0.05) == pytest.approx(AB[name], abs=1e-5)


INTERVALS = TARGETS["bernoulli_confidence_interval(succ,n,alpha=.05,t_opt)"]


@pytest.mark.parametrize("name", list(INTERVALS))
def test_bernoulli_targets(name: str) -> None:
    successes, n, t_opt = (float(part.split("=")[-1]) for part in name.split(","))
    assert bernoulli_confidence_interval(successes, n, 0.05, t_opt) == pytest.approx(
        tuple(INTERVALS[name]), abs=1e-5
    )


@pytest.mark.parametrize(
    "case", CASES["grid"], ids=lambda case: case["fn"] + str(case.get("n", case.get("v")))
)
def test_grid(case: dict[str, Any]) -> None:
    arguments = {k: v for k, v in case.items() if k not in ("fn", "out")}
    function = {
        "bernoulli_confidence_interval": bernoulli_confidence_interval,
        "normal_mixture_bound": m.normal_mixture_bound,
        "gamma_exponential_mixture_bound": m.gamma_exponential_mixture_bound,
    }[case["fn"]]
    assert function(**arguments) == pytest.approx(case["out"], rel=1e-7, abs=1e-9)  # type: ignore[operator]


def test_bounds_take_arrays_and_grow() -> None:
    v = np.array([1.0, 10.0, 100.0, 1e4])
    for bound in (
        m.normal_mixture_bound(v, 0.05, 100),
        m.gamma_exponential_mixture_bound(v, 0.05, 100, 1.0),
        m.gamma_poisson_mixture_bound(v, 0.05, 100, 1.0),
        m.poly_stitching_bound(v, 0.05, 1.0),
    ):
        assert bound.shape == v.shape
        assert (np.diff(bound) > 0).all()


def test_a_bound_of_a_bounded_process_never_passes_its_limit() -> None:
    assert m.beta_binomial_mixture_bound(0.5, 0.001, 10, 0.5, 0.5) <= 1.0


def test_nothing_seen_is_the_whole_range() -> None:
    assert bernoulli_confidence_interval(0, 0, 0.05, 100) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        bernoulli_confidence_interval(3, 2, 0.05, 100)
