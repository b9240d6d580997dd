"""Guardrails: whether the candidate is shown to be no worse than the baseline by a margin.

Four verdicts: ``pass`` (shown to be within the limit), ``fail`` (shown to be
beyond it), ``inconclusive`` (the data can't tell yet) and ``error`` (could not look). The limit is the
non-inferiority margin: pass means that the whole interval is on the good side of it, fail that the whole
interval is on the bad side.

All intervals are always-valid: looking each second, and stopping at any moment, costs
nothing. Comparison is with the concurrent baseline of the same epoch only, never with history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from policies.rollout.verdicts import Guardrail, Levels, Outcome, Verdict
from policies.sequential import asymptotic
from policies.sequential.betting import Bets, Block, Limit, WindowBets
from policies.sequential.latency import Edges
from policies.sequential.metric_comparison import (
    Evidence,
    Interval,
    MetricComparison,
    check_counts,
    error_martingale,
    known_beforehand,
    measure,
)
from policies.sequential.two_sample import RateMartingale, difference_interval, mean_interval
from policies.types import RewardSums

MAX_BASELINE_ERROR_RATE: Final = 0.2
"""A baseline whose error rate is shown to be above this can not be compared with."""
_HORIZON: Final = 10
"""Doublings of the data beyond which no estimate of what is missing is honest."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All guardrails at one moment. ``sick``: "" or why the baseline can't be compared with."""

    verdicts: tuple[Verdict, ...]
    sick: str = ""

    def doubted(self, reason: str) -> Judgement:
        """The same figures, of which nothing follows."""
        return Judgement(tuple(replace(v, verdict="error", reason=reason) for v in self.verdicts))


def judge_all(
    guardrails: Sequence[Guardrail],
    baseline: Evidence,
    candidate: Evidence,
    alpha: float | Levels,
    *,
    bets: WindowBets | None = None,
    edges: Edges | None = None,
    sick_above: float = MAX_BASELINE_ERROR_RATE,
    forecast: bool = True,
    shown: bool = True,
) -> Judgement:
    """Every guardrail, and whether the baseline itself is sick.

    A number ``alpha`` is split evenly over the guardrails and the check of the baseline (Bonferroni), so the
    probability that anything at all is said wrongly in this epoch, over all looks, is at most ``alpha``. With
    ``bets``, metrics of yes and no are decided by them. ``forecast``, ``shown``: as in `judge`.
    """
    levels = alpha if isinstance(alpha, Levels) else Levels.split(alpha, len(guardrails))

    def verdict(rail: Guardrail) -> Verdict:
        block = None if bets is None else outcomes(rail, baseline, candidate)
        limit = border(rail)
        bet = None if bets is None or block is None else bets.look(rail.key, limit, block)
        level = levels.fail if bet is None else levels.bet
        return judge(
            rail,
            baseline,
            candidate,
            level,
            levels.passing,
            bet=bet,
            edges=edges,
            forecast=forecast,
            shown=shown,
        )

    verdicts = tuple(map(verdict, guardrails))
    failed = any(verdict.verdict == "fail" for verdict in verdicts)
    sick = sick_baseline(baseline, candidate, levels.fail, failed=failed, limit=sick_above)
    return Judgement(verdicts, sick)


def outcomes(guardrail: Guardrail, baseline: Evidence, candidate: Evidence) -> Block | None:
    """What can be bet on: each variant's requests, and how many of them were worse; None for a metric that is not of
    yes and no, or where units are sticky: they come again in the next stage, so that its outcomes are not new."""
    if baseline.units is not None or candidate.units is not None:
        return None
    if guardrail.metric == "error_rate":
        each = [e.errors_by_unit for e in (baseline, candidate)]
    elif candidate.kind(guardrail.metric) == "boolean":
        each = [e.rewards.get(guardrail.metric, RewardSums()) for e in (baseline, candidate)]
    else:
        return None
    if any(s.count % 1 or s.total % 1 or not 0 <= s.total <= s.count for s in each):  # scaled, or corrected
        return None
    if guardrail.bound == "min_ratio":  # the limit is on baseline / candidate
        return Block((each[1].count, each[0].count), (each[1].total, each[0].total))
    worse = [s.count - s.total if guardrail.bound == "max_decrease" else s.total for s in each]
    return Block((each[0].count, each[1].count), (worse[0], worse[1]))


def border(guardrail: Guardrail) -> Limit:
    """Where the rates of `outcomes` lie exactly at the limit."""
    if guardrail.bound == "min_ratio":
        return Limit(factor=1 / max(guardrail.limit, 1e-9))
    return Limit(factor=guardrail.limit) if guardrail.bound == "max_ratio" else Limit(shift=guardrail.limit)


