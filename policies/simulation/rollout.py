"""Canary rollouts in synthetic services, many times over: how often one is promoted, rolled back or left
undecided, how long that takes, and how many requests the candidate served until then.

The real state table (`policies.rollout.machine`) and the real verdicts (`policies.rollout.guardrails`) look at
every tick, at the level that the gateway uses. So the share of sound candidates that are rolled back *is* the
false-alarm rate under continuous peeking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, floor, inf, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from policies.rollout import client_errors
from policies.rollout.events import Tick
from policies.rollout.guardrails import Judgement, judge_agreement, judge_all
from policies.rollout.machine import step
from policies.rollout.state import Gate, Plan, State, begin, shadow_share
from policies.rollout.table import Status
from policies.rollout.verdicts import Guardrail
from policies.sequential.betting import WindowBets
from policies.sequential.metric_comparison import Evidence
from policies.simulation import summary
from policies.simulation.bandit import Progress
from policies.simulation.summary import Estimated, Plain
from policies.simulation.worlds import MAX_DRAWN_MEAN
from policies.types import CLIENT_ERROR_RATE, MetricType, RewardSums

REWARD = "correct"
"""The name of the boolean metric that services are rewarded by ..."""
COMPLAINT = "wrong"
"""... and of its opposite, to be kept low."""
SETTLES = 15_000.0
"""About as many of its requests as it takes to clear a sound candidate (docs/guardrails.md)."""
_RATIO = 1.02  # between the ends of a latency bucket
_ENDED = (Status.PROMOTED, Status.ROLLED_BACK, Status.HALTED, Status.PAUSED, Status.WAITING)


@dataclass(frozen=True, slots=True)
class Service:
    """How one variant truly behaves. Latency is log-normal with this median and spread (of the log)."""

    error_rate: float = 0.002
    client_error_rate: float = 0.01
    correct: float = 0.9
    latency_ms: float = 20.0
    spread: float = 0.4
    agrees: float = 0.995
    """The share of its responses that agree with the baseline's, for a gate."""


@dataclass(frozen=True, slots=True)
class ValueMetric:
    """A real or count metric: both true means, in its own unit, and the values around them.

    Reals are Gamma-distributed with standard deviation ``sd``: never negative, and the more skewed the larger ``sd``
    is against the mean (at ten times the mean nearly all values are next to 0, as revenue is). Counts are Poisson, or
    negative binomial if ``sd`` squared exceeds their mean.
    """

    name: str
    kind: Literal["real", "count"]
    baseline: float
    candidate: float
    sd: float
    limits: tuple[float, float] | None = None
    """What a cap cuts values to."""

    def __post_init__(self) -> None:
        if min(self.baseline, self.candidate, self.sd) <= 0:
            raise ValueError(f"the means and the standard deviation of {self.name!r} must be above 0")

    def draw(self, rng: np.random.Generator, mean: float, n: int) -> RewardSums:
        """Return the sums of ``n`` values around ``mean``."""
        excess = self.sd**2 - mean
        if self.kind == "real":
            values = rng.gamma((mean / self.sd) ** 2, self.sd**2 / mean, n)
        elif excess > 1e-9 * mean:
            values = rng.negative_binomial(mean**2 / excess, mean / self.sd**2, n).astype(float)
        else:
            values = rng.poisson(mean, n).astype(float)
        if self.limits is not None:
            values = np.clip(values, *self.limits)
        return RewardSums.of(values)


@dataclass(frozen=True, slots=True)
class CanaryWorld:
    """Both services, ``rate`` requests a second in all, for ``seconds`` at most.

    From ``turns_at`` seconds on the candidate behaves as ``turned``.
    """

    name: str
    baseline: Service
    candidate: Service
    rate: float = 50.0
    seconds: float = 7200.0
    turned: Service | None = None
    turns_at: float = inf
    reported: float = 1.0
    """The share of requests whose reward is reported."""
    values: tuple[ValueMetric, ...] = ()
    """Real and count metrics."""


@dataclass(frozen=True, slots=True)
class RolloutReport(Plain):
    """How ``repetitions`` rollouts ended. Times are seconds, infinite for never."""

    world: str
    repetitions: int
    seed: int | None
    ended: dict[str, Estimated]
    """Share of rollouts by final state; "running" where time was up, "bandit" where one took over: here it ends."""
    time_to_end: Estimated
    """Median."""
    time_to_detect: Estimated
    """Median until the rollback, from the beginning or from when the candidate turned."""
    exposed: Estimated
    """Mean number of requests that the candidate got until the end."""


