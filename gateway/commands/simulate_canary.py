"""``turnout simulate`` of a canary: candidates of several kinds, with the rollout's own state table and verdicts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from math import exp, isfinite
from statistics import NormalDist
from typing import Final, Literal

from gateway.commands.output import print_json, say, table
from gateway.commands.simulate_shown import Progress, chosen, shown
from gateway.compile.plans import plan_of, rail_of
from gateway.config.policy import CanaryConfig
from gateway.config.service import MetricConfig
from policies.rollout.state import Plan
from policies.rollout.verdicts import Guardrail
from policies.simulation import rollout as simulate_rollout
from policies.simulation.rollout import CanaryWorld, RolloutReport, Service, ValueMetric
from policies.types import CLIENT_ERROR_RATE, ERROR_RATES

CANDIDATES: Final = {
    "sound": Service(),
    "better": Service(error_rate=0.001, correct=0.95, latency_ms=15.0),
    "failing": Service(error_rate=0.03),
    "rejecting": Service(client_error_rate=0.06),
    "slower": Service(latency_ms=35.0),
    "less accurate": Service(correct=0.82, agrees=0.9),
}
"""What the candidate is like; the baseline is sound."""
_STOPS: Final = (
    "the simulation ends where the bandit takes over; to follow that, simulate a route with it as its policy"
)
_VALUE_CHANGE: Final = 0.2
"""Relative change of the mean of a real or count metric, in the candidates that are better or worse by it."""
LOOKS: Final = 500
"""Maximum number of looks in one run; the gateway looks each second."""


REPETITIONS: Final = 20
"""Of each candidate: a few seconds, and enough to tell "always" from "half of the time"."""


def run(
    arguments: argparse.Namespace, name: str, section: CanaryConfig, metrics: Mapping[str, MetricConfig]
) -> int:
    """Raises ValueError for options that mean nothing to a rollout."""
    _refuse(arguments)
    arguments.repetitions = arguments.repetitions or REPETITIONS
    rollout, to_confirm = _confirmed(plan_of(section))
    rails = [rail_of(rail) for rail in section.guardrails]
    valued = {
        r.metric: r for r in rails if r.metric in metrics and metrics[r.metric].type in ("real", "count")
    }
    means = _means(arguments.means, section, list(valued))
    values = {
        name: tuple(
            _value_metric(rail, metrics[rail.metric], means, arguments.sd, name) for rail in valued.values()
        )
        for name in chosen(list(CANDIDATES), arguments.world)
    }
    notes = [note for rail in rails if rail.metric not in valued and (note := _note(rail))]
    if to_confirm:
        notes.append(f"stages that wait for a person are confirmed immediately: {to_confirm}")
    if rollout.bandit is not None:
        notes.append(_STOPS)
    known = [rail if rail.metric in valued else _known(rail) for rail in rails]
    reports = [_simulated(arguments, rollout, known, name, found) for name, found in values.items()]
    worlds_assume = [assumed(name, known, found) for name, found in values.items()]
    if arguments.json:
        worlds = [
            {**report.as_dict(), "assumed": text} for report, text in zip(reports, worlds_assume, strict=True)
        ]
        print_json({"route": name, "policy": "canary", "worlds": worlds, "notes": notes})
    else:
        _table(reports, worlds_assume + notes)
    return 0


def _refuse(arguments: argparse.Namespace) -> None:
    for option in ("plot", "metric"):
        if getattr(arguments, option) is not None:
            raise ValueError(
                f"--{option} means nothing to a canary: its candidates are {', '.join(CANDIDATES)}; leave it out"
            )


def _confirmed(plan: Plan) -> tuple[Plan, str]:
    """The plan without confirmations, and the shares of the stages that need one."""
    shares = ", ".join(f"{stage.weight:.1%}" for stage in plan.stages if stage.confirm)
    return replace(plan, stages=tuple(replace(stage, confirm=False) for stage in plan.stages)), shares


def _simulated(
    arguments: argparse.Namespace,
    rollout: Plan,
    rails: list[Guardrail],
    name: str,
    values: tuple[ValueMetric, ...],
) -> RolloutReport:
    rate = arguments.rate
    seconds = arguments.requests / rate if arguments.requests else simulate_rollout.horizon(rollout, rate)
    return simulate_rollout.run(
        rollout,
        rails,
        CanaryWorld(name, Service(), CANDIDATES[name], rate=rate, seconds=seconds, values=values),
        repetitions=arguments.repetitions,
        tick=max(10.0, seconds / LOOKS),
        seed=arguments.seed,
        progress=Progress(name),
    )


def _means(text: str | None, section: CanaryConfig, valued: list[str]) -> tuple[float, float | None]:
    """The baseline's mean, and the worse candidate's if it was given."""
    if text is None:
        return 1.0, None
    if not valued:
        raise ValueError("--means is for real and count metrics, and no guardrail is over one; leave it out")
    try:
        baseline, candidate = (float(part) for part in text.split(","))
        if not (isfinite(baseline) and isfinite(candidate)):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--means {text!r}: write the means of {section.baseline} and of a worse {section.candidate}, "
            "such as 2.5,2.1"
        ) from None
    return baseline, candidate


def _value_metric(
    rail: Guardrail, metric: MetricConfig, means: tuple[float, float | None], sd: float, name: str
) -> ValueMetric:
    """What a real or count metric is like in a candidate's world."""
    baseline, given = means
    change = _VALUE_CHANGE if _more_is_worse(rail) else -_VALUE_CHANGE
    worse = baseline * (1 + change) if given is None else given
    candidate = {"less accurate": worse, "better": baseline * (1 - change)}.get(name, baseline)
    kind: Literal["real", "count"] = "count" if metric.type == "count" else "real"
    return ValueMetric(rail.metric, kind, baseline, candidate, sd, metric.capped_range)


