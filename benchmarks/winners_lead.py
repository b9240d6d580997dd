"""How much the lead of a winner overstates the truth when it is named: as observed, shrunk, and shrunk later.

`python -m benchmarks.winners_lead [--runs 60]`: two variants with equal shares, looked at every 100 requests of each
by `policies.allocation.bandit.refresh` with the default stop rule, 10,000 requests of each at most until then. "Later"
is after as many requests again, as while a person is asked.
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


def leads(gain: float, runs: int) -> Iterator[tuple[Lead, Lead | None]]:
    """The lead of "new", whose rate is higher by ``gain``, in each run that names it the winner, and the later one."""
    rng = np.random.default_rng(1)
    for _ in range(runs):
        good, named, lead = np.zeros(2), 0, None
        for look in range(1, 2 * STEPS + 1):
            good += rng.binomial(STEP, [RATE, RATE + gain])
            if (look > STEPS and not named) or (named and look < 2 * named):
                continue
            sums = {
                (v, "good"): RewardSums(look * STEP, t, t) for v, t in zip(PLAN.variants, good, strict=True)
            }
            standing = refresh(PLAN, Learned(sums=sums))[1]
            if lead is not None:
                yield lead, standing.lead if standing.stopped == "new" else None
                break
            if standing.stopped == "new":
                named, lead = look, standing.lead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    print("| rates | winners | observed / truth | shrunk / truth | still named later | shrunk then / truth |")
    print("|---|---|---|---|---|---|")
    for gain in (0.02, 0.05):
        found = list(leads(gain, runs))
        later = [after for _, after in found if after is not None]
        observed = np.mean([lead.difference for lead, _ in found]) / gain
        shrunk, then = (np.mean([lead.shrunk for lead in of]) / gain for of in ([x for x, _ in found], later))
        row = f"{RATE:.0%}, {RATE + gain:.0%} | {len(found)} | {observed:.2f} | {shrunk:.2f}"
        print(f"| {row} | {len(later)} | {then:.2f} |", flush=True)


if __name__ == "__main__":
    main()
