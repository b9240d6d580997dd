"""``turnout evaluate``: what another policy would have earned, from what was recorded."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from gateway.clock import wall
from gateway.commands import stores
from gateway.commands.documents import chosen_route
from gateway.commands.export import Source, add_store_arguments, read_from
from gateway.commands.output import add_json, complain, print_json, say
from gateway.compile.plans import plan
from gateway.config.document import Document
from gateway.config.load import load
from gateway.config.units import share
from gateway.ingest.ope_dataset import OffPolicyDataset
from policies.allocate import allocate
from policies.contextual.bandit import Contextual, ensemble
from policies.contextual.features import Feature, encode
from policies.contextual.regression import LinearSums
from policies.offpolicy import Estimate, Report, evaluate
from policies.offpolicy import Target as Wanted


@dataclass(frozen=True, slots=True)
class Target:
    """The policy to evaluate."""

    shares: Mapping[str, float]
    note: str = ""
    """What the shares are of a policy that would move them; "" where they are all there is to it."""
    learns: Contextual | None = None
    """A bandit with features has no shares to begin with that are worth a figure: it learns from the earlier
    half of the record, and is evaluated on the later one, of which it has seen nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store_arguments(parser)
    parser.add_argument(
        "--metric", required=True, action="append", metavar="M", help="reward to estimate; repeatable"
    )
    parser.add_argument(
        "--policy",
        type=Path,
        required=True,
        metavar="FILE",
        help="shares by variant ({v1: 20%%, v2: 80%%}), or a configuration with the route's policy",
    )
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    try:
        source, document = read_from(arguments)
        if document is not None:
            arguments.route = chosen_route(document, arguments.route)
        elif arguments.route is None:
            raise ValueError("which route? write --route R")
        target = _target(arguments)
        datasets = _datasets(arguments, document, target)
        known = asyncio.run(_read(arguments, source, datasets))
        _check(arguments, datasets, known)
        features = target.learns.features if target.learns else _features(document, arguments.route)
        cut, wanted = _learned(target, datasets)
        reports = {
            dataset.name: _evaluated(dataset, cut, wanted, features)
            for dataset in datasets
            if dataset.name in arguments.metric
        }
    except stores.FAILURES as error:
        return complain(error)
    if arguments.json:
        print_json(
            {
                "route": arguments.route,
                "policy": {"shares": None if target.learns else dict(target.shares), "note": target.note},
                "metrics": {name: report.as_dict() for name, report in reports.items()},
            }
        )
    else:
        say(_shown(target, reports).rstrip())
    return 0 if all(report.refusal is None for report in reports.values()) else 1


# The policy -------------------------------------------------------------------------------------------
def _target(arguments: argparse.Namespace) -> Target:
    """Raises ValueError and ConfigError."""
    text = arguments.policy.read_text()
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{arguments.policy} is not YAML: {error}") from error
    if isinstance(content, dict) and "routes" in content:
        document = load(text, source=str(arguments.policy), env=os.environ)
        if arguments.route not in document.routes:
            raise ValueError(f"{arguments.policy} has no route {arguments.route!r}")
        return _begins_with(document, arguments.route)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{arguments.policy}: write shares by variant, such as {{v1: 20%, v2: 80%}}")
    shares = {str(name): float(share(value)) for name, value in content.items()}
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"{arguments.policy}: the shares sum to {total:g}, not to 1")
    return Target(shares)


def _begins_with(document: Document, route: str) -> Target:
    """The allocation with which a configured policy begins; rewards that it has not seen would move it on."""
    section, found = document.routes[route].policy, plan(document, route)
    if isinstance(found, Contextual):
        return Target({}, _LEARNS, found)
    return Target(allocate(plan(document, route)).as_dict(), _NOTES.get(section.type, ""))


_LEARNS: Final = (
    "what the bandit with features learns from the earlier half of the decisions; "
    "the figures are over the later half"
)
_NOTES: Final = {
    "bandit": "the even shares with which a bandit begins, as if they stayed; for what it may learn: turnout simulate",
    "canary": "the shares of the first stage",
}


# The record -------------------------------------------------------------------------------------------
def _datasets(
    arguments: argparse.Namespace, document: Document | None, target: Target
) -> list[OffPolicyDataset]:
    """One for each metric, and for the one to learn from. Its declaration is in --config; a record by itself
    has none."""
    declared = document.metrics if document is not None else {}
    learned = [target.learns.metric] if target.learns else []
    return [
        OffPolicyDataset(name, declared.get(name), wall())
        for name in dict.fromkeys([*arguments.metric, *learned])
    ]


def _features(document: Document | None, route: str) -> tuple[Feature, ...]:
    """What the model of the reward may look at: the features that the route's own policy does."""
    if document is None or route not in document.routes:
        return ()
    found = plan(document, route)
    return found.features if isinstance(found, Contextual) else ()


