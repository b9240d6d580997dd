"""How often the code that acts cries wolf over identical variants, looked at all the time.

`python -m benchmarks.false_alarms [--runs 500] [--only REGEX]` prints the table of
docs/benchmarks_statistics.md. Each cell is `runs` pairs of identical variants and a guardrail whose limit is no
difference at all, or a candidate that lies exactly at the limit; and a verdict of
`policies.rollout.guardrails.judge_all` at every look. A `fail` is a wrong rollback, a `pass` a wrong clearance.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import floor, log

import numpy as np
import numpy.typing as npt

from policies.rollout.guardrails import judge_all
from policies.rollout.verdicts import Guardrail, Levels
from policies.sequential.betting import WindowBets
from policies.sequential.metric_comparison import Evidence
from policies.sequential.stratified import StratifiedComparison, Stratum
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.simulation import summary
from policies.types import MetricType, RewardSums

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Draw = Callable[[Rng, int], Floats]
Pair = tuple[Evidence, Evidence]

SHARES = (0.01, 0.05, 0.1, 0.5)
LEVELS = (0.05, 0.004)
"""A test by itself, and about what a rollout with four guardrails in three windows leaves one of them."""
NO_DECREASE = Guardrail("m", max_decrease=0.0)
_RATIO = 1.02


@dataclass(frozen=True, slots=True)
class Cell:
    """One world: its name, the guardrail, and the evidence at each look of one run."""

    name: str
    rail: Guardrail
    run: Callable[[Rng], Iterator[Pair]]
    bets: bool = False


def edges(bucket: int) -> tuple[float, float]:
    return _RATIO**bucket, _RATIO ** (bucket + 1)


def _values(
    name: str,
    kind: MetricType,
    draw: Draw,
    share: float,
    looks: int = 24,
    worse: Draw | None = None,
    rail: Guardrail = NO_DECREASE,
) -> Cell:
    """``worse``: the candidate's values, whose mean lies at the limit of ``rail``."""
    size = max(12, round(3_000 * share))

    def run(rng: Rng) -> Iterator[Pair]:
        seen = [RewardSums(), RewardSums()]
        for _ in range(looks):
            for place, (draws, n) in enumerate(((draw, round(size / share) - size), (worse or draw, size))):
                seen[place] += RewardSums.of(draws(rng, n))
            first, second = (Evidence(s.count, rewards={"m": s}, kinds={"m": kind}) for s in seen)
            yield first, second

    return Cell(f"{name}, share {share:.0%}", rail, run, kind == "boolean")


def _errors(rate: float, share: float, limit: float = 0.0, looks: int = 36) -> Cell:
    """A storm that hits both in the middle; the bets go on over it. The candidate's rate lies at the limit."""
    per = round(min(6_000.0, 80 / share))

    def run(rng: Rng) -> Iterator[Pair]:
        counts = np.zeros((2, 2))
        for look in range(looks):
            now = min(0.3, 10 * rate) if looks // 3 <= look < looks // 2 else rate
            m = int(rng.binomial(per, share))
            for place, n in enumerate((per - m, m)):
                counts[place] += n, rng.binomial(n, now + place * limit)
            yield Evidence(*counts[0].tolist()), Evidence(*counts[1].tolist())

    beyond = f", candidate at the limit of {limit:.1%}" if limit else ""
    rail = Guardrail("error_rate", max_increase=limit)
    return Cell(f"error rate {rate:.1%}{beyond}, share {share:.0%}", rail, run, True)


def _latency(quantile: str, spread: float, share: float, looks: int = 10, limit: float = 1.0) -> Cell:
    """The candidate's latencies are ``limit`` times the baseline's."""

    def run(rng: Rng) -> Iterator[Pair]:
        seen = Counter[int](), Counter[int]()
        for _ in range(looks):
            for place, n in enumerate((800, max(1, round(800 * share / (1 - share))))):
                seen[place].update(_buckets(rng.lognormal(3, spread, n) * (1.0, limit)[place]))
            first, second = (Evidence(sum(h.values()), latency=dict(h)) for h in seen)
            yield first, second

    beyond = f", candidate at the limit of {limit:.3g} times" if limit > 1 else ""
    name = f"latency_{quantile}, lognormal {spread:g}{beyond}, share {share:.0%}"
    return Cell(name, Guardrail(f"latency_{quantile}", max_ratio=limit), run)


