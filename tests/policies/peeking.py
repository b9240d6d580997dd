"""How often each test cries wolf when it is looked at all the time, and how soon it sees a real difference.

`python tests/policies/peeking.py` prints the tables of docs/benchmarks_statistics.md and docs/guardrails.md;
the slow tests run the same with fewer repetitions. Everything is vectorised over repetitions, and exact: a
cheap upper bound of the evidence (its value at one pair of means that the claim allows) decides which
repetitions need the full evidence."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, chisquare, norm

from policies.rollout.events import Tick
from policies.rollout.guardrails import judge_all
from policies.rollout.machine import step
from policies.rollout.state import Plan, Stage, begin
from policies.rollout.table import Status
from policies.rollout.verdicts import Guardrail
from policies.sequential.asymptotic import MIN_VALUES, TUNING_VALUES, asymptotic_half_width
from policies.sequential.betting import WindowBets
from policies.sequential.metric_comparison import Evidence
from policies.sequential.mixtures import Floats
from policies.sequential.srm import SampleRatio
from policies.sequential.two_sample import (
    BoundedMartingale,
    RateMartingale,
    bounded_log_martingale,
    rate_log_martingale,
)
from policies.types import RewardSums
from tests.policies.oracles import evidence_against

ALPHA = 0.05
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Rates:
    """Error rates per look, shape (looks,), of both variants; ``share`` is the candidate's."""

    baseline: Floats
    candidate: Floats
    share: float
    batch: int
    """Requests to the route between two looks."""


def constant(baseline: float, candidate: float, share: float, looks: int, batch: int) -> Rates:
    return Rates(np.full(looks, baseline), np.full(looks, candidate), share, batch)


def counts(world: Rates, repetitions: int, rng: Rng) -> Iterator[tuple[Floats, Floats, Floats, Floats]]:
    """After each look: (errors, requests) of the baseline and of the candidate, each (repetitions,)."""
    total = np.zeros((4, repetitions))
    for p, q in zip(world.baseline, world.candidate, strict=True):
        n = rng.binomial(world.batch, world.share, repetitions)
        total[0] += rng.binomial(world.batch - n, p)
        total[1] += world.batch - n
        total[2] += rng.binomial(n, q)
        total[3] += n
        yield total[0].copy(), total[1].copy(), total[2].copy(), total[3].copy()


def refuted(s: Floats, n: Floats, t: Floats, m: Floats, limit: float, alpha: float) -> npt.NDArray[np.bool_]:
    """Where "candidate's rate - baseline's = limit" is refuted at ``alpha``; exact, and cheap where it is not."""
    x = np.clip((s + t - m * limit) / np.maximum(n + m, 1), 1e-9, min(1.0, 1 - limit) - 1e-9)
    bound = rate_log_martingale(x, s, n) + rate_log_martingale(x + limit, t, m)
    found = np.asarray(bound >= -math.log(alpha))
    if found.any():
        exact = evidence_against(
            RateMartingale(s[found], n[found]), RateMartingale(t[found], m[found]), shift=limit
        )
        found[found] = exact >= -math.log(alpha)
    return found


def error_rate(
    world: Rates, limit: float, repetitions: int, rng: Rng, alpha: float = ALPHA
) -> tuple[Floats, Floats]:
    """The candidate's requests at the first verdict, under `fail` or under `pass`; inf in the other, or in both."""
    fail, passed = np.full(repetitions, np.inf), np.full(repetitions, np.inf)
    for s, n, t, m in counts(world, repetitions, rng):
        open_ones = np.flatnonzero(np.isinf(fail) & np.isinf(passed))
        s, n, t, m = s[open_ones], n[open_ones], t[open_ones], m[open_ones]
        beyond = t / np.maximum(m, 1) - s / np.maximum(n, 1) > limit
        hit = refuted(s, n, t, m, limit, alpha)
        fail[open_ones] = np.where(hit & beyond, np.minimum(fail[open_ones], m), fail[open_ones])
        passed[open_ones] = np.where(hit & ~beyond, np.minimum(passed[open_ones], m), passed[open_ones])
    return fail, passed