def sick_baseline(
    baseline: Evidence,
    candidate: Evidence,
    alpha: float,
    *,
    failed: bool = False,
    limit: float = MAX_BASELINE_ERROR_RATE,
) -> str:
    """ "" or why the baseline is the sick one.

    It is when its own error rate is shown to be above ``limit``; or when a guardrail ``failed`` while
    the baseline is shown to have more errors than the candidate (for example, it fails fast and so looks
    quicker): rolling back would then send users to the worse of the two.
    """
    try:
        check_counts(baseline)
        check_counts(candidate)
    except ValueError:
        return ""
    own = error_martingale(baseline)
    if not failed and float(own.centre) <= limit:
        return ""  # the lower end lies below the estimate
    low, _ = mean_interval(own, alpha)
    if low > limit:
        return f"the baseline's own error rate is above {100 * limit:.3g}% (at least {100 * low:.3g}%)"
    if failed:
        _, high = difference_interval(own, error_martingale(candidate), alpha)
        if high < 0:
            return "a guardrail failed, but the baseline has more errors than the candidate"
    return ""


def judge(
    guardrail: Guardrail,
    baseline: Evidence,
    candidate: Evidence,
    alpha: float,
    alpha_pass: float | None = None,
    *,
    bet: Bets | None = None,
    edges: Edges | None = None,
    forecast: bool = True,
    shown: bool = True,
) -> Verdict:
    """One guardrail's verdict: ``fail`` at level ``alpha``, ``pass`` at level ``alpha_pass`` (None: the same); for
    several guardrails see `judge_all`. Where there is a ``bet`` on the limit, it decides.

    ``edges`` gives the ends of a latency bucket in milliseconds; a latency guardrail needs it. ``forecast``:
    whether to work out how much more data an undecided verdict needs, which is most of the cost. ``shown``:
    whether intervals are computed on which nothing depends. Never raises: what can't be looked at is the verdict
    ``error`` with a reason.
    """
    try:
        measured = measure(guardrail.metric, baseline, candidate, ratio=guardrail.relative, edges=edges)
    except ValueError as fault:
        return could_not_look(guardrail, alpha, str(fault))
    unit: Literal["requests", "units"] = "requests" if candidate.units is None else "units"
    passing = alpha if alpha_pass is None else alpha_pass
    verdict = replace(
        _decide(guardrail, measured, alpha, passing, bet, spare=not forecast, shown=shown),
        unit=unit,
        adjusted_by=_adjusted_by(guardrail.metric, baseline, candidate),
        shares=candidate.kind(guardrail.metric) in ("boolean", "fraction"),
    )
    if verdict.verdict != "inconclusive" or not forecast:
        return verdict
    scale = _missing(guardrail, measured, passing) if candidate.requests else None
    return _forecast(verdict, scale, candidate.requests, candidate.seconds)


def _adjusted_by(metric: str, baseline: Evidence, candidate: Evidence) -> Literal["past", "covariate"] | None:
    if not known_beforehand(metric, baseline, candidate):
        return None
    return "covariate" if candidate.units is None else "past"


def could_not_look(guardrail: Guardrail, alpha: float, reason: str) -> Verdict:
    """The verdict ``error``: for when the evidence could not even be read."""
    return Verdict(guardrail.metric, "error", guardrail.bound, guardrail.limit, alpha, reason=reason)


def judge_agreement(
    agreeing: float,
    compared: float,
    at_least: float,
    alpha: float,
    alpha_pass: float | None = None,
    *,
    seconds: float = 0.0,
    forecast: bool = True,
) -> Verdict:
    """A shadow's gate: pass once the agreement rate is shown to be at least ``at_least``.

    ``agreeing`` of ``compared`` responses agreed, within ``seconds``; `Verdict.more_requests`
    counts compared responses.
    ``fail`` has the level ``alpha``, ``pass`` the level ``alpha_pass`` (None: the same).
    """
    passing = alpha if alpha_pass is None else alpha_pass

    def outcome(scale: float) -> Outcome:
        seen = RateMartingale(agreeing * scale, compared * scale)
        if mean_interval(seen, passing)[0] >= at_least:
            return "pass"
        return "fail" if mean_interval(seen, alpha)[1] < at_least else "inconclusive"

    rate = agreeing / compared if compared else None
    verdict = Verdict(
        "agreement",
        outcome(1.0),
        "at_least",
        at_least,
        alpha,
        rate,
        mean_interval(RateMartingale(agreeing, compared), passing),
        candidate=rate,
        samples=compared,
        alpha_pass=passing,
    )
    if verdict.verdict != "inconclusive" or not compared or not forecast:
        return verdict
    scale = _enough(lambda k: outcome(k) == "inconclusive")
    return _forecast(verdict, scale, compared, seconds)


def judge_alone(evidence: Evidence, at_most: float, alpha: float) -> Verdict:
    """An error rate without a baseline to compare with, against an absolute limit.

    For the time after promotion, when the baseline gets no traffic: ``fail`` once the rate is shown to be
    above ``at_most``.
    """
    try:
        check_counts(evidence)
    except ValueError as fault:
        return Verdict("error_rate", "error", "at_most", at_most, alpha, reason=str(fault))
    interval = mean_interval(RateMartingale(evidence.errors, evidence.requests), alpha)
    outcome: Outcome = "fail" if interval[0] > at_most else "inconclusive"
    if interval[1] <= at_most:
        outcome = "pass"
    rate = evidence.errors / evidence.requests if evidence.requests else None
    verdict = Verdict("error_rate", outcome, "at_most", at_most, alpha, rate, interval)
    return replace(verdict, candidate=rate, samples=evidence.requests)