def run(
    plan: Plan,
    guardrails: Sequence[Guardrail],
    world: CanaryWorld,
    *,
    repetitions: int = 100,
    tick: float = 10.0,
    seed: int | None = 0,
    alpha: float = 0.05,
    progress: Progress | None = None,
) -> RolloutReport:
    """Lets ``repetitions`` rollouts of ``plan`` run in ``world``, with a look every ``tick`` seconds.

    ``alpha`` is the false-alarm rate of a whole rollout, as in the gateway. Guardrails may be over
    error rates, latency quantiles, the boolean metrics `REWARD` and `COMPLAINT`, and the world's ``values``.
    Raises ValueError for a rate beyond what can be drawn.
    """
    if world.rate * tick > MAX_DRAWN_MEAN:
        raise ValueError(f"{world.rate:g} requests a second can't be simulated; write a smaller rate")
    rng = np.random.default_rng(seed)
    ends: list[tuple[State, float, float]] = []
    for repetition in range(repetitions):
        ends.append(_Trial(plan, guardrails, world, tick, alpha, rng).run())
        if progress is not None:
            progress(repetition + 1, repetitions)
    since = world.turns_at if world.turned is not None else 0.0
    # Before the candidate turned, a rollback is a false alarm, and detects nothing.
    rolled_back = [
        time - since if s.status is Status.ROLLED_BACK and time >= since else inf for s, time, _ in ends
    ]
    over = [time if s.status in _ENDED or s.competing is not None else inf for s, time, _ in ends]
    counts = Counter("bandit" if s.competing is not None else s.status.value for s, _, _ in ends)
    return RolloutReport(
        world.name,
        repetitions,
        seed,
        {name: summary.share(counts[name], repetitions) for name in (*Status, "bandit") if counts[name]},
        summary.median(over),
        summary.median(rolled_back),
        summary.mean([exposed for _, _, exposed in ends], within=(0.0, inf)),
    )


class _Trial:
    """One rollout: its state, and the evidence of the present window."""

    def __init__(
        self,
        plan: Plan,
        guardrails: Sequence[Guardrail],
        world: CanaryWorld,
        tick: float,
        alpha: float,
        rng: np.random.Generator,
    ) -> None:
        self.plan, self.guardrails, self.world, self.tick, self.rng = plan, guardrails, world, tick, rng
        self.levels = plan.levels(len(guardrails), alpha)
        self.bets = WindowBets()
        self.state = begin(plan, 0.0)
        self.latency = any(g.metric.startswith("latency_") for g in guardrails)
        guarded = any(g.metric == CLIENT_ERROR_RATE for g in guardrails)
        services = [one for one in (world.candidate, world.turned) if one is not None]
        rejects = any(one.client_error_rate > world.baseline.client_error_rate for one in services)
        self.refusals = guarded or rejects
        self.held = plan.levels(len(guardrails) + 1, alpha).fail if rejects and not guarded else None
        """Level at which client errors hold a stage; None if that is not to be looked at."""
        self.window = (_Window(), _Window())
        self.compared = self.agreeing = 0
        self.exposed = 0.0
        self.found = Judgement(())

    def run(self) -> tuple[State, float, float]:
        """The final state, when it was reached, and the candidate's requests until then."""
        now = 0.0
        while (
            now < self.world.seconds and self.state.status is Status.RUNNING and self.state.competing is None
        ):
            arrived = self._serve(now)
            now += self.tick
            self._look(now, fresh=arrived > 0 or not self.found.verdicts)
        return self.state, now, self.exposed

    def _serve(self, now: float) -> int:
        world, weight = self.world, self.state.weight
        turned = world.turned is not None and now >= world.turns_at
        candidate = world.turned if turned and world.turned is not None else world.candidate
        arrived = int(self.rng.poisson(world.rate * self.tick))
        share = shadow_share(self.state, self.plan)
        if share:
            copies = int(self.rng.binomial(arrived, share))
            self.compared += copies
            self.agreeing += int(self.rng.binomial(copies, candidate.agrees))
        mine = int(self.rng.binomial(arrived, weight))
        self.exposed += mine
        for window, service, n in zip(
            self.window, (world.baseline, candidate), (arrived - mine, mine), strict=True
        ):
            rewarded = window.serve(self.rng, service, n, world.reported, self.latency, self.refusals)
            for metric in world.values:
                mean = metric.baseline if window is self.window[0] else metric.candidate
                window.earn(metric, metric.draw(self.rng, mean, rewarded))
        return arrived

    def _look(self, now: float, *, fresh: bool) -> None:
        """Verdicts, and what the table makes of them. Not ``fresh``: the same evidence, the same verdicts."""
        gate = self.plan.gate if shadow_share(self.state, self.plan) else None
        if fresh:
            self.found = self._judged(now - self.state.window, gate)
        samples = self.window[1].requests if gate is None else self.compared
        event = Tick(self.found.verdicts, samples, self.found.sick, carried=self.bets.carried())
        before = self.state.window
        self.state, _ = step(self.state, event, self.plan, now)
        if self.state.window != before:
            self.window, self.found = (_Window(), _Window()), Judgement(())
            self.bets = WindowBets(self.state.carried)

    def _judged(self, seconds: float, gate: Gate | None) -> Judgement:
        if gate is not None:
            found = judge_agreement(
                self.agreeing,
                self.compared,
                gate.agreement,
                self.levels.bet,
                self.levels.passing,
                forecast=False,
            )
            return Judgement((found,))
        baseline, candidate = (window.evidence(seconds) for window in self.window)
        judgement = judge_all(
            self.guardrails,
            baseline,
            candidate,
            self.levels,
            bets=self.bets,
            edges=edges,
            forecast=False,
            shown=False,
        )
        if self.held is None:
            return judgement
        return client_errors.hold(judgement, baseline, candidate, self.held)