def _more_is_worse(rail: Guardrail) -> bool:
    return rail.bound in ("max_increase", "max_ratio")


def _observed(rail: Guardrail) -> bool:
    return rail.metric in ERROR_RATES or rail.metric.startswith("latency_")


def _known(rail: Guardrail) -> Guardrail:
    """The simulated services have one metric: the share of good responses, or of bad ones if less is better."""
    if _observed(rail):
        return rail
    metric = simulate_rollout.COMPLAINT if _more_is_worse(rail) else simulate_rollout.REWARD
    return replace(rail, metric=metric)


def _note(rail: Guardrail) -> str:
    if _observed(rail):
        return ""
    said = "bad responses, usually 10 %" if _more_is_worse(rail) else "good responses, usually 90 %"
    return f"{rail.metric} is simulated as the share of {said}: 82 % good in the less accurate"


def assumed(name: str, rails: list[Guardrail], values: tuple[ValueMetric, ...] = ()) -> str:
    """What is true in a candidate's world, and which limits that exceeds."""
    made, sound = CANDIDATES[name], Service()
    by_name = {metric.name: metric for metric in values}
    exceeded = ", ".join(sorted({rail.metric for rail in rails if not _holds(rail, made, sound, by_name)}))
    means = "".join(
        f"{m.name} {m.candidate:g} on average (baseline: {m.baseline:g}, standard deviation {m.sd:g}, "
        f"{'Gamma' if m.kind == 'real' else 'Poisson or wider'}); "
        for m in values
    )
    return (
        f"{name}: {made.error_rate:.1%} errors, {made.client_error_rate:.0%} client errors, "
        f"median latency {made.latency_ms:g} ms, {made.correct:.0%} good (baseline: {sound.error_rate:.1%}, "
        f"{sound.client_error_rate:.0%}, {sound.latency_ms:g} ms, {sound.correct:.0%}); {means}"
        + (f"beyond your limits: {exceeded}" if exceeded else "within your limits")
    )


def _holds(rail: Guardrail, candidate: Service, baseline: Service, values: Mapping[str, ValueMetric]) -> bool:
    if rail.metric in values:
        mine, other = values[rail.metric].candidate, values[rail.metric].baseline
    else:
        mine, other = _true(rail.metric, candidate), _true(rail.metric, baseline)
    found = {
        "max_increase": mine - other,
        "max_decrease": other - mine,
        "max_ratio": mine / other,
        "min_ratio": -mine / other,
    }
    limit = -rail.limit if rail.bound == "min_ratio" else rail.limit
    return found[rail.bound] <= limit


def _true(metric: str, service: Service) -> float:
    if metric.startswith("latency_p"):
        digits = metric.removeprefix("latency_p")
        return service.latency_ms * exp(service.spread * NormalDist().inv_cdf(float(f"0.{digits}")))
    if metric in ERROR_RATES:
        return service.error_rate if metric != CLIENT_ERROR_RATE else service.client_error_rate
    return service.correct if metric == simulate_rollout.REWARD else 1.0 - service.correct


def _table(reports: list[RolloutReport], notes: list[str]) -> None:
    rows = [
        (
            r.world,
            ", ".join(f"{state} {e.value:.0%}" for state, e in r.ended.items()),
            shown(r.time_to_detect),
            shown(r.exposed),
        )
        for r in reports
    ]
    table("{:16}{:>60}{:>32}{:>26}", ("candidate", "ended", "seconds to roll back", "its requests"), rows)
    for note in notes:
        say(note)
