"""What adjusting by the units' past (`metrics.NAME.adjust: past`) is worth, and whether it keeps the level.

`python -m benchmarks.unit_pasts [--runs 200] [--only alarms|requests|left]` prints the tables of
docs/benchmarks_statistics.md. A world has users whose activity follows a power law and whose levels differ; four in
five have a past of as many requests as they send later. Their variant follows from their point, and a guardrail whose
limit is no difference at all is looked at by `policies.rollout.guardrails.judge_all` after every 6,000 requests, as it
is in the gateway: each user is one observation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.covariates import LEVELS, LOOKS, described, plain, said
from benchmarks.false_alarms import Floats, Pair, Rng, shown
from policies.sequential.metric_comparison import Evidence
from policies.types import MetricType, PairSums, RewardSums

USERS = 12_000
PER_LOOK = 6_000
"""Requests between two looks."""


@dataclass(frozen=True, slots=True)
class World:
    """``levels``: (chance, number of users) to means; ``draw``: (chance, means, numbers) to sums of values."""

    name: str
    kind: MetricType
    levels: Callable[[Rng, int], Floats]
    draw: Callable[[Rng, Floats, npt.NDArray[np.int64]], Floats]
    loss: float
    """Part by which a worse candidate's means are lower, for the requests needed."""


def _yes(rng: Rng, means: Floats, n: npt.NDArray[np.int64]) -> Floats:
    return rng.binomial(n, np.clip(means, 0, 1)).astype(float)


def _spent(scatter: float) -> Callable[[Rng, Floats, npt.NDArray[np.int64]], Floats]:
    """Gamma distributed amounts of a user, with a standard deviation of ``scatter`` times their mean."""
    return lambda rng, means, n: np.asarray(
        rng.gamma(np.maximum(n, 1) / scatter**2, scatter**2 * means) * (n > 0)
    )


def _bought(rng: Rng, means: Floats, n: npt.NDArray[np.int64]) -> Floats:
    """One request in five buys."""
    buys = rng.binomial(n, 0.2)
    return np.asarray(rng.gamma(np.maximum(buys, 1) / 2, 2 * means) * (buys > 0))


def _beta(mean: float, icc: float) -> Callable[[Rng, int], Floats]:
    weight = 1 / icc - 1
    return lambda rng, n: rng.beta(mean * weight, (1 - mean) * weight, n)


def _lognormal(spread: float) -> Callable[[Rng, int], Floats]:
    return lambda rng, n: rng.lognormal(0, spread, n)


WORLDS = (
    World("boolean 30 %, icc 0.3", "boolean", _beta(0.3, 0.3), _yes, 0.15),
    World("boolean 3 %, icc 0.1", "boolean", _beta(0.03, 0.1), _yes, 0.3),
    World("real, users differ by lognormal 1", "real", _lognormal(1.0), _spent(2.0), 0.2),
    World("revenue, 20 % buy, users differ by lognormal 1", "real", _lognormal(1.0), _bought, 0.3),
    World("real, the same, scatter 1", "real", _lognormal(1.0), _spent(1.0), 0.1),
    World("real, the same, scatter 0.5", "real", _lognormal(1.0), _spent(0.5), 0.08),
)


def _users(
    world: World, rng: Rng, known: float = 0.8, longer: int = 1
) -> tuple[Floats, Floats, Floats, npt.NDArray[np.int64]]:
    """Each user's level, share of the requests, mean in the past, and number of requests in it: ``longer`` times as
    many as will follow."""
    power = np.arange(1, USERS + 1) ** -0.7
    activity: Floats = power / power.sum()
    means = world.levels(rng, USERS)
    n_before = rng.multinomial(PER_LOOK * LOOKS * longer, activity) * (rng.random(USERS) < known)
    return means, activity, world.draw(rng, means, n_before) / np.maximum(n_before, 1), n_before


