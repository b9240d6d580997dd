"""How many requests a canary's verdicts on rates need: `python -m benchmarks.requests_needed [--runs 100] [--sound]`.

Prints the table of docs/guardrails.md or, with `--sound`, that of 45 sound candidates, from which the page quotes a
range: the bets themselves on simulated outcomes, the level of a rollout with `--guardrails` (three: 5 % / 3) for `fail`
and 5 % for `pass`. One fixed look at 5 % with 80 % power, two-sided for `fail`, one-sided for `pass`: a z-test, or an
exact test that knows the baseline's rate where that needs more. A z-test promises too much of rare events: no error in
the 275 requests that it asks for at 0.1 % does not even show less than 1 %.
"""

from __future__ import annotations

import argparse
import math
from typing import Literal

import numpy as np
from scipy.stats import binom, norm

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
SOUND = tuple(
    (rate, rate, share, limit, "pass")
    for rate in (0.0001, 0.001, 0.003, 0.01, 0.05)
    for limit in (0.002, 0.005, 0.01)
    for share in (0.05, 0.1, 0.5)
)
LOOKS = 120


POWER = 0.8


def z_look(p: float, q: float, share: float, limit: float, verdict: str) -> float:
    """Requests to the route until one z-test of the limit."""
    z = norm.isf(_level(verdict)) + norm.isf(1 - POWER)
    return float(z * z * (p * (1 - p) / (1 - share) + q * (1 - q) / share) / (q - p - limit) ** 2)


def exact_look(p: float, q: float, share: float, limit: float, verdict: str) -> float:
    """Requests to the route until one exact test of the candidate's rate against ``p + limit``."""
    most = 5 * z_look(p, q, share, limit, verdict) * share + 20 / max(p + limit, q)
    n = np.arange(1, math.ceil(most))
    if verdict == "fail":
        power = binom.sf(binom.isf(_level(verdict), n, p + limit), n, q)
    else:
        power = binom.cdf(binom.ppf(_level(verdict), n, p + limit) - 1, n, q)
    return float(n[power >= POWER][0] / share)


def _level(verdict: str) -> float:
    return 0.025 if verdict == "fail" else 0.05


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


def _rate(rate: float) -> str:
    return f"{100 * rate:.3g}%" if rate < 0.001 else f"{rate:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--guardrails", type=int, default=3)
    parser.add_argument("--sound", action="store_true", help="candidates as good as their baseline")
    given = parser.parse_args()
    runs = given.runs
    print(
        "| baseline, candidate, limit | share | verdict | candidate's requests: median (80 %) | of one fixed look "
        "| 80 % over it |"
    )
    print("|---|---|---|---|---|---|")
    for p, q, share, limit, verdict in SOUND if given.sound else ROWS:
        normal = z_look(p, q, share, limit, verdict)
        fixed = max(normal, exact_look(p, q, share, limit, verdict))
        per = max(1, math.ceil(8 * max(fixed, 10 / share) / LOOKS))
        found = sorted(
            run(np.random.default_rng(seed), p, q, share, limit, verdict, per, given.guardrails)
            for seed in range(runs)
        )
        middle, most = found[runs // 2], found[runs * 4 // 5]
        of_look = f"{fixed * share:,.0f}{' (exact)' if fixed > normal else ''}"
        ratio = "–" if fixed * share < 10 else f"{most / fixed:.2f}"
        print(
            f"| {_rate(p)}, {_rate(q)}, {limit:.1%} | {share:.0%} | {verdict} "
            f"| {middle * share:,.0f} ({most * share:,.0f}) | {of_look} | {ratio} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
