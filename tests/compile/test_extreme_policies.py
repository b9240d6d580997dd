"""What a bandit's section may hold at most leads to an allocation, and more is refused."""

from __future__ import annotations

import pytest

from gateway.compile.plans import plan
from gateway.config.load import ConfigError, load
from policies.allocation.bandit import Bandit, allocate
from policies.allocation.model import Learned
from policies.types import RewardSums

CONFIG = """
backends: {a: {url: "http://127.0.0.1:9001"}}
metrics: {correct: {type: boolean}, real: {type: real}, count: {type: count}}
routes:
  digits:
    match: {path: /}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: bandit, floor: 1%, stop: {}, POLICY}
"""
REWARDS = {"correct": 1.0, "real": 1e100, "count": 3.0}


def bandit(policy: str) -> Bandit:
    document = load(CONFIG.replace("POLICY", policy), source="test", env={})
    found = plan(document, "digits")
    assert isinstance(found, Bandit)
    return found


@pytest.mark.parametrize(
    "policy",
    [
        "metric: correct, prior: {alpha: 1.0e+15, beta: 0.001}",
        "metric: correct, prior: {alpha: 1.0e+15, beta: 1.0e+15}",
        "metric: count, prior: {shape: 0.001, rate: 1.0e-15}",
        "metric: count, prior: {shape: 1.0e+15, rate: 1.0e+15}",
        "metric: real, prior: {mean: -1.0e+100, weight: 1.0e+15, shape: 0.51, scale: 1.0e+100}",
        "metric: real, prior: {mean: 1.0e+100, weight: 1.0e-15, shape: 1.0e+15, scale: 1.0e-100}",
        "utility: {real: 1.0e+50, correct: 1.0e-50}",
    ],
)
@pytest.mark.parametrize("rewarded", [(), ("v1",), ("v1", "v2")], ids=len)
def test_the_extremes_lead_to_an_allocation(policy: str, rewarded: tuple[str, ...]) -> None:
    made = bandit(policy)
    sums = {
        (name, o.metric): RewardSums(2.0, REWARDS[o.metric], REWARDS[o.metric] ** 2)
        for name in rewarded
        for o in made.objectives
    }
    found = allocate(made, Learned(sums=sums))
    assert sum(map(found.probability, made.variants)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "policy",
    [
        "metric: correct, prior: {beta: 1.0e+16}",
        "metric: count, prior: {rate: 1.0e+16}",
        "metric: real, prior: {mean: 1.0e+101}",
        "metric: real, prior: {mean: 0, shape: 1.0e+16}",
        "utility: {correct: 1.0e+51}",
    ],
)
def test_more_is_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match=r"is too large; write at most 1e\+"):
        bandit(policy)
