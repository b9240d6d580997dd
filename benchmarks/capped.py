"""What a `cap` on a metric is worth: requests of the candidate until a loss of buyers is a `fail`.

`python -m benchmarks.capped [--runs 24]` prints the table of docs/benchmarks_statistics.md. Of the baseline's requests
5 % buy for a lognormal amount with median 1, of the candidate's 3 %; the candidate's share is 10 %, and
`policies.rollout.guardrails.judge` looks every 4,000 requests, at most 60 times, at 5 % / 3.
"""

from __future__ import annotations

import argparse

import numpy as np

from policies.rollout.guardrails import judge
from policies.rollout.verdicts import Guardrail
from policies.sequential.metric_comparison import Evidence
from policies.types import RewardSums

RAIL = Guardrail("m", max_decrease=0.0)
BASELINE, CANDIDATE, LOOKS = 3_600, 400, 60
"""Requests between two looks, and looks."""
WORLDS = ((0.8, (None, 4.0, 10.0)), (1.5, (None, 6.0, 20.0)), (2.0, (None, 6.0, 20.0)))


def requests(seed: int, spread: float, cap: float | None) -> float:
    """The candidate's requests until ``fail``; infinite for never."""
    rng, seen = np.random.default_rng(seed), [RewardSums(), RewardSums()]
    ranges = {} if cap is None else {"m": (0.0, cap)}
    for look in range(LOOKS):
        for place, (n, buying) in enumerate(((BASELINE, 0.05), (CANDIDATE, 0.03))):
            values = np.where(rng.random(n) < buying, rng.lognormal(0, spread, n), 0.0)
            seen[place] += RewardSums.of(values if cap is None else np.minimum(values, cap))
        first, second = (
            Evidence(s.count, rewards={"m": s}, kinds={"m": "real"}, ranges=ranges) for s in seen
        )
        if judge(RAIL, first, second, 0.05 / 3, forecast=False).verdict == "fail":
            return float((look + 1) * CANDIDATE)
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=24)
    runs: int = parser.parse_args().runs
    print("| spread (σ) of the amounts | cap | requests: median (80 %) |\n|---|---|---|")
    for spread, caps in WORLDS:
        for cap in caps:
            found = np.asarray([requests(seed, spread, cap) for seed in range(runs)])
            ends = (np.median(found), np.quantile(found, 0.8, method="higher"))
            median, most = ("–" if np.isinf(x) else f"{x:,.0f}" for x in ends)
            print(f"| {spread:g} | {'none' if cap is None else f'{cap:g}'} | {median} ({most}) |", flush=True)


if __name__ == "__main__":
    main()
