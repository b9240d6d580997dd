"""How often early evidence of a sample-ratio mismatch holds a rollout, with a sound record and with a lossy one.

`python -m benchmarks.early_mismatch [--runs 2000]` prints the table of docs/benchmarks_statistics.md. The record loses
a part of the candidate's decisions; a rollout of three stages is looked at all the time, and pauses at the alarm.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from benchmarks.false_alarms import shown
from gateway.loops.early_mismatch import EARLY_ALPHA
from gateway.loops.ratio import ALPHA
from policies.sequential.srm import SampleRatio

STAGES = (0.05, 0.2, 0.5)
REQUESTS, LOOK_EVERY = 4_000, 40
"""Requests of a stage, and between two looks."""
LOSSES = (0.0, 0.05, 0.1, 0.2)


def rollout(lost: float, rng: np.random.Generator) -> set[str]:
    """What happens in one rollout: ``early`` at some look; ``held`` at the end of a stage; ``alarm``; ``promoted``."""
    ratio, seen = SampleRatio(), set[str]()
    for share in STAGES:
        recorded = share * (1 - lost) / (1 - share * lost)
        for _ in range(REQUESTS // LOOK_EVERY):
            number = int(rng.binomial(LOOK_EVERY, recorded))
            ratio.add({"v1": LOOK_EVERY - number, "v2": number}, {"v1": 1 - share, "v2": share})
            if ratio.mismatch(ALPHA):
                return seen | {"alarm"}
            if ratio.mismatch(EARLY_ALPHA):
                seen.add("early")
        if ratio.mismatch(EARLY_ALPHA):
            seen.add("held")
    return seen if ratio.mismatch(EARLY_ALPHA) else seen | {"promoted"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2_000, help="rollouts of each row")
    runs = parser.parse_args().runs
    print("| decisions of the candidate lost | ever e ≥ 20 | held at the end of a stage | alarm | promoted |")
    print("|---|---|---|---|---|")
    for lost in LOSSES:
        rng = np.random.default_rng(1)
        found = Counter(what for _ in range(runs) for what in rollout(lost, rng))
        each = " | ".join(shown(found[what], runs) for what in ("early", "held", "alarm", "promoted"))
        print(f"| {lost:.0%} | {each} |")


if __name__ == "__main__":
    main()
