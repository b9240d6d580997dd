"""``turnout simulate``: a configured policy against synthetic worlds, with the very code that the gateway runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Final

from gateway.commands.remote import complain, print_json
from gateway.config.document import Canary, Document
from gateway.config.faults import ConfigError
from gateway.config.load import load_file
from gateway.config.plans import plan
from gateway.loops.rollout import plan_of, rail_of
from policies import simulate, simulate_rollout
from policies.allocate import Plan, allocate
from policies.bandit import Bandit
from policies.simulate_rollout import CanaryWorld, Service
from policies.summary import Estimated
from policies.worlds import World, standard

CANARIES: Final = {
    "sound": Service(),
    "better": Service(error_rate=0.001, correct=0.95, latency_ms=15.0),
    "failing": Service(error_rate=0.03),
    "slower": Service(latency_ms=35.0),
    "less accurate": Service(correct=0.82),
}
"""What the candidate is like; the baseline is sound."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--route", metavar="R", help="whose policy (the only route)")
    parser.add_argument("--world", action="append", metavar="NAME", help="once or more (all)")
    parser.add_argument("--means", metavar="A,B,…", help="true means of the variants, in their order")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="of one run (10000)")
    parser.add_argument("--rate", type=float, default=50.0, metavar="R", help="a second, for canaries (50)")
    parser.add_argument("--repetitions", type=int, default=100, metavar="N", help="of each world (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="regret over time as .svg or .png")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(arguments: argparse.Namespace) -> int:
    try:
        document = load_file(arguments.config)
        name = _route(document, arguments.route)
        section = document.routes[name].policy
        if isinstance(section, Canary):
            return _canary(arguments, section)
        return _shares(arguments, document, name)
    except (ConfigError, ValueError, OSError) as error:
        return complain(error)


def _route(document: Document, wanted: str | None) -> str:
    names = list(document.routes)
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None or wanted not in document.routes:
        raise ValueError(f"which route? write --route with one of: {', '.join(names)}")
    return wanted


def _chosen(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise ValueError(f"there is no world {unknown[0]!r}; known: {', '.join(names)}")
    return list(wanted or names)


# Policies that share traffic out ----------------------------------------------------------------------
def _shares(arguments: argparse.Namespace, document: Document, name: str) -> int:
    found = plan(document, name)
    variants = allocate(found).variants
    worlds = _worlds(found, variants, _means(arguments.means, variants), arguments.requests)
    reports = [
        simulate.run(
            found,
            worlds[world],
            repetitions=arguments.repetitions,
            seed=arguments.seed,
            progress=_Progress(world),
        )
        for world in _chosen(list(worlds), arguments.world)
    ]
    if arguments.plot is not None:
        _plot(reports, arguments.plot)
    if arguments.json:
        print_json(
            {
                "route": name,
                "policy": document.routes[name].policy.type,
                "worlds": [r.as_dict() for r in reports],
            }
        )
        return 0
    _print(_FORM.format("world", "regret", "even split", "best's share", "settled after", "false alarms"))
    for r in reports:
        row = (r.world, _shown(r.regret), f"{r.even_regret:.0f}", _shown(r.best_share, 3),
               _shown(r.time_to_settle), _shown(r.false_alarms, 3))  # fmt: skip
        _print(_FORM.format(*row))
    return 0


_FORM: Final = "{:16}{:>24}{:>12}{:>26}{:>30}{:>24}"


def _means(text: str | None, variants: Sequence[str]) -> list[float]:
    if text is None:
        return [0.10 + 0.05 * k / max(1, len(variants) - 1) for k in range(len(variants))]
    try:
        means = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--means {text!r}: write numbers with commas, such as 0.10,0.12") from None
    if len(means) != len(variants):
        raise ValueError(
            f"--means has {len(means)} numbers for {len(variants)} variants: {', '.join(variants)}"
        )
    return means


def _worlds(
    found: Plan, variants: Sequence[str], means: Sequence[float], requests: int
) -> Mapping[str, World]:
    """The standard worlds with this plan's variants, and its metric's type and goal."""
    names = {f"v{k + 1}": variant for k, variant in enumerate(variants)}
    objective = found.objectives[0] if isinstance(found, Bandit) else None
    return {
        key: replace(
            world,
            means=tuple((names[v], mean) for v, mean in world.means),
            joins=tuple((names[v], at) for v, at in world.joins),
            changes=tuple(replace(c, variant=names[c.variant]) for c in world.changes),
            poison=None
            if world.poison is None
            else replace(world.poison, variant=names[world.poison.variant]),
            model=objective.model if objective is not None else world.model,
            goal=objective.goal if objective is not None else world.goal,
        )
        for key, world in standard(means, requests).items()
    }


# Rollouts ---------------------------------------------------------------------------------------------
def _canary(arguments: argparse.Namespace, section: Canary) -> int:
    rollout = plan_of(section)
    rails = [rail_of(rail) for rail in section.guardrails]
    foreign = [r.metric for r in rails if r.metric != "error_rate" and not r.metric.startswith("latency_")]
    rails = [replace(r, metric=simulate_rollout.REWARD) if r.metric in foreign else r for r in rails]
    seconds = arguments.requests / arguments.rate
    reports = []
    for name in _chosen(list(CANARIES), arguments.world):
        world = CanaryWorld(name, Service(), CANARIES[name], rate=arguments.rate, seconds=seconds)
        reports.append(
            simulate_rollout.run(
                rollout,
                rails,
                world,
                repetitions=arguments.repetitions,
                seed=arguments.seed,
                progress=_Progress(name),
            )
        )
    if arguments.json:
        print_json({"policy": "canary", "worlds": [r.as_dict() for r in reports]})
        return 0
    _print(f"{'candidate':16}{'ended':>60}{'seconds to roll back':>32}{'its requests':>26}")
    for r in reports:
        ended = ", ".join(f"{state} {e.value:.0%}" for state, e in r.ended.items())
        _print(f"{r.world:16}{ended:>60}{_shown(r.time_to_detect):>32}{_shown(r.exposed):>26}")
    return 0


# Showing ----------------------------------------------------------------------------------------------
def _shown(found: Estimated | None, digits: int = 0) -> str:
    if found is None:
        return "-"
    values = [found.value, found.low, found.high]
    if not isfinite(found.value):
        return "never"
    return "{} [{}, {}]".format(*(f"{value:.{digits}f}" for value in values))


class _Progress:
    """A bar, where somebody is looking."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, done: int, whole: int) -> None:
        if sys.stderr.isatty():
            filled = round(30 * done / whole)
            end = "\r\x1b[K" if done == whole else ""
            sys.stderr.write(
                f"\r\x1b[K{self._name:16} {'█' * filled}{'░' * (30 - filled)} {done}/{whole}{end}"
            )
            sys.stderr.flush()


def _plot(reports: Sequence[simulate.Report], path: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        raise ValueError("a plot needs matplotlib: pip install 'turnout[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for report in reports:
        requests = [point.requests for point in report.curve]
        low, high = [p.regret.low for p in report.curve], [p.regret.high for p in report.curve]
        (line,) = axes.plot(requests, [point.regret.value for point in report.curve], label=report.world)
        axes.fill_between(requests, low, high, alpha=0.15, color=line.get_color())
    axes.set(xlabel="requests", ylabel="regret (mean over runs, 95 % interval)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def _print(text: Any) -> None:
    sys.stdout.write(f"{text}\n")
