"""Each policy in each synthetic world: the tables of docs/benchmarks_statistics.md, as Markdown.

    python -m benchmarks.worlds [--repetitions 100] [--refreshes 100] [--seed 1] [--world NAME]
                                [--requests 10000] [--policy NAME] [--stops | --rollouts | --features]

Everything comes from `policies.simulation.bandit`, `policies.simulation.contextual` and
`policies.simulation.rollout`, which run the policies' own code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from math import isfinite
from typing import Final

from policies.allocate import Plan
from policies.allocation.bandit import Bandit, Objective, Stop
from policies.allocation.fixed_plans import Canary, Split
from policies.contextual.bandit import Contextual
from policies.rollout.state import Plan as RolloutPlan
from policies.rollout.state import Stage
from policies.rollout.verdicts import Guardrail
from policies.simulation import bandit as simulate
from policies.simulation import contextual as simulate_contextual
from policies.simulation import rollout as simulate_rollout
from policies.simulation import worlds_contextual
from policies.simulation.bandit import Report
from policies.simulation.summary import Estimated
from policies.simulation.worlds import World, standard
from policies.simulation.worlds_contextual import ContextWorld

GOAL = (Objective("reward"),)


def bandit(world: World, **rest: object) -> Bandit:
    return Bandit(world.variants, GOAL, **rest)  # type: ignore[arg-type]


POLICIES: dict[str, Callable[[World], Plan]] = {
    "even split": lambda w: Split.of(dict.fromkeys(w.variants, 1.0)),
    "canary of the best, 10 %": lambda w: Canary(w.variants[0], w.variants[-1], 0.1),
    "thompson": lambda w: bandit(w, stop=Stop(0.99, alpha=None)),
    "thompson, floor 5 %": lambda w: bandit(w, floor=0.05, stop=Stop(0.99, alpha=None)),
    "top-two": lambda w: bandit(w, algorithm="top_two", stop=Stop(0.99, alpha=None)),
    "thompson, half-life 10 min": lambda w: bandit(w, floor=0.01, half_life=600.0),
    "thompson, stops at 99 %": lambda w: bandit(w, stop=Stop(0.99, then="single", alpha=None)),
}

SINGLE: Final = Stop(0.95, then="single")
STOPPING: dict[str, Callable[[World], Plan]] = {
    "top-two": lambda w: bandit(w, algorithm="top_two", stop=SINGLE),
    "thompson, floor 20 %": lambda w: bandit(w, floor=0.2, stop=SINGLE),
    "thompson, floor 5 %": lambda w: bandit(w, floor=0.05, stop=SINGLE),
}
"""With the default stop rule, which hands over to its winner."""


def linear(world: ContextWorld, **rest: float) -> Contextual:
    return Contextual(world.variants, "reward", world.features, **rest)  # type: ignore[arg-type]


WITH_FEATURES: dict[str, Callable[[ContextWorld], Plan]] = {
    "even split": lambda w: Split.of(dict.fromkeys(w.variants, 1.0)),
    "thompson, floor 1 %": lambda w: Bandit(w.variants, GOAL, floor=0.01),
    "thompson, half-life 10 min": lambda w: Bandit(w.variants, GOAL, floor=0.01, half_life=600.0),
    "linear, floor 1 %": lambda w: linear(w, floor=0.01),
    "linear, floor 5 %": lambda w: linear(w, floor=0.05),
    "linear, half-life 10 min": lambda w: linear(w, floor=0.01, half_life=600.0),
}


def number(x: float, digits: int = 0) -> str:
    return f"{x:,.{digits}f}" if isfinite(x) else "never"


def ranged(e: Estimated | None, digits: int = 0) -> str:
    return (
        ""
        if e is None
        else f"{number(e.value, digits)} ({number(e.low, digits)} to {number(e.high, digits)})"
    )


def percent(e: Estimated | None) -> str:
    return "" if e is None else f"{100 * e.value:.0f} % ({100 * e.low:.0f} to {100 * e.high:.0f})"


def when(e: Estimated | None) -> str:
    return "" if e is None else number(e.value)


def regrets(reports: dict[tuple[str, str], Report], worlds: list[str]) -> None:
    print("| policy | " + " | ".join(worlds) + " |")
    print("|---" * (len(worlds) + 1) + "|")
    for policy in dict.fromkeys(policy for policy, _ in reports):
        cells = [ranged(reports[policy, world].regret) for world in worlds]
        print(f"| {policy} | " + " | ".join(cells) + " |")


def details(reports: dict[tuple[str, str], Report], worlds: list[str]) -> None:
    print(
        "| world | policy | on the best | settled | after | bad one left | after "
        "| named a winner | wrongly | coverage |"
    )
    print("|---" * 10 + "|")
    for world in worlds:
        for policy in dict.fromkeys(policy for policy, _ in reports):
            r = reports[policy, world]
            cells = (
                percent(r.best_share),
                percent(r.settled),
                when(r.time_to_settle),
                percent(r.detected),
                when(r.time_to_detect),
                percent(r.stopped),
                percent(r.false_alarms),
                percent(r.coverage),
            )
            print(f"| {world} | {policy} | " + " | ".join(cells) + " |")


def allocations(
    plans: dict[str, Callable[[World], Plan]],
    requests: int,
    repetitions: int,
    refreshes: int,
    seed: int,
    only: list[str],
    policies: list[str],
) -> None:
    worlds = {name: world for name, world in standard(requests=requests).items() if not only or name in only}
    reports = {}
    for name, world in worlds.items():
        for policy, plan in plans.items():
            if policies and policy not in policies:
                continue
            note(f"{name}: {policy}")
            reports[policy, name] = simulate.run(
                plan(world), world, repetitions=repetitions, refreshes=refreshes, seed=seed
            )
    print("Regret (95 % interval):\n")
    regrets(reports, list(worlds))
    print("\nThe rest:\n")
    details(reports, list(worlds))


def with_features(repetitions: int, refreshes: int, seed: int, only: list[str]) -> None:
    worlds = worlds_contextual.standard()
    print("| world | policy | regret | beyond the best single variant | on the best | mean weight |")
    print("|---" * 6 + "|")
    for name, world in worlds.items():
        for policy, plan in WITH_FEATURES.items():
            if only and name not in only:
                continue
            note(f"{name}: {policy}")
            r = simulate_contextual.run(
                plan(world), world, repetitions=repetitions, refreshes=refreshes, seed=seed
            )
            cells = ranged(r.regret), ranged(r.regret_single), percent(r.best_share), ranged(r.weight, 2)
            print(f"| {name} | {policy} | " + " | ".join(cells) + " |", flush=True)


def rollouts(repetitions: int, seed: int, only: list[str]) -> None:
    plan = RolloutPlan("v1", "v2", (Stage(0.05, 600, 500), Stage(0.25, 600, 500), Stage(0.5, 600)))
    rails = (
        Guardrail("error_rate", max_increase=0.01),
        Guardrail("latency_p95", max_ratio=1.3),
        Guardrail("correct", max_decrease=0.03),
    )
    print(
        "| candidate | promoted | rolled back | other | end after, s | detected after, s | requests to it |"
    )
    print("|---" * 7 + "|")
    for name, world in simulate_rollout.standard().items():
        if only and name not in only:
            continue
        note(name)
        tick = 10.0 if world.rate > 1 else 600.0
        r = simulate_rollout.run(plan, rails, world, repetitions=repetitions, tick=tick, seed=seed)
        other = ", ".join(
            f"{k} {percent(v)}" for k, v in r.ended.items() if k not in ("promoted", "rolled_back")
        )
        cells = (
            percent(r.ended.get("promoted")) or "0",
            percent(r.ended.get("rolled_back")) or "0",
            other,
            when(r.time_to_end),
            when(r.time_to_detect),
            ranged(r.exposed),
        )
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def note(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Each policy in each synthetic world.")
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--refreshes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--world", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--policy", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--stops", action="store_true", help="the default stop rule instead")
    parser.add_argument("--rollouts", action="store_true", help="canary rollouts instead")
    parser.add_argument("--features", action="store_true", help="worlds whose requests have features instead")
    given = parser.parse_args()
    if given.features:
        with_features(given.repetitions, given.refreshes, given.seed, given.world)
    elif given.rollouts:
        rollouts(given.repetitions, given.seed, given.world)
    else:
        plans = STOPPING if given.stops else POLICIES
        allocations(
            plans, given.requests, given.repetitions, given.refreshes, given.seed, given.world, given.policy
        )


if __name__ == "__main__":
    main()