class _Window:
    """What one variant showed since the weight last changed."""

    def __init__(self) -> None:
        self.requests = self.errors = self.client_errors = self.rewarded = self.correct = 0
        self.latency: dict[int, float] = {}
        self.values: dict[str, tuple[ValueMetric, RewardSums]] = {}

    def earn(self, metric: ValueMetric, sums: RewardSums) -> None:
        known = self.values.get(metric.name, (metric, RewardSums()))[1]
        self.values[metric.name] = metric, known + sums

    def serve(
        self,
        rng: np.random.Generator,
        service: Service,
        n: int,
        reported: float,
        latency: bool,
        refusals: bool,
    ) -> int:
        """Serve ``n`` requests; return how many of them get a reward."""
        self.requests += n
        self.errors += int(rng.binomial(n, service.error_rate))
        if refusals:
            self.client_errors += int(rng.binomial(n, service.client_error_rate))
        rewarded = int(rng.binomial(n, reported))
        self.rewarded += rewarded
        self.correct += int(rng.binomial(rewarded, service.correct))
        if latency and n:
            first, p = _buckets(service)
            counts = rng.multinomial(n, p)
            for k in np.flatnonzero(counts).tolist():
                self.latency[first + k] = self.latency.get(first + k, 0.0) + float(counts[k])
        return rewarded

    def evidence(self, seconds: float) -> Evidence:
        n, good = self.rewarded, self.correct
        sums = {REWARD: RewardSums(n, good, good), COMPLAINT: RewardSums(n, n - good, n - good)}
        kinds: dict[str, MetricType] = dict.fromkeys(sums, "boolean")
        sums[CLIENT_ERROR_RATE] = RewardSums(self.requests, self.client_errors, self.client_errors)
        ranges = {}
        for name, (metric, earned) in self.values.items():
            sums[name], kinds[name] = earned, metric.kind
            if metric.limits is not None:
                ranges[name] = metric.limits
        return Evidence(self.requests, self.errors, dict(self.latency), sums, kinds, seconds, ranges)


def edges(bucket: int) -> tuple[float, float]:
    """Milliseconds between which a bucket of the simulated histograms lies."""
    return _RATIO**bucket, _RATIO ** (bucket + 1)


def _buckets(service: Service) -> tuple[int, NDArray[np.float64]]:
    """The first bucket, and the probability of each from there on; the ends take what lies beyond."""
    step, reach = log(_RATIO), 5.0 * service.spread
    first = floor((log(service.latency_ms) - reach) / step)
    last = floor((log(service.latency_ms) + reach) / step)
    ends = np.arange(first + 1, last + 1) * step
    below = special.ndtr((ends - log(service.latency_ms)) / service.spread)
    return first, np.diff(np.concatenate([[0.0], below, [1.0]]))


def horizon(plan: Plan, rate: float) -> float:
    """Seconds in which a rollout should have come to its end, at ``rate`` requests a second: half as long again
    as a sound candidate takes, or as the plan has patience."""
    total = plan.gate.duration + 60 + plan.gate.min_samples / (rate * plan.gate.share) if plan.gate else 0.0
    for stage in plan.stages:
        samples = max(SETTLES, stage.min_samples) / (rate * max(min(stage.weight, 1 - stage.weight), 1e-3))
        needed = max(stage.duration, samples)
        total += needed if plan.patience is None else min(needed, stage.duration + plan.patience)
    return max(600.0, 1.5 * total)


def standard(rate: float = 50.0, seconds: float = 7200.0) -> dict[str, CanaryWorld]:
    """The worlds of the published table, by name."""
    sound = Service()
    worlds = (
        CanaryWorld("equal", sound, sound, rate, seconds),
        CanaryWorld("better", sound, Service(correct=0.93, latency_ms=18.0), rate, seconds),
        CanaryWorld("errors", sound, Service(error_rate=0.03), rate, seconds),
        CanaryWorld("slow", sound, Service(latency_ms=20.0 * exp(0.5)), rate, seconds),
        CanaryWorld("wrong responses", sound, Service(correct=0.8), rate, seconds),
        CanaryWorld("breaks later", sound, sound, rate, seconds, Service(error_rate=0.2), seconds / 10),
        CanaryWorld("sick baseline", Service(error_rate=0.4), sound, rate, seconds),
        CanaryWorld("ten an hour", sound, sound, 10 / 3600, 200 * seconds),
        CanaryWorld("ten an hour, dead", sound, Service(error_rate=1.0), 10 / 3600, 200 * seconds),
    )
    return {world.name: world for world in worlds}
