"""How many requests a canary's verdicts on rates need: `python -m benchmarks.requests_needed [--runs 100]`.

Prints the table of docs/guardrails.md: the bets themselves on simulated outcomes, the level of a rollout with
`--guardrails` (three: 5 % / 3) for `fail` and 5 % for `pass`. One fixed look: a z-test at 5 % with 80 % power,
two-sided for `fail`, one-sided for `pass`.
"""

from __future__ import annotations

import argparse
import math
from typing import Literal

import numpy as np
from scipy.stats import norm

from policies.sequential.betting import Bets, Block, Limit

ROWS: tuple[tuple[float, float, float, float, Literal["fail", "pass"]], ...] = (
    (0.1, 0.12, 0.5, 0.0, "fail"),
    (0.1, 0.12, 0.1, 0.0, "fail"),
    (0.01, 0.06, 0.5, 0.0, "fail"),
    (0.01, 0.06, 0.1, 0.0, "fail"),
    (0.01, 0.02, 0.1, 0.0, "fail"),
    (0.001, 1.0, 0.01, 0.005, "fail"),
    (0.001, 0.05, 0.1, 0.005, "fail"),
    (0.01, 0.03, 0.1, 0.005, "fail"),
    (0.01, 0.02, 0.5, 0.005, "fail"),
    (0.001, 0.001, 0.1, 0.005, "pass"),
    (0.01, 0.01, 0.1, 0.005, "pass"),
    (0.01, 0.01, 0.5, 0.005, "pass"),
)
"""Baseline's rate, candidate's rate, the candidate's share, `max_increase`, the verdict."""
LOOKS = 120


def one_look(p: float, q: float, share: float, limit: float, verdict: str) -> float:
    """Requests to the route."""
    z = norm.isf(0.025 if verdict == "fail" else 0.05) + norm.isf(0.2)
    return float(z * z * (p * (1 - p) / (1 - share) + q * (1 - q) / share) / (q - p - limit) ** 2)


def run(
    rng: np.random.Generator,
    p: float,
    q: float,
    share: float,
    limit: float,
    verdict: str,
    per: int,
    guardrails: int,
) -> float:
    """The route's requests until the verdict."""
    bets, n, yes = Bets(Limit(shift=limit)), np.zeros(2), np.zeros(2)
    alpha = 0.05 / guardrails if verdict == "fail" else 0.05
    for look in range(1, LOOKS + 1):
        mine = rng.binomial(per, share)
        new = np.asarray([per - mine, mine])
        n, yes = n + new, yes + rng.binomial(new, (p, q))
        bets.look(Block((float(n[0]), float(n[1])), (float(yes[0]), float(yes[1]))))
        if (bets.above if verdict == "fail" else bets.below) >= -math.log(alpha):
            return float(look * per)
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--guardrails", type=int, default=3)
    given = parser.parse_args()
    runs = given.runs
    print(
        "| baseline, candidate, limit | share | verdict | candidate's requests: median (80 %) | over one fixed look |"
    )
    print("|---|---|---|---|---|")
    for p, q, share, limit, verdict in ROWS:
        fixed = one_look(p, q, share, limit, verdict)
        per = max(1, math.ceil(8 * max(fixed, 10 / share) / LOOKS))
        found = sorted(
            run(np.random.default_rng(seed), p, q, share, limit, verdict, per, given.guardrails)
            for seed in range(runs)
        )
        middle, most = found[runs // 2], found[runs * 4 // 5]
        print(
            f"| {p:.1%}, {q:.1%}, {limit:.1%} | {share:.0%} | {verdict} | {middle * share:,.0f} ({most * share:,.0f}) "
            f"| {'–' if fixed < 10 else format(most / fixed, '.2f')} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