async def _read(
    arguments: argparse.Namespace, source: Source, datasets: Sequence[OffPolicyDataset]
) -> list[str]:
    """Fills the datasets; the metrics that were ever reported."""
    async with source.opened() as record:
        async for records in record.chunks(
            route=arguments.route, since=arguments.since, until=arguments.until
        ):
            for dataset in datasets:
                dataset.add(records)
        return await record.metric_names()


def _check(arguments: argparse.Namespace, datasets: Sequence[OffPolicyDataset], known: Sequence[str]) -> None:
    """Raises ValueError for what can only be a slip of the pen."""
    if not datasets[0].rows and not datasets[0].window_open:
        raise ValueError(
            f"the record has no decision of the route {arguments.route!r} in that time; "
            "see --route, --since and --until"
        )
    for dataset in datasets:
        if dataset.name not in known and dataset.metric is None:
            there = ", ".join(known) or "none"
            raise ValueError(f"nothing was ever reported of the metric {dataset.name!r} (there: {there})")


def _learned(target: Target, datasets: Sequence[OffPolicyDataset]) -> tuple[int, Wanted]:
    """How many decisions a policy learns from, and its shares then. Raises ValueError."""
    found = target.learns
    if found is None:
        return 0, target.shares
    rows = next(dataset.rows for dataset in datasets if dataset.name == found.metric)
    cut = len(rows) // 2
    known = [row for row in rows[:cut] if row.features and not row.forced and row.reward is not None]
    if not known:
        names = ", ".join(feature.name for feature in found.features)
        raise ValueError(
            f"no rewarded decision of the earlier half of the record has features, so nothing can be learned about "
            f"{names}: a route records them while its own policy looks at features"
        )
    mine = {name: [row for row in known if row.variant == name] for name in found.variants}
    sums = {
        name: LinearSums.of(
            [encode(found.features, row.features) for row in of], [row.reward or 0.0 for row in of]
        )
        for name, of in mine.items()
        if of
    }
    drawn = ensemble(found, sums, np.random.default_rng(0))
    return cut, lambda row: dict(
        zip(found.variants, drawn.shares(encode(found.features, row.features)), strict=True)
    )


def _evaluated(dataset: OffPolicyDataset, cut: int, wanted: Wanted, features: tuple[Feature, ...]) -> Report:
    """Over all decisions but the first ``cut``."""
    found = evaluate(dataset.rows[cut:], wanted, features=features)
    return replace(found, left_out={**found.left_out, "window_open": dataset.window_open})


# Showing ----------------------------------------------------------------------------------------------
def _shown(target: Target, reports: Mapping[str, Report]) -> str:
    note = f"the policy: {target.note}\n" if target.note else ""
    return note + "\n".join(_one(report, metric) for metric, report in reports.items())


def _one(report: Report, metric: str) -> str:
    left = ", ".join(
        f"{count} {reason.replace('_', ' ')}" for reason, count in report.left_out.items() if count
    )
    lines = [
        f"{metric}: {report.rows} decisions of {report.units} units" + (f"; left out: {left}" if left else "")
    ]
    lines += [
        f"  {name}: {had:.1%} of the record, {would:.1%} under the policy"
        for name, (had, would) in report.shares.items()
    ]
    lines.append(
        f"effective sample size {report.effective:.0f}, mean weight {report.mean_weight:.3f}, "
        f"largest {report.largest_weight:.1f} ({report.largest_share:.1%} of all)"
    )
    if report.refusal is not None:
        lines.append(f"refused: {report.refusal}")
    lines += [f"{_NAMES.get(e.name, e.name):30} {metric} {_figure(e)}" for e in report.estimates]
    lines += [_sentence(e, metric) for e in report.estimates if e.name == "gain"]
    return "\n".join(lines) + "\n"


def _sentence(gain: Estimate, metric: str) -> str:
    low, high = gain.interval
    clear = "" if low > 0.0 or high < 0.0 else "; the interval includes 0, so this may be chance"
    more = "more" if gain.value >= 0.0 else "less"
    if gain.value < 0.0:
        low, high = -high, -low
    return (
        f"the policy would have earned {abs(gain.value):.4g} {more} {metric} per decision than was earned "
        f"({low:.4g} to {high:.4g}){clear}"
    )


_NAMES: Final[Mapping[str, str]] = {
    "ips": "inverse propensity",
    "snips": "self-normalised",
    "dm": "direct method",
    "dr": "doubly robust",
    "logged": "as it was",
    "gain": "doubly robust, less as it was",
}


def _figure(e: Estimate) -> str:
    return f"{e.value:.4g}  [{e.interval[0]:.4g}, {e.interval[1]:.4g}]"