def _bandit(quantile: str, looks: int = 6, strata: int = 20) -> Cell:
    """A share that wanders about 6 %: matched strata."""

    def run(rng: Rng) -> Iterator[Pair]:
        matched, share = StratifiedComparison(), 0.06
        for _ in range(looks):
            for _ in range(strata):
                share = float(np.clip(share + rng.normal(0, 0.01), 0.02, 0.2))
                m = int(rng.binomial(80, share))
                sides = [Counter(_buckets(rng.lognormal(3, 1.0, n))) for n in (80 - m, m)]
                matched.add(*(Stratum(sum(h.values()), latency=dict(h)) for h in sides))
            yield matched.evidence({}, 60.0)

    return Cell(
        f"bandit, latency_{quantile}, share 6 %", Guardrail(f"latency_{quantile}", max_ratio=1.0), run
    )


def _users(metric: str, users: int, icc: float, looks: int = 8, limit: float = 0.0) -> Cell:
    """Sticky users whose k-th sends requests in proportion to 1 / k; the candidate's rate lies at the limit."""

    def run(rng: Rng) -> Iterator[Pair]:
        variant = np.where(rng.random(users) < 0.2, "v2", "v1").tolist()
        rates = rng.beta(0.03 * (1 / icc - 1), 0.97 * (1 / icc - 1), users)
        rates += np.where(np.asarray(variant) == "v2", limit * (1 - rates) / 0.97, 0.0)
        slow = rng.normal(0, 0.5, users)
        activity = 1 / np.arange(1, users + 1)
        mixes = rng.integers(1, 2**62, users).tolist()
        outcomes = UnitOutcomes()
        for look in range(looks):
            who = rng.choice(users, 400, p=activity / activity.sum())
            failed = (rng.random(400) < rates[who]).tolist()
            buckets = _buckets(rng.lognormal(3 + slow[who], 0.3))
            outcomes.add(
                (mixes[u], float(look), variant[u], failed[k], buckets[k], 0.2, False)
                for k, u in enumerate(who.tolist())
            )
            sides = outcomes.whole()
            first, second = (
                Evidence(1e9, latency=side.latency, units=side.units or RewardSums())
                for side in (sides.get(v, Stratum()) for v in ("v1", "v2"))
            )
            yield first, second

    ratio = metric.startswith("latency")
    guardrail = Guardrail(metric, max_ratio=1.0) if ratio else Guardrail(metric, max_increase=limit)
    beyond = f", candidate at the limit of {limit:.1%}" if limit else ""
    return Cell(f"{users} users, icc {icc:g}, {metric}{beyond}, share 20 %", guardrail, run)


def _buckets(ms: Floats) -> list[int]:
    return [floor(x) for x in (np.log(ms) / log(_RATIO)).tolist()]


def _buying(p: float) -> Draw:
    return lambda rng, n: np.where(rng.random(n) < p, rng.lognormal(3, 0.8, n), 0.0)


MEANS: tuple[tuple[str, MetricType, Draw], ...] = (
    ("real, normal", "real", lambda rng, n: rng.normal(10, 3, n)),
    ("real, lognormal 1", "real", lambda rng, n: rng.lognormal(0, 1, n)),
    ("real, lognormal 2", "real", lambda rng, n: rng.lognormal(0, 2, n)),
    ("revenue, 0.5 % buy", "real", _buying(0.005)),
    ("revenue, 2 % buy", "real", _buying(0.02)),
    ("revenue, 10 % buy", "real", _buying(0.1)),
    ("count, Poisson 0.02", "count", lambda rng, n: rng.poisson(0.02, n).astype(float)),
    ("count, Poisson 5", "count", lambda rng, n: rng.poisson(5, n).astype(float)),
    ("count, bursts", "count", lambda rng, n: rng.negative_binomial(0.1, 1 / 6, n).astype(float)),
)


def _yes(p: float) -> Draw:
    return lambda rng, n: (rng.random(n) < p).astype(float)


def _poisson(mean: float) -> Draw:
    return lambda rng, n: rng.poisson(mean, n).astype(float)


def _lognormal(mean: float) -> Draw:
    return lambda rng, n: mean * rng.lognormal(0, 1, n)


def _beta(mean: float) -> Draw:
    return lambda rng, n: rng.beta(10 * mean, 10 * (1 - mean), n)