def left(world: World, rng: Rng, longer: int) -> tuple[float, float]:
    """The part 1 - R² of the variance of the users' means after half of the requests that is left by a straight line
    through their past, and by one through their true level."""
    means, activity, past, n_before = _users(world, rng, longer=longer)
    n = rng.multinomial(PER_LOOK * LOOKS // 2, activity)
    y, x = world.draw(rng, means, n) / np.maximum(n, 1), np.zeros(USERS)
    seen, known = n > 0, (n > 0) & (n_before > 0)
    x[known] = past[known] - past[known].mean()
    by_past, by_level = (1 - float(np.corrcoef(z[seen], y[seen])[0, 1]) ** 2 for z in (x, means))
    return by_past, by_level


def looks(world: World, rng: Rng, share: float, loss: float = 0.0, known: float = 0.8) -> Iterator[Pair]:
    """The evidence after each look: the candidate's means are lower by the part ``loss``, and the part ``known`` of
    the users have a past."""
    means, activity, past, n_before = _users(world, rng, known)
    candidate = rng.random(USERS) < share
    means_now = means * np.where(candidate, 1 - loss, 1.0)
    n, total = np.zeros(USERS, np.int64), np.zeros(USERS)
    for _ in range(LOOKS):
        new = rng.multinomial(PER_LOOK, activity)
        n, total = n + new, total + world.draw(rng, means_now, new)
        sides = (_side(world, n, total, past, n_before, place) for place in (~candidate, candidate))
        yield next(sides), next(sides)


def _side(
    world: World,
    n: npt.NDArray[np.int64],
    total: Floats,
    past: Floats,
    n_before: npt.NDArray[np.int64],
    place: npt.NDArray[np.bool_],
) -> Evidence:
    seen = place & (n > 0)
    known = (n_before > 0)[seen]
    y, x = total[seen] / n[seen], past[seen]
    return Evidence(
        float(n[place].sum()),
        rewards={"m": RewardSums.of(y)},
        kinds={"m": world.kind},
        units=RewardSums(float(seen.sum())),
        before={"m": PairSums.of(x[known], y[known])},
    )


def false_alarms(world: World, share: float, level: float, runs: int, *, adjust: bool = True) -> int:
    """Runs of identical variants in which any verdict was given."""
    return sum(said(_chosen(world, run, share, 0.0, adjust=adjust), level)[0] != "" for run in range(runs))


def requests(world: World, share: float, loss: float, level: float, runs: int, *, adjust: bool) -> Floats:
    """The candidate's requests until ``fail``, by run."""
    return np.asarray(
        [said(_chosen(world, run, share, loss, adjust=adjust), level)[1] for run in range(runs)]
    )


def _chosen(world: World, run: int, share: float, loss: float, *, adjust: bool) -> Iterator[Pair]:
    for pair in looks(world, np.random.default_rng([7, run]), share, loss):
        yield pair if adjust else (plain(pair[0]), plain(pair[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", choices=("alarms", "requests", "left"))
    given = parser.parse_args()
    if given.only in (None, "alarms"):
        print_alarms(given.runs)
    if given.only in (None, "requests"):
        print_requests(given.runs // 5)
    if given.only in (None, "left"):
        print_left(given.runs // 20)


def print_alarms(runs: int) -> None:
    """The table of false alarms."""
    print("| identical variants | share | at 5 % | at 0.4 % |\n|---|---|---|---|")
    for world in WORLDS:
        for share in (0.05, 0.5):
            cells = (shown(false_alarms(world, share, level, runs), runs) for level in LEVELS)
            print(f"| {world.name} | {share:.0%} | {' | '.join(cells)} |", flush=True)


def print_requests(runs: int) -> None:
    """The table of requests needed: median and 80 % quantile."""
    print("| loss | share | not adjusted | adjusted | ratio of the medians |\n|---|---|---|---|---|")
    for world in WORLDS:
        for share in (0.2, 0.5):
            found = [requests(world, share, world.loss, 0.05 / 3, runs, adjust=a) for a in (False, True)]
            print(f"| {world.name}, {world.loss:.0%} less | {share:.0%} | {described(*found)} |", flush=True)


def print_left(runs: int) -> None:
    """The table of what is left of the variance."""
    print("| world | adjusted by the past | by a past ten times as long | by the user's true level |")
    print("|---|---|---|---|")
    for world in WORLDS:
        each = [
            [left(world, np.random.default_rng([7, run]), longer) for run in range(runs)]
            for longer in (1, 10)
        ]
        (past, level), (longer_past, _) = (np.mean(found, axis=0) for found in each)
        print(f"| {world.name} | {past:.2f} | {longer_past:.2f} | {level:.2f} |", flush=True)


if __name__ == "__main__":
    main()
