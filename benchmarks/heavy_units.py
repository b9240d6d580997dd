"""Guardrails looked at all the time, over users of whom a few send most of the requests (an A/A test).

Counting their requests raises false alarms; counting each user as one observation, its running mean, does not:
the table of docs/trust.md. `tests/policies/test_unit_outcomes.py` tests the same through the guardrails.

    python -m benchmarks.heavy_units [--runs 100]
"""

from __future__ import annotations

import argparse

import numpy as np

from policies.sequential.two_sample import BoundedMartingale, RateMartingale, difference_interval
from policies.simulation.clustered_users import UserPopulation
from policies.simulation.summary import Estimated, share
from policies.types import RewardSums

ALPHA = 0.05
REQUESTS = 20_000


def false_alarms(
    *, by_unit: bool, repetitions: int, seed: int, binary: bool = True, looks: int = 80
) -> Estimated:
    """How often two variants that are the same are ever told apart, in some look."""
    rng = np.random.default_rng(seed)
    found = sum(_one(rng, by_unit, binary, looks) for _ in range(repetitions))
    return share(found, repetitions)


def _one(rng: np.random.Generator, by_unit: bool, binary: bool, looks: int) -> bool:
    users = UserPopulation(units=300, icc=0.3)
    unit = rng.choice(users.units, REQUESTS, p=users.activity)
    second = rng.random(users.units) < 0.5
    rate = users.unit_means("boolean", rng.random(users.units), np.full(users.units, 0.3), 1.0)[unit]
    value = (
        (rng.random(REQUESTS) < rate).astype(float) if binary else rng.beta(2 * rate + 0.01, 2.01 - 2 * rate)
    )
    for n in np.geomspace(200, REQUESTS, looks).astype(int):
        sides = [_sums(unit[:n], value[:n], second[unit[:n]] == side, by_unit) for side in (False, True)]
        arms = [RateMartingale(s.total, s.count) if binary else BoundedMartingale(s) for s in sides]
        interval = difference_interval(arms[0], arms[1], ALPHA)
        if interval is not None and not interval[0] <= 0 <= interval[1]:
            return True
    return False


def _sums(unit: np.ndarray, value: np.ndarray, mine: np.ndarray, by_unit: bool) -> RewardSums:
    observed = value[mine]
    if by_unit:
        count, total = np.bincount(unit[mine]), np.bincount(unit[mine], observed)
        observed = total[count > 0] / count[count > 0]
    return RewardSums.of(observed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    print("| metric | counting | the interval excludes the true difference |\n|---|---|---|")
    for binary in (True, False):
        for by_unit in (False, True):
            found = false_alarms(by_unit=by_unit, repetitions=runs, seed=11 + by_unit, binary=binary)
            ends = f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
            print(
                f"| {('fraction', 'boolean')[binary]} | {('requests', 'units')[by_unit]} | {ends} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