_POINTS_2 = Guardrail("m", max_decrease=0.02)
_TENTH = Guardrail("m", min_ratio=0.9)
AT_LIMIT: tuple[tuple[str, MetricType, Draw, Draw, Guardrail], ...] = (
    ("boolean 90 %, candidate at the limit of 2 points", "boolean", _yes(0.9), _yes(0.88), _POINTS_2),
    ("boolean 30 %, candidate at the limit of a tenth", "boolean", _yes(0.3), _yes(0.27), _TENTH),
    ("boolean 2 %, candidate at the limit of a tenth", "boolean", _yes(0.02), _yes(0.018), _TENTH),
    (
        "fraction, Beta(8, 2), candidate at the limit of 2 points",
        "fraction",
        _beta(0.8),
        _beta(0.78),
        _POINTS_2,
    ),
    ("real, lognormal 1, candidate at the limit of a tenth", "real", _lognormal(1), _lognormal(0.9), _TENTH),
    ("revenue, 2 % buy, candidate at the limit of a tenth", "real", _buying(0.02), _buying(0.018), _TENTH),
    ("revenue, 10 % buy, candidate at the limit of a tenth", "real", _buying(0.1), _buying(0.09), _TENTH),
    (
        "count, Poisson 0.05, candidate at the limit of a tenth",
        "count",
        _poisson(0.05),
        _poisson(0.045),
        _TENTH,
    ),
    ("count, Poisson 5, candidate at the limit of a tenth", "count", _poisson(5), _poisson(4.5), _TENTH),
)
"""The values of either variant, and the limit at which the candidate's mean lies."""


def cells() -> Iterator[Cell]:
    for name, kind, draw in MEANS:
        for share in SHARES:
            yield _values(name, kind, draw, share)
    for rate in (0.001, 0.01, 0.1):
        for share in SHARES:
            yield _errors(rate, share)
    yield _errors(0.01, 0.95)
    for rate in (0.001, 0.01):
        for share in (0.1, 0.5):
            yield _errors(rate, share, limit=0.005)
    for share in (0.05, 0.5):
        yield _values("fraction, Beta(8, 2)", "fraction", lambda rng, n: rng.beta(8, 2, n), share, looks=6)
    for quantile in ("p50", "p95", "p999"):
        yield _latency(quantile, 1.0, 0.05)
    for quantile in ("p95", "p99"):
        yield _bandit(quantile)
    for users, icc in ((300, 0.1), (3_000, 0.02)):
        for metric in ("error_rate", "latency_p95"):
            yield _users(metric, users, icc)
    for name, kind, draw, worse, rail in AT_LIMIT:
        for share in (0.05, 0.5):
            looks = 6 if kind == "fraction" else 24
            yield _values(name, kind, draw, share, looks, worse, rail)
    for quantile in ("p50", "p95", "p99"):
        yield _latency(quantile, 1.0, 0.1, limit=_RATIO**9)
    yield _users("error_rate", 300, 0.1, limit=0.02)


def measured(cell: Cell, runs: int, seed: int) -> dict[tuple[float, str], int]:
    """Runs in which each verdict was ever given, by (level, verdict)."""
    found: Counter[tuple[float, str]] = Counter()
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        bets = {level: WindowBets() for level in LEVELS}
        said: set[tuple[float, str]] = set()
        for pair in cell.run(rng):
            for level in LEVELS:
                if any((level, verdict) in said for verdict in ("fail", "pass")):
                    continue
                judged = judge_all(
                    [cell.rail],
                    *pair,
                    Levels(level, level, level),
                    bets=bets[level] if cell.bets else None,
                    edges=edges,
                    forecast=False,
                )
                said.add((level, judged.verdicts[0].verdict))
        found.update(said)
    return found


def shown(count: int, runs: int) -> str:
    """A share with its 95 % Clopper-Pearson interval."""
    value, low, high = summary.share(count, runs)
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose name this regular expression finds")
    given = parser.parse_args()
    print("| identical variants | fail at 5 % | pass at 5 % | fail at 0.4 % | pass at 0.4 % |")
    print("|---|---|---|---|---|")
    for cell in cells():
        if re.search(given.only, cell.name):
            found = measured(cell, given.runs, given.seed)
            columns = [shown(found[level, v], given.runs) for level in LEVELS for v in ("fail", "pass")]
            print(f"| {cell.name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