# From the interval to the verdict --------------------------------------------------------------------


def _decide(
    guardrail: Guardrail,
    measured: MetricComparison,
    alpha: float,
    alpha_pass: float,
    bet: Bets | None,
    *,
    spare: bool,
    shown: bool,
) -> Verdict:
    """``spare``: the interval of what a bet has not decided is left out; not ``shown``: all that nothing depends on."""
    seen = measured.samples and measured.baseline_samples
    decided = bet is not None and _by_bet(bet, alpha, alpha_pass) != "inconclusive"
    needed = seen and (bet is None or (shown if decided else not spare))
    coarse = None
    if needed and bet is None and not shown and measured.side is not None:
        coarse = measured.side(guardrail.threshold, alpha_pass, 1.0)
    interval = coarse or (measured.ends(alpha_pass) if needed else None)
    outcome = _outcome(guardrail, measured, interval, alpha, alpha_pass, bet)
    reason = _reason(guardrail, measured, interval, bet)
    if measured.samples < guardrail.min_samples:
        outcome = "inconclusive"
    return Verdict(
        guardrail.metric,
        outcome,
        guardrail.bound,
        guardrail.limit,
        alpha,
        _estimate(guardrail, measured),
        None if coarse else interval,
        _known(measured.baseline),
        _known(measured.candidate),
        measured.samples,
        reason if outcome == "inconclusive" else "",
        alpha_pass=alpha_pass,
        e_value=None if bet is None else math.exp(min(bet.above, 700.0)),
    )


def _outcome(
    guardrail: Guardrail,
    measured: MetricComparison,
    interval: Interval | None,
    alpha: float,
    alpha_pass: float,
    bet: Bets | None,
) -> Outcome:
    if bet is not None:
        return _by_bet(bet, alpha, alpha_pass)
    outcome: Outcome = guardrail.outcome(interval) if interval is not None else "inconclusive"
    if outcome == "fail" and alpha < alpha_pass:
        strict = measured.ends(alpha)
        outcome = "inconclusive" if strict is None else guardrail.outcome(strict)
    return outcome


def _by_bet(bet: Bets, alpha: float, alpha_pass: float) -> Outcome:
    if bet.above >= -math.log(alpha):
        return "fail"
    return "pass" if bet.below >= -math.log(alpha_pass) else "inconclusive"


def _estimate(guardrail: Guardrail, measured: MetricComparison) -> float | None:
    if not guardrail.relative:
        return _known(measured.candidate - measured.baseline)
    return measured.candidate / measured.baseline if measured.baseline > 0 else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _reason(
    guardrail: Guardrail, measured: MetricComparison, interval: Interval | None, bet: Bets | None
) -> str:
    if not measured.samples or not measured.baseline_samples:
        which = "candidate" if not measured.samples else "baseline"
        return f"nothing was observed of the {which} yet"
    if measured.samples < guardrail.min_samples:
        return f"{measured.samples:g} of {guardrail.min_samples} samples"
    if interval is None and bet is None:
        return (
            f"each variant needs {asymptotic.MIN_VALUES} values, and they must vary"
            if not guardrail.relative
            else f"each variant needs {asymptotic.MIN_VALUES} values, and the baseline's mean must be above 0"
        )
    return "the data do not tell yet on which side of the limit it is"


def _missing(guardrail: Guardrail, measured: MetricComparison, alpha: float) -> float | None:
    """How many times the data it takes for the interval to leave the limit, if both go on exactly as so far."""
    if not (measured.samples and measured.baseline_samples):
        return None

    def undecided(scale: float) -> bool:
        coarse = measured.side and measured.side(guardrail.threshold, alpha, scale)
        interval = coarse or measured.ends(alpha, scale)
        return interval is None or guardrail.outcome(interval) == "inconclusive"

    least = guardrail.min_samples / measured.samples
    scale = _enough(undecided, max(2.0, least))
    return None if scale is None else max(scale, least)


def _enough(undecided: Callable[[float], bool], high: float = 2.0) -> float | None:
    """Roughly the least scale that decides; None where no honest one can be had."""
    low = 1.0
    for _ in range(_HORIZON):
        if not undecided(high):
            break
        low, high = high, high * 2
    else:
        return None
    for _ in range(3):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if undecided(middle) else (low, middle)
    return high


def _forecast(verdict: Verdict, scale: float | None, requests: float, seconds: float) -> Verdict:
    if scale is None:
        return verdict
    more = _rounded((scale - 1) * requests)
    return replace(
        verdict, more_requests=more, minutes=more / requests * seconds / 60 if seconds > 0 else None
    )


def _rounded(requests: float) -> int:
    """To two digits, upwards: it is said with "about"."""
    step = 10.0 ** max(0, math.floor(math.log10(max(requests, 1.0))) - 1)
    return round(math.ceil(requests / step) * step)
