"""How much the lead of a winner overstates the truth when it is named: as observed, and shrunk.

`python -m benchmarks.winners_lead [--runs 60]`: two variants with equal shares, looked at every 100 requests of each
by `policies.allocation.bandit.refresh` with the default stop rule, 10,000 requests of each at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from policies.allocation.bandit import Bandit, Objective, Stop, refresh
from policies.allocation.model import Learned
from policies.sequential.winner import Lead
from policies.types import RewardSums

RATE, STEP, STEPS = 0.1, 100, 100
PLAN = Bandit(("old", "new"), (Objective("good"),), stop=Stop())


def leads(gain: float, runs: int) -> Iterator[Lead]:
    """The lead of "new", whose rate is higher by ``gain``, in each run that names it the winner."""
    rng = np.random.default_rng(1)
    for _ in range(runs):
        good = np.zeros(2)
        for look in range(1, STEPS + 1):
            good += rng.binomial(STEP, [RATE, RATE + gain])
            names = zip(PLAN.variants, good.tolist(), strict=True)
            sums = {(v, "good"): RewardSums(look * STEP, total, total) for v, total in names}
            standing = refresh(PLAN, Learned(sums=sums))[1]
            if standing.stopped is not None:
                if standing.stopped == "new" and standing.lead is not None:
                    yield standing.lead
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    print("| rates | winners | observed / truth | shrunk / truth |")
    print("|---|---|---|---|")
    for gain in (0.02, 0.05):
        found = list(leads(gain, runs))
        observed = np.mean([lead.difference for lead in found]) / gain
        shrunk = np.mean([lead.shrunk for lead in found]) / gain
        print(f"| {RATE:.0%}, {RATE + gain:.0%} | {len(found)} | {observed:.2f} | {shrunk:.2f} |", flush=True)


if __name__ == "__main__":
    main()
