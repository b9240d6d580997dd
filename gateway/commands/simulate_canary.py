"""``turnout simulate`` of a canary: candidates of several kinds, with the rollout's own state table and verdicts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from math import exp
from statistics import NormalDist
from typing import Final

from gateway.commands.remote import print_json
from gateway.commands.simulate_shown import Progress, chosen, say, shown
from gateway.compile.plans import plan_of, rail_of
from gateway.config.document import CanaryConfig, MetricConfig
from policies.rollout.state import Plan
from policies.rollout.verdicts import Guardrail
from policies.simulation import rollout as simulate_rollout
from policies.simulation.rollout import CanaryWorld, RolloutReport, Service

CANDIDATES: Final = {
    "sound": Service(),
    "better": Service(error_rate=0.001, correct=0.95, latency_ms=15.0),
    "failing": Service(error_rate=0.03),
    "slower": Service(latency_ms=35.0),
    "less accurate": Service(correct=0.82, agrees=0.9),
}
"""What the candidate is like; the baseline is sound."""
_STOPS: Final = (
    "the simulation ends where the bandit takes over; to follow that, simulate a route with it as its policy"
)
_LEFT_OUT: Final = (
    "{} is left out: it is a {}, and what its values are like is not known here; 'turnout plan' says how many "
    "requests it needs"
)
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
    rollout = plan_of(section)
    every = [rail_of(rail) for rail in section.guardrails]
    unknown = [r for r in every if r.metric in metrics and metrics[r.metric].type in ("real", "count")]
    rails = [rail for rail in every if rail not in unknown]
    notes = [note for note in map(_note, rails) if note]
    notes += [_LEFT_OUT.format(rail.metric, metrics[rail.metric].type) for rail in unknown]
    if rollout.bandit is not None:
        notes.append(_STOPS)
    reports = [
        _simulated(arguments, rollout, [_known(rail) for rail in rails], world)
        for world in chosen(list(CANDIDATES), arguments.world)
    ]
    worlds_assume = [assumed(report.world, [_known(rail) for rail in rails]) for report in reports]
    if arguments.json:
        worlds = [
            {**report.as_dict(), "assumed": text} for report, text in zip(reports, worlds_assume, strict=True)
        ]
        print_json({"route": name, "policy": "canary", "worlds": worlds, "notes": notes})
    else:
        _table(reports, worlds_assume + notes)
    return 0


def _refuse(arguments: argparse.Namespace) -> None:
    for option in ("plot", "means", "metric"):
        if getattr(arguments, option) is not None:
            raise ValueError(
                f"--{option} means nothing to a canary: its candidates are {', '.join(CANDIDATES)}; leave it out"
            )


def _simulated(
    arguments: argparse.Namespace, rollout: Plan, rails: list[Guardrail], name: str
) -> RolloutReport:
    rate = arguments.rate
    seconds = arguments.requests / rate if arguments.requests else simulate_rollout.horizon(rollout, rate)
    return simulate_rollout.run(
        rollout,
        rails,
        CanaryWorld(name, Service(), CANDIDATES[name], rate=rate, seconds=seconds),
        repetitions=arguments.repetitions,
        tick=max(10.0, seconds / LOOKS),
        seed=arguments.seed,
        progress=Progress(name),
    )


def _observed(rail: Guardrail) -> bool:
    return rail.metric == "error_rate" or rail.metric.startswith("latency_")


def _known(rail: Guardrail) -> Guardrail:
    """The simulated services have one metric: the share of good responses, or of bad ones if less is better."""
    if _observed(rail):
        return rail
    opposite = rail.max_decrease is None
    return replace(rail, metric=simulate_rollout.COMPLAINT if opposite else simulate_rollout.REWARD)


def _note(rail: Guardrail) -> str:
    if _observed(rail):
        return ""
    said = "bad responses, usually 10 %" if rail.max_decrease is None else "good responses, usually 90 %"
    return f"{rail.metric} is simulated as the share of {said}: 82 % good in the less accurate"


def assumed(name: str, rails: list[Guardrail]) -> str:
    """What is true in a candidate's world, and which limits that exceeds."""
    made, sound = CANDIDATES[name], Service()
    exceeded = ", ".join(sorted({rail.metric for rail in rails if not _holds(rail, made, sound)}))
    return (
        f"{name}: {made.error_rate:.1%} errors, median latency {made.latency_ms:g} ms, {made.correct:.0%} good "
        f"(baseline: {sound.error_rate:.1%}, {sound.latency_ms:g} ms, {sound.correct:.0%}); "
        + (f"beyond your limits: {exceeded}" if exceeded else "within your limits")
    )


def _holds(rail: Guardrail, candidate: Service, baseline: Service) -> bool:
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
    if metric == "error_rate":
        return service.error_rate
    return service.correct if metric == simulate_rollout.REWARD else 1.0 - service.correct


def _table(reports: list[RolloutReport], notes: list[str]) -> None:
    say(f"{'candidate':16}{'ended':>60}{'seconds to roll back':>32}{'its requests':>26}")
    for r in reports:
        ended = ", ".join(f"{state} {e.value:.0%}" for state, e in r.ended.items())
        say(f"{r.world:16}{ended:>60}{shown(r.time_to_detect):>32}{shown(r.exposed):>26}")
    for note in notes:
        say(note)
