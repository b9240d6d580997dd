"""``turnout simulate``: a configured policy against synthetic worlds, with the very code that the gateway runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.commands import simulate_canary
from gateway.commands.documents import add_config, chosen_route
from gateway.commands.output import FAILURES, add_json, complain, print_json, say, table
from gateway.commands.simulate_shown import Progress, chosen, plot, shown
from gateway.commands.times import count, positive
from gateway.compile.plans import plan
from gateway.config.document import Document
from gateway.config.load import load_file
from gateway.config.policy import CanaryConfig, ShadowConfig, SingleConfig
from policies.allocate import Plan, allocate
from policies.allocation.bandit import Bandit
from policies.contextual.bandit import Contextual
from policies.simulation import bandit as simulate
from policies.simulation import contextual as simulate_contextual
from policies.simulation import worlds_contextual
from policies.simulation.contextual import ContextReport
from policies.simulation.worlds import World, standard
from policies.simulation.worlds_contextual import ContextWorld

R = TypeVar("R")
REQUESTS: Final = 10_000
MAX_REQUESTS: Final = 10**12
"""Of many more, posteriors are too narrow to be compared in doubles."""
REPETITIONS: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--route", metavar="R", help="route with the policy (default: the only route)")
    parser.add_argument(
        "--world", action="append", metavar="NAME", help="synthetic world; repeatable (default: all)"
    )
    parser.add_argument(
        "--means",
        metavar="A,B,…",
        help="true means of the variants, in their order; for a canary those of the baseline and of a worse "
        "candidate, of its real and count metrics",
    )
    parser.add_argument(
        "--sd",
        type=positive,
        default=1.0,
        metavar="S",
        help="standard deviation of a real or count metric (default: 1)",
    )
    parser.add_argument("--metric", metavar="M", help="metric of a utility to simulate")
    parser.add_argument(
        "--requests",
        type=_requests,
        metavar="N",
        help="requests per run (default: 10000; for a canary, its planned duration)",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        default=50.0,
        metavar="R",
        help="requests per second, for canaries (default: 50)",
    )
    parser.add_argument(
        "--repetitions", type=count, metavar="N", help="runs per world (default: 100; for a canary 20)"
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of what is drawn (default: 0)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write regret over time as .svg or .png")
    add_json(parser)


def _requests(text: str) -> int:
    number = count(text)
    if number > MAX_REQUESTS:
        raise argparse.ArgumentTypeError(f"{text} are too many; write at most {MAX_REQUESTS}")
    return number


def _seed(text: str) -> int:
    return 0 if text == "0" else count(text)


def main(arguments: argparse.Namespace) -> int:
    try:
        document = load_file(arguments.config)
        name = chosen_route(document, arguments.route)
        section = document.routes[name].policy
        if isinstance(section, CanaryConfig):
            return simulate_canary.run(arguments, name, section, document.metrics)
        if isinstance(section, SingleConfig | ShadowConfig):
            raise ValueError(
                f"the policy of {name!r} gives every request to one variant, so there is nothing to simulate; "
                "write --route with a split, canary or bandit"
            )
        return _shares(arguments, document, name)
    except OverflowError:
        return complain("these numbers are too large to be squared; write smaller --means and --sd")
    except MemoryError:
        return complain("this many requests do not fit into memory; write a smaller --requests or --rate")
    except FAILURES as error:
        return complain(error)


# Policies that share traffic out ----------------------------------------------------------------------
def _shares(arguments: argparse.Namespace, document: Document, name: str) -> int:
    arguments.requests = arguments.requests or REQUESTS
    arguments.repetitions = arguments.repetitions or REPETITIONS
    found = _of_one_metric(plan(document, name), arguments.metric)
    reports = (
        _with_features(arguments, document, found)
        if isinstance(found, Contextual)
        else _without_features(arguments, found)
    )
    if arguments.plot is not None:
        plot(reports, arguments.plot)
    if arguments.json:
        print_json(
            {
                "route": name,
                "policy": document.routes[name].policy.type,
                "worlds": [r.as_dict() for r in reports],
            }
        )
    else:
        _table(reports)
        say(_assumed(arguments, found))
        say(_REGRET if isinstance(found, Contextual) else f"{_REGRET}\n{_SETTLED}")
    return 0


def _assumed(arguments: argparse.Namespace, found: Plan) -> str:
    variants = found.variants if isinstance(found, Contextual) else allocate(found).variants
    means = _means(arguments.means, variants, 0.30 if isinstance(found, Contextual) else 0.10)
    shown_means = ", ".join(f"{v} {mean:g}" for v, mean in zip(variants, means, strict=True))
    return f"true means, unless the world changes them: {shown_means} (--means sets others)"


def _of_one_metric(found: Plan, wanted: str | None) -> Plan:
    """A world has one metric: of a utility one is simulated at a time. Raises ValueError."""
    if not isinstance(found, Bandit) or (wanted is None and len(found.objectives) == 1):
        return found
    mine = tuple(replace(o, weight=1.0) for o in found.objectives if o.metric == wanted)
    if not mine:
        names = ", ".join(o.metric for o in found.objectives)
        raise ValueError(f"a world has one metric; write --metric with one of: {names}")
    return replace(found, objectives=mine)


def _without_features(arguments: argparse.Namespace, found: Plan) -> list[simulate.Report]:
    variants = allocate(found).variants
    worlds = _worlds(found, variants, _means(arguments.means, variants, 0.10), arguments)
    return _reports(simulate.run, found, worlds, arguments)


def _with_features(
    arguments: argparse.Namespace, document: Document, found: Contextual
) -> list[ContextReport]:
    metric = document.metrics[found.metric]
    means = _means(arguments.means, found.variants, 0.30)
    made = worlds_contextual.standard(means, arguments.requests, found.features, model=metric.type)
    worlds: dict[str, ContextWorld] = {
        name: replace(
            world,
            means=tuple(zip(found.variants, means, strict=True)),
            goal=metric.goal,
            sd=arguments.sd,
        )
        for name, world in made.items()
    }
    return _reports(simulate_contextual.run, found, worlds, arguments)


def _reports(
    run: Callable[..., R], found: Plan, worlds: Mapping[str, Any], arguments: argparse.Namespace
) -> list[R]:
    """Runs ``found`` in each chosen world."""
    options = {"repetitions": arguments.repetitions, "seed": arguments.seed}
    names = chosen(list(worlds), arguments.world)
    return [run(found, worlds[name], progress=Progress(name), **options) for name in names]


def _table(reports: Sequence[simulate.Report | ContextReport]) -> None:
    last = (
        ("beyond the best single", "")
        if isinstance(reports[0], ContextReport)
        else ("settled after", "wrong winner named")
    )
    table(_FORM, ("world", "regret", "even split", "best's share", *last), map(_row, reports))


def _row(r: simulate.Report | ContextReport) -> tuple[str, ...]:
    if isinstance(r, ContextReport):
        even, last = r.even_regret.value, (shown(r.regret_single), "")
    else:
        even, last = r.even_regret, (shown(r.time_to_settle), shown(r.false_alarms, 3))
    return r.world, shown(r.regret), f"{even:.0f}", shown(r.best_share, 3), *last


_REGRET: Final = "regret: what was lost against always assigning the best variant, in units of the metric"
_SETTLED: Final = (
    f"settled after: requests until {simulate.SETTLED:.0%} of the traffic goes to the best variant, "
    "median of the runs"
)
_FORM: Final = "{:23}{:>24}{:>12}{:>26}{:>30}{:>24}"


def _means(text: str | None, variants: Sequence[str], least: float) -> list[float]:
    if text is None:
        return [least + 0.05 * k / max(1, len(variants) - 1) for k in range(len(variants))]
    try:
        means = [float(part) for part in text.split(",")]
    except ValueError:
        means = [math.nan]
    if not all(map(math.isfinite, means)):
        raise ValueError(f"--means {text!r}: write numbers with commas, such as 0.10,0.12")
    if len(means) != len(variants):
        raise ValueError(
            f"--means has {len(means)} numbers for {len(variants)} variants; write one for each of "
            f"{', '.join(variants)}"
        )
    return means


def _worlds(
    found: Plan, variants: Sequence[str], means: Sequence[float], arguments: argparse.Namespace
) -> Mapping[str, World]:
    """The standard worlds with this plan's variants, and its metric's type and goal."""
    names = {f"v{k + 1}": variant for k, variant in enumerate(variants)}
    made = standard(means, arguments.requests, sd=arguments.sd, **_kind(found))
    return {
        key: replace(
            world,
            means=tuple((names[v], mean) for v, mean in world.means),
            joins=tuple((names[v], at) for v, at in world.joins),
            changes=tuple(replace(c, variant=names[c.variant]) for c in world.changes),
            poison=None
            if world.poison is None
            else replace(world.poison, variant=names[world.poison.variant]),
        )
        for key, world in made.items()
    }


def _kind(found: Plan) -> dict[str, Any]:
    """The metric that the policy is after; without one, a boolean to be maximised."""
    if not isinstance(found, Bandit):
        return {}
    return {"model": found.objectives[0].model, "goal": found.objectives[0].goal}
