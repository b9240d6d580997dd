"""What adjusting by a covariate of the request (`metrics.NAME.adjust`) is worth, and whether it keeps the level.

`python -m benchmarks.covariates [--runs 500] [--only alarms|requests|moved]` prints the tables of
docs/benchmarks_statistics.md. Each request has a covariate, clipped to its declared range and rounded as decision ids
carry it, and a value that depends on it; a guardrail whose limit is no difference at all is looked at by
`policies.rollout.guardrails.judge_all`, as it is in the gateway. Where shares moved, the looks are those of `lift`, at
the weighted sums.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.false_alarms import Pair, Rng, shown
from policies.contextual.features import GRID
from policies.rollout.guardrails import judge_all
from policies.rollout.verdicts import Guardrail, Levels
from policies.sequential.adjusted import Paired
from policies.sequential.betting import WindowBets
from policies.sequential.design_based import Period, Periods
from policies.sequential.metric_comparison import Evidence, compare_adjusted, compare_weighted
from policies.types import MetricType, PairSums, RewardSums

Floats = npt.NDArray[np.float64]

LEVELS = (0.05, 0.004)
SHARES = (0.01, 0.05, 0.5)
LOOKS = 24
RAIL = Guardrail("m", max_decrease=0.0)
ASPECTS = ("y", "x", "known", "both")


@dataclass(frozen=True, slots=True)
class World:
    """``draw``: (chance, requests, loss) to their covariates, as they are sent (NaN: none), and their values."""

    name: str
    kind: MetricType
    draw: Callable[[Rng, int, float], tuple[Floats, Floats]]
    greatest: float = 1.0
    """The covariate's declared range begins at 0 and ends here."""
    loss: float = 0.1
    """Part by which a worse candidate's mean is lower, for the requests needed."""