def z_test(world: Rates, repetitions: int, rng: Rng, alpha: float = ALPHA) -> float:
    """The share of repetitions in which a fixed two-sided z-test of "equal rates" is ever significant."""
    ever, threshold = np.zeros(repetitions, dtype=bool), norm.isf(alpha / 2)
    for s, n, t, m in counts(world, repetitions, rng):
        pooled = (s + t) / np.maximum(n + m, 1)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n, 1) + 1 / np.maximum(m, 1)))
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.abs(t / np.maximum(m, 1) - s / np.maximum(n, 1)) / spread
        ever |= (z > threshold) & (np.minimum(n, m) >= 10)
    return float(ever.mean())


def bounded_means(looks: int, batch: int, repetitions: int, rng: Rng, alpha: float = ALPHA) -> float:
    """False alarms on "the means of two samples of Beta(8, 2) are equal", either side."""
    ever, total = np.zeros(repetitions, dtype=bool), np.zeros((6, repetitions))
    for _ in range(looks):
        for offset in (0, 3):
            x = rng.beta(8, 2, (repetitions, batch))
            total[offset] += batch
            total[offset + 1] += x.sum(axis=1)
            total[offset + 2] += (x * x).sum(axis=1)
        n, a, a2, m, b, b2 = total
        x0 = (a + b) / (n + m)
        first, second = RewardSums(n, a, a2), RewardSums(m, b, b2)  # type: ignore[arg-type]
        bound = bounded_log_martingale(x0, first) + bounded_log_martingale(x0, second)
        for i in np.flatnonzero((bound >= -math.log(alpha)) & ~ever):
            arms = [BoundedMartingale(RewardSums(*map(float, total[k : k + 3, i]))) for k in (0, 3)]
            ever[i] = float(evidence_against(arms[0], arms[1])) >= -math.log(alpha)
    return float(ever.mean())


def unbounded_means(
    looks: int,
    batch: int,
    repetitions: int,
    rng: Rng,
    draw: Callable[[tuple[int, int]], Floats],
    alpha: float = ALPHA,
) -> float:
    """False alarms of the asymptotic sequence on "both means are equal"."""
    ever, total = np.zeros(repetitions, dtype=bool), np.zeros((2, 3, repetitions))
    for _ in range(looks):
        for side in (0, 1):
            x = draw((repetitions, batch))
            total[side] += np.stack([np.full(repetitions, batch), x.sum(axis=1), (x * x).sum(axis=1)])
        n = total[:, 0]
        means = total[:, 1] / n
        spread = (total[:, 2] / n - means**2) / (n - 1)
        size = float(n.sum(axis=0)[0])
        half = asymptotic_half_width(size, size, alpha, TUNING_VALUES) * np.sqrt(spread.sum(axis=0))
        ever |= (np.abs(means[1] - means[0]) > half) & (n[0] >= MIN_VALUES)
    return float(ever.mean())


def quantiles(p: float, looks: int, batch: int, repetitions: int, rng: Rng, alpha: float = ALPHA) -> float:
    """An upper bound of the false alarms on "both p-quantiles are equal".

    The evidence at the true common quantile; the test takes the least over all values, which is smaller.
    """
    ever, below = np.zeros(repetitions, dtype=bool), np.zeros((2, repetitions))
    for look in range(1, looks + 1):
        below += rng.binomial(batch, p, (2, repetitions))
        n = np.full(repetitions, float(look * batch))
        logs = [rate_log_martingale(np.asarray(p), k, n) for k in below]
        ever |= logs[0] + logs[1] >= -math.log(alpha)
    return float(ever.mean())


def sample_ratio(
    looks: int, batch: int, repetitions: int, rng: Rng, alpha: float = ALPHA
) -> tuple[float, float]:
    """False alarms of `SampleRatio` and of a peeked fixed-share chi-squared, while the shares move as a bandit's."""
    alarms, chi = 0, 0
    for _ in range(repetitions):
        ratio, seen, ever, ever_chi, q = SampleRatio(), np.zeros(2), False, False, 0.5
        for _ in range(looks):
            n = int(rng.binomial(batch, q))
            ratio.add({"a": n, "b": batch - n}, {"a": q, "b": 1 - q})
            seen += (n, batch - n)
            ever = ever or ratio.mismatch(alpha)
            ever_chi = ever_chi or chisquare(seen).pvalue < alpha
            q = float(np.clip(q + rng.normal(0.005, 0.02), 0.05, 0.95))
        alarms, chi = alarms + ever, chi + ever_chi
    return alarms / repetitions, chi / repetitions


