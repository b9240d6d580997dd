"""False alarms on the difference of identical variants whose shares and means move, looked at all the time.

`python -m benchmarks.moving_shares [--runs 500]` prints the table of docs/benchmarks_statistics.md. Both variants are
identical in every world. A run is false if zero, the true difference, is ever outside the 95 % interval: of the
design-based sequence (`policies.sequential.design_based`) and, to compare, of the pooled one, which
takes no notice of propensities.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from benchmarks.false_alarms import shown
from policies.sequential.design_based import WeightedSums, overlap_weights
from policies.sequential.metric_comparison import MetricComparison, compare_weighted
from policies.types import RewardSums

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Draw = Callable[[Rng, int, float], Floats]
"""(chance, number, level of the moment) to values."""
Share = Callable[["State", float], float]
"""(what was seen, time in [0, 1]) to the candidate's share."""

ALPHA = 0.05
PERIODS, REQUESTS = 120, 200
"""Periods of a run, each with its own shares, and requests of one."""
LOOK_EVERY = 4
"""Periods between two looks."""
FLOOR = 0.05


@dataclass(slots=True)
class State:
    """Sums of both variants so far."""

    baseline: RewardSums
    candidate: RewardSums


def bandit(state: State, time: float) -> float:
    """Thompson sampling on normal posteriors, with a floor."""
    b, c = state.baseline, state.candidate
    if min(b.count, c.count) < 2:
        return 0.5
    spread = sum(max(s.squares / s.count - s.mean**2, 1e-9) / s.count for s in (b, c))
    return float(FLOOR + (1 - 2 * FLOOR) * ndtr((c.mean - b.mean) / np.sqrt(spread)))


def ramp(state: State, time: float) -> float:
    """From 5 % to 95 %, whatever is seen."""
    return 0.05 + 0.9 * time


def constant(share: float) -> Share:
    return lambda state, time: share


def still(time: float) -> float:
    return 1.0


def rising(time: float) -> float:
    """A level that triples."""
    return 1.0 + 2.0 * time


def binary(rate: float) -> Draw:
    return lambda rng, n, level: (rng.random(n) < rate * level).astype(float)


def _revenue(rng: Rng, n: int, level: float) -> Floats:
    return np.where(rng.random(n) < 0.02 * level, rng.lognormal(3, 0.8, n), 0.0)


def _lognormal(rng: Rng, n: int, level: float) -> Floats:
    return rng.lognormal(0, 1, n) * level


def _poisson(rng: Rng, n: int, level: float) -> Floats:
    return rng.poisson(0.05 * level, n).astype(float)


METRICS: tuple[tuple[str, Draw], ...] = (
    ("boolean 1 %", binary(0.01)),
    ("boolean 30 %", binary(0.3)),
    ("real, lognormal 1", _lognormal),
    ("revenue, 2 % buy", _revenue),
    ("count, Poisson 0.05", _poisson),
)
SHARES: tuple[tuple[str, Share], ...] = (
    ("bandit", bandit),
    ("ramp 5 to 95 %", ramp),
    ("5 %", constant(0.05)),
)
LEVELS: tuple[tuple[str, Callable[[float], float]], ...] = (("constant", still), ("triples", rising))


def looks(
    rng: Rng, draw: Draw, share: Share, level: Callable[[float], float]
) -> Iterator[tuple[State, tuple[WeightedSums, WeightedSums]]]:
    """After each period: all sums until now, and the period's own, weighted."""
    state = State(RewardSums(), RewardSums())
    for period in range(PERIODS):
        time = period / PERIODS
        q = share(state, time)
        n = int(rng.binomial(REQUESTS, q))
        b, c = (RewardSums.of(draw(rng, size, level(time))) for size in (REQUESTS - n, n))
        state = State(state.baseline + b, state.candidate + c)
        weights = overlap_weights(np.asarray([[1 - q], [q]]))[:, 0].tolist()
        yield state, (WeightedSums.of(b, weights[0]), WeightedSums.of(c, weights[1]))


def excludes_zero(comparison: MetricComparison) -> bool:
    interval = comparison.interval(ALPHA, 1.0)
    return interval is not None and not interval[0] <= 0 <= interval[1]


def false_alarms(
    draw: Draw, share: Share, level: Callable[[float], float], runs: int, seed: int = 1
) -> tuple[int, int]:
    """Runs in which the true difference was ever outside the design-based, and outside the pooled interval."""
    design = pooled = 0
    for run in range(runs):
        wrong_design = wrong_pooled = False
        first = second = WeightedSums()
        for n, (state, period) in enumerate(looks(np.random.default_rng([seed, run]), draw, share, level), 1):
            first, second = first + period[0], second + period[1]
            if n % LOOK_EVERY:
                continue
            wrong_design = wrong_design or excludes_zero(compare_weighted(first, second, ratio=False))
            plain = (WeightedSums.of(sums, 1.0) for sums in (state.baseline, state.candidate))
            wrong_pooled = wrong_pooled or excludes_zero(compare_weighted(*plain, ratio=False))
        design, pooled = design + wrong_design, pooled + wrong_pooled
    return design, pooled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print("| identical variants | the candidate's share | level of both | weighted | pooled |")
    print("|---|---|---|---|---|")
    for name, draw in METRICS:
        for shares, share in SHARES:
            for levels, level in LEVELS:
                found = false_alarms(draw, share, level, given.runs, given.seed)
                columns = " | ".join(shown(count, given.runs) for count in found)
                print(f"| {name} | {shares} | {levels} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