def _yes(spread: float, mean: float = 0.5) -> Callable[[Rng, int, float], tuple[Floats, Floats]]:
    """The chance of a yes lies within ``spread`` of the mean, and the covariate tells it."""

    def draw(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
        x = rng.random(n)
        chance = mean + spread * (2 * x - 1)
        return x, (rng.random(n) < chance * (1 - loss)).astype(float)

    return draw


def _normal(correlation: float) -> Callable[[Rng, int, float], tuple[Floats, Floats]]:
    def draw(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
        level = rng.normal(0, correlation, n)
        return 0.5 + level / 8, 1 - loss + level + rng.normal(0, (1 - correlation**2) ** 0.5, n)

    return draw


def _cost(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
    """Grows with the size of the prompt, which is lognormal 1.5, and with an answer of lognormal 1."""
    size = rng.lognormal(0, 1.5, n)
    return size, (0.3 * size + rng.lognormal(0, 1.0, n)) * (1 - loss)


def _revenue(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
    """One request in ten buys about what lies in the cart."""
    cart = rng.gamma(2, 10, n)
    return cart, np.where(rng.random(n) < 0.1 * (1 - loss), cart * rng.uniform(0.5, 1.5, n), 0.0)


def _irrelevant(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
    """A covariate without end that has nothing to do with lognormal values."""
    return np.abs(rng.standard_cauchy(n)), rng.lognormal(0, 1.0, n) * (1 - loss)


def _missing(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
    """As the cost, but that the greater half of the sizes is missing more often than not."""
    size, cost = _cost(rng, n, loss)
    return np.where((size > 1) & (rng.random(n) < 0.7), np.nan, size), cost


def _counts(rng: Rng, n: int, loss: float) -> tuple[Floats, Floats]:
    """Rare counts, ten times as frequent for some requests as for others."""
    rate = rng.choice((0.02, 0.2), n)
    return rate, rng.poisson(rate * (1 - loss)).astype(float)


WORLDS = (
    World("real, normal, correlation 0.5", "real", _normal(0.5)),
    World("real, normal, correlation 0.9", "real", _normal(0.9)),
    World("cost by a prompt's size, lognormal 1.5", "real", _cost, 20.0),
    World("revenue, 10 % buy, by the cart", "real", _revenue, 100.0, 0.4),
    World("count 0.02 or 0.2, by the rate", "count", _counts, loss=0.2),
    World("lognormal 1, irrelevant, Cauchy covariate", "real", _irrelevant, 1e6),
    World("cost, most greater sizes missing", "real", _missing, 20.0),
)
BOOLEANS = (
    World("boolean 50 %, ± 20 points", "boolean", _yes(0.2)),
    World("boolean 50 %, ± 46 points", "boolean", _yes(0.46)),
    World("boolean 5 %, ± 5 points", "boolean", _yes(0.05, 0.05), loss=0.3),
)
"""Not adjusted in the gateway: the reason why."""


def looks(world: World, rng: Rng, share: float, per: int, loss: float = 0.0) -> Iterator[Pair]:
    """The evidence after each look at ``per`` more requests."""
    seen = [(RewardSums(), PairSums()), (RewardSums(), PairSums())]
    for _ in range(LOOKS):
        m = int(rng.binomial(per, share))
        for place, (n, less) in enumerate(((per - m, 0.0), (m, loss))):
            x, known, y = _drawn(world, rng, n, less)
            seen[place] = seen[place][0] + RewardSums.of(y), seen[place][1] + PairSums.of(x, y[known])
        first, second = (
            Evidence(values.count, rewards={"m": values}, kinds={"m": world.kind}, before={"m": pairs})
            for values, pairs in seen
        )
        yield first, second


def _drawn(world: World, rng: Rng, n: int, loss: float) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    """The covariates as ids carry them, which requests have one, and all values."""
    sent, y = world.draw(rng, n, loss)
    known = ~np.isnan(sent)
    return np.round((2 * np.clip(sent[known] / world.greatest, 0, 1) - 1) * GRID) / GRID, known, y


def explained(world: World) -> float:
    """The part of the variance of the values that the covariate explains."""
    x, known, y = _drawn(world, np.random.default_rng(1), 200_000, 0.0)
    z = np.zeros(len(y))
    z[known] = x - x.mean()
    return float(np.corrcoef(z, y)[0, 1] ** 2)


def plain(evidence: Evidence) -> Evidence:
    """The same without the covariate."""
    return replace(evidence, before={})


def said(pairs: Iterator[Pair], level: float, bets: WindowBets | None = None) -> tuple[str, float]:
    """The first verdict and the candidate's requests until then; ("", infinite) for none."""
    for baseline, candidate in pairs:
        levels = Levels(level, level, level)
        judged = judge_all([RAIL], baseline, candidate, levels, bets=bets, forecast=False)
        verdict = judged.verdicts[0].verdict
        if verdict in ("fail", "pass"):
            return verdict, candidate.requests
    return "", float("inf")


def false_alarms(world: World, share: float, level: float, runs: int) -> int:
    """Runs of identical variants in which any verdict was given."""
    per = max(3_000, round(50 / share))
    return sum(
        said(looks(world, np.random.default_rng([11, run]), share, per), level)[0] != ""
        for run in range(runs)
    )


def requests(world: World, share: float, per: int, level: float, runs: int, *, adjust: bool) -> Floats:
    """The candidate's requests until ``fail``, by run; without adjustment rates are bet on."""
    found = []
    for run in range(runs):
        pairs = looks(world, np.random.default_rng([7, run]), share, per, world.loss)
        if adjust:
            found.append(said(pairs, level)[1])
        else:
            bets = WindowBets() if world.kind == "boolean" else None
            found.append(said(((plain(b), plain(c)) for b, c in pairs), level, bets)[1])
    return np.asarray(found)


def moved(world: World, rng: Rng) -> Iterator[Periods]:
    """What was recorded after every third of 60 moments: shares wander, and the level of the values rises and falls by
    four times their standard deviation, with a step upwards in the middle."""
    share, periods = 0.3, []
    spread = float(_drawn(world, np.random.default_rng(1), 100_000, 0.0)[2].std())
    for moment in range(60):
        share = float(np.clip(share + rng.normal(0, 0.08), 0.03, 0.9))
        level = spread * (2 * np.sin(moment / 9) + 3 * (moment > 30))
        m = int(rng.binomial(200, share))
        found = {}
        for variant, n in (("old", 200 - m), ("new", m)):
            x, known, y = _drawn(world, rng, n, 0.0)
            y += level
            pairs = PairSums.of(x, y[known])
            for aspect, part in zip(ASPECTS, (RewardSums.of(y), pairs.x, pairs.y, pairs.both), strict=True):
                found[variant, aspect] = part
        periods.append(Period({"old": 1 - share, "new": share}, found))
        if moment % 3 == 2:
            yield Periods(periods)


def excluded(world: World, run: int, *, adjust: bool) -> tuple[bool, float]:
    """Whether the interval of two identical variants left 0 at any look, and its width in the end."""
    wrong, width = False, np.nan
    for periods in moved(world, np.random.default_rng([13, run])):
        parts = [periods.weighted(aspect, "old", "new") for aspect in ASPECTS]
        old, new = (Paired(*of_variant) for of_variant in zip(*parts, strict=True))
        of_both = (
            compare_adjusted(old, new, ratio=False)
            if adjust
            else compare_weighted(old.values, new.values, ratio=False)
        )
        ends = of_both.interval(LEVELS[0], 1.0)
        if ends is not None:
            wrong, width = wrong or not ends[0] <= 0 <= ends[1], ends[1] - ends[0]
    return wrong, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--only", choices=("alarms", "requests", "moved"))
    given = parser.parse_args()
    if given.only in (None, "alarms"):
        print_alarms(given.runs)
    if given.only in (None, "requests"):
        print_requests(given.runs // 10)
    if given.only in (None, "moved"):
        print_moved(given.runs)


def print_alarms(runs: int) -> None:
    """The table of false alarms."""
    print("| identical variants | share | at 5 % | at 0.4 % |\n|---|---|---|---|")
    for world in WORLDS:
        for share in SHARES:
            cells = (shown(false_alarms(world, share, level, runs), runs) for level in LEVELS)
            print(f"| {world.name} | {share:.0%} | {' | '.join(cells)} |", flush=True)


def print_requests(runs: int) -> None:
    """The table of requests needed: median and 80 % quantile."""
    print("| loss | explained | share | not adjusted | adjusted | ratio of the medians |")
    print("|---|---|---|---|---|---|")
    for world in (*WORLDS, *BOOLEANS):
        for share in (0.1, 0.5):
            found = [
                requests(world, share, round(300 / share), 0.05 / 3, runs, adjust=a) for a in (False, True)
            ]
            told = f"{world.name}, {world.loss:.0%} less | {explained(world):.0%} | {share:.0%}"
            print(f"| {told} | {described(*found)} |", flush=True)


def described(*found: Floats) -> str:
    """Median and 80 % quantile of the requests without adjustment and with it, and the ratio of the medians."""
    text = (f"{_count(np.median(x))} ({_count(np.quantile(x, 0.8, method='higher'))})" for x in found)
    before, after = (float(np.median(x)) for x in found)
    return f"{' | '.join(text)} | {'–' if np.isinf([before, after]).any() else f'{after / before:.2f}'}"


def print_moved(runs: int) -> None:
    """The table of intervals that were wrong at any look where shares and level moved."""
    print("| identical variants | not adjusted | adjusted | ratio of the widths |\n|---|---|---|---|")
    for world in WORLDS:
        found = [[excluded(world, run, adjust=adjust) for run in range(runs)] for adjust in (False, True)]
        cells = (shown(sum(wrong for wrong, _ in each), runs) for each in found)
        plain, adjusted = (float(np.mean([width for _, width in each])) for each in found)
        print(f"| {world.name} | {' | '.join(cells)} | {adjusted / plain:.2f} |", flush=True)


def _count(number: float) -> str:
    return "–" if np.isinf(number) else f"{number:,.0f}"


if __name__ == "__main__":
    main()