RAILS = (
    Guardrail("error_rate", max_increase=0.01),
    Guardrail("latency_p95", max_ratio=1.3),
    Guardrail("correct", max_decrease=0.05),
)
PLAN = Plan("v1", "v2", (Stage(0.1, min_samples=500), Stage(0.5, min_samples=500)), bake=0, patience=None)
GAMMA = 1.02


def edges(bucket: int) -> tuple[float, float]:
    return GAMMA**bucket, GAMMA ** (bucket + 1)


def observe(seen: Evidence, n: int, errors: float, slower: float, correct: float, rng: Rng) -> Evidence:
    """``seen`` and ``n`` more requests."""
    buckets = np.floor(np.log(slower * rng.lognormal(3, 0.4, n)) / math.log(GAMMA)).astype(int)
    right = float(rng.binomial(n, correct))
    return Evidence(
        seen.requests + n,
        seen.errors + float(rng.binomial(n, errors)),
        Counter(seen.latency) + Counter(buckets.tolist()),
        {"correct": seen.rewards.get("correct", RewardSums()) + RewardSums(n, right, right)},
        {"correct": "boolean"},
    )


def rollout(errors: float, slower: float, correct: float, rng: Rng, looks: int = 400) -> tuple[str, float]:
    """How one rollout of a candidate ends against 1 % errors and 90 % right, and the candidate's requests."""
    state, baseline, candidate, served = begin(PLAN, 0.0), Evidence(), Evidence(), 0.0
    bets = WindowBets()
    for look in range(1, looks + 1):
        n = int(rng.binomial(500, state.weight))
        baseline = observe(baseline, 500 - n, 0.01, 1.0, 0.9, rng)
        candidate = observe(candidate, n, errors, slower, correct, rng)
        served += n
        levels = PLAN.levels(len(RAILS), ALPHA)
        judged = judge_all(RAILS, baseline, candidate, levels, bets=bets, edges=edges, forecast=False)
        tick = Tick(judged.verdicts, candidate.requests, judged.sick, carried=bets.carried())
        state, effects = step(state, tick, PLAN, float(look))
        if state.status is not Status.RUNNING:
            return str(state.status), served
        if effects:
            baseline, candidate, bets = Evidence(), Evidence(), WindowBets(state.carried)
    return "undecided", served


def rollout_rows(scale: float, rng: Rng) -> Iterator[tuple[str, str]]:
    many = max(int(200 * scale), 10)
    worlds = [
        (0.01, 1.0, 0.9),
        (0.01, 1.5, 0.9),
        (0.04, 1.0, 0.9),
        (0.2, 1.0, 0.9),
        (0.01, 1.0, 0.8),
        (1.0, 1.0, 0.0),
    ]
    for errors, slower, correct in worlds:
        ends = [rollout(errors, slower, correct, rng) for _ in range(many)]
        found = Counter(end for end, _ in ends)
        served = sorted(n for _, n in ends)
        ended = ", ".join(f"{end} {count}" for end, count in found.most_common())
        exposed = f"{served[many // 2]:.0f} ({served[-(many // 10) or -1]:.0f})"
        yield f"{errors:.0%} errors, {slower:g} times as slow, {correct:.0%} right", f"{ended}; {exposed}"


def interval(share: float, repetitions: int) -> str:
    """A share of repetitions with its 95 % Clopper-Pearson interval."""
    k = round(share * repetitions)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, repetitions - k + 1))
    high = 1.0 if k == repetitions else float(beta.ppf(0.975, k + 1, repetitions - k))
    return f"{100 * share:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def false_alarm_rows(scale: float, rng: Rng) -> Iterator[tuple[str, str]]:
    many, looks = max(int(4_000 * scale), 50), max(int(2_000 * scale), 100)

    def share(name: str, world: Rates, limit: float) -> Iterator[tuple[str, str]]:
        fail, passed = error_rate(world, limit, many, rng)
        yield f"{name}: ever fail", interval(float(np.isfinite(fail).mean()), many)
        yield f"{name}: ever pass", interval(float(np.isfinite(passed).mean()), many)

    equal = constant(0.01, 0.01, 0.1, looks, 20)
    yield "fixed z-test, 1 % against 1 %, share 10 %", interval(z_test(equal, many, rng), many)
    pairs = constant(0.1, 0.1, 0.5, looks, 2)
    yield "fixed z-test, 10 % against 10 %, each pair", interval(z_test(pairs, many, rng), many)
    yield from share("error_rate, 1 % against 1 %, limit 0", equal, 0.0)
    yield from share(
        "error_rate, 1 % against 1.5 %, limit 0.5 %", constant(0.01, 0.015, 0.1, looks, 20), 0.005
    )
    yield from share("error_rate, 10 % against 10 %, each pair, limit 0", pairs, 0.0)
    yield from share(
        "error_rate, 0.1 % against 0.6 %, share 1 %", constant(0.001, 0.006, 0.01, looks, 100), 0.005
    )
    storm = np.full(looks, 0.01)
    storm[looks // 4 : looks // 3] = 0.3
    yield from share("error_rate, both 1 % with a storm of 30 %, limit 0", Rates(storm, storm, 0.1, 20), 0.0)
    few = max(many // 4, 50)
    yield "fraction metric, Beta(8, 2)", interval(bounded_means(looks // 4, 20, few, rng), few)

    def normal(size: tuple[int, int]) -> Floats:
        return rng.normal(10, 3, size)

    def skewed(size: tuple[int, int]) -> Floats:
        return rng.lognormal(0, 1, size)

    yield "real metric, normal", interval(unbounded_means(looks // 4, 10, few, rng, normal), few)
    yield "real metric, lognormal(0, 1)", interval(unbounded_means(looks // 4, 10, few, rng, skewed), few)
    for p in (0.5, 0.99):
        yield f"latency quantile {p}, upper bound", interval(quantiles(p, looks, 20, many, rng), many)
    runs = max(many // 10, 50)
    ratio, chi = sample_ratio(looks // 4, 50, runs, rng)
    yield "sample ratio, moving shares", interval(ratio, runs)
    yield "fixed chi-squared against 50:50, moving shares", interval(chi, runs)


def power_rows(scale: float, rng: Rng) -> Iterator[tuple[str, str]]:
    """Median (90th percentile) of the candidate's requests until the verdict, at alpha = 0.05 / 4."""
    many = max(int(500 * scale), 50)
    for baseline, candidate, share in [
        (0.001, 1.0, 0.01),
        (0.001, 0.5, 0.01),
        (0.01, 0.2, 0.1),
        (0.001, 0.05, 0.1),
        (0.001, 0.02, 0.1),
        (0.01, 0.03, 0.1),
        (0.01, 0.02, 0.5),
        (0.0, 0.0, 0.1),
        (0.001, 0.001, 0.1),
        (0.01, 0.01, 0.1),
        (0.01, 0.01, 0.5),
    ]:
        gap = abs(candidate - baseline - 0.005)
        rough = 12 * max(candidate * (1 - candidate), 0.002) / gap**2 + 40 / max(candidate, 0.02)
        looks = 400
        batch = max(1, int(8 * rough / share / looks))
        fail, passed = error_rate(
            constant(baseline, candidate, share, looks, batch), 0.005, many, rng, 0.0125
        )
        for outcome, at in (("fail", fail), ("pass", passed)):
            decided = np.isfinite(at).mean()
            if decided > 0.2:
                middle, late = np.quantile(at, [0.5, 0.9], method="higher")
                yield (
                    f"{baseline:.1%} against {candidate:.1%}, share {share:.0%}: {outcome}",
                    f"{middle:.0f} ({late:.0f}); decided in {decided:.0%}",
                )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--scale", type=float, default=1.0, help="share of the repetitions")
    options.add_argument("--seed", type=int, default=1)
    arguments = options.parse_args()
    rng = np.random.default_rng(arguments.seed)
    for rows in (false_alarm_rows, power_rows, rollout_rows):
        for name, value in rows(arguments.scale, rng):
            print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
