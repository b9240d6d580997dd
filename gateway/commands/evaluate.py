"""``turnout evaluate``: what another policy would have earned, from what was recorded."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from gateway.archive.record import Chunks
from gateway.clock import wall
from gateway.commands import stores
from gateway.commands.documents import chosen_route
from gateway.commands.export import Source, add_store_arguments, read_from
from gateway.commands.output import add_json, complain, print_json, progress, say
from gateway.compile.plans import plan
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import load, read_text
from gateway.config.service import MetricConfig
from gateway.config.units import share
from gateway.config.yaml_text import as_written
from gateway.ingest.ope_dataset import OffPolicyDataset
from gateway.ingest.spilled_units import SpilledUnits
from policies.allocate import allocate
from policies.contextual.bandit import Contextual, ensemble
from policies.contextual.features import Feature, encode
from policies.contextual.regression import LinearSums
from policies.offpolicy.evaluation import Estimate, Evaluation, Report
from policies.offpolicy.evaluation import Target as Wanted

POLICY_FORM: Final = "write shares by variant, such as {v1: 20%, v2: 80%}, or a configuration with the route"


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
            raise ValueError("which route? write --route with the name of one")
        target = _target(arguments)
        reports = asyncio.run(_reports(arguments, source, document, target))
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
    text = read_text(arguments.policy, absent=POLICY_FORM)
    content, faults = as_written(text)
    if faults:
        raise ConfigError(str(arguments.policy), faults)
    if isinstance(content, dict) and "routes" in content:
        document = load(text, source=str(arguments.policy), env=os.environ)
        if arguments.route not in document.routes:
            raise ValueError(
                f"{arguments.policy} has no route {arguments.route!r}; write --policy with a file that has it"
            )
        return _begins_with(document, arguments.route)
    if not isinstance(content, dict) or not content or "type" in content:
        raise ValueError(f"{arguments.policy}: {POLICY_FORM}")
    try:
        shares = {str(name): float(share(value)) for name, value in content.items()}
    except ValueError as error:
        raise ValueError(f"{arguments.policy}: {error}; {POLICY_FORM}") from None
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"{arguments.policy}: the shares sum to {total:g}; write shares that sum to 1")
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
async def _reports(
    arguments: argparse.Namespace, source: Source, document: Document | None, target: Target
) -> dict[str, Report]:
    """By metric. The declarations of metrics are in --config; a record by itself has none."""
    declared, now = document.metrics if document is not None else {}, wall()
    async with source.opened() as record:
        limits = {"route": arguments.route, "since": arguments.since, "until": arguments.until}
        decisions = partial(record.chunks, **limits)
        known = await record.metric_names(**limits)
        learns = target.learns
        cut, features = 0, _features(document, arguments.route)
        wanted: Wanted = target.shares
        if learns is not None:
            metric = _known(learns.metric, declared, known)
            cut, sums = await _learned(learns, OffPolicyDataset(learns.metric, metric, now), decisions)
            wanted, features = _shares(learns, sums), learns.features
        variants = learns.variants if learns is not None else ()
        metrics = {name: _known(name, declared, known) for name in dict.fromkeys(arguments.metric)}
        evaluations = [
            (
                OffPolicyDataset(name, metric, now, skip=cut),
                Evaluation(
                    wanted, variants=variants, features=features, units=SpilledUnits, bounds=_bounds(metric)
                ),
            )
            for name, metric in metrics.items()
        ]
        read = 0
        async for records in decisions():
            read += len(records)
            progress(f"{read} decisions")
            for dataset, evaluation in evaluations:
                evaluation.add(dataset.rows(records))
        progress()
    if not read:
        raise ValueError(
            f"the record has no decision of the route {arguments.route!r} in that time; "
            "see --route, --since and --until"
        )
    return {dataset.name: _report(dataset, evaluation) for dataset, evaluation in evaluations}


def _report(dataset: OffPolicyDataset, evaluation: Evaluation) -> Report:
    report = evaluation.report()
    return replace(report, left_out={**report.left_out, "window_open": dataset.window_open})


def _known(name: str, declared: Mapping[str, MetricConfig], reported: Sequence[str]) -> MetricConfig | None:
    """The declaration of a metric, if there is one. Raises ValueError for what can only be a slip of the pen."""
    if name not in declared and name not in reported:
        there = ", ".join(reported) or "none"
        raise ValueError(
            f"the record has no value of the metric {name!r}; it has: {there}; "
            "see --metric, --route, --since and --until"
        )
    return declared.get(name)


def _bounds(metric: MetricConfig | None) -> tuple[float, float] | None:
    """The range of a metric that guardrails, too, compare as one of bounded values; None for any other."""
    if metric is None:
        return None
    # `minimum` and `maximum` of a real metric keep out nonsense, and may lie far from its values.
    return (metric.lowest, metric.highest) if metric.type in ("boolean", "fraction") else metric.capped_range


def _features(document: Document | None, route: str) -> tuple[Feature, ...]:
    """What the model of the reward may look at: the features that the route's own policy does."""
    if document is None or route not in document.routes:
        return ()
    found = plan(document, route)
    return found.features if isinstance(found, Contextual) else ()


async def _learned(
    policy: Contextual, dataset: OffPolicyDataset, decisions: Callable[[], Chunks]
) -> tuple[int, Mapping[str, LinearSums]]:
    """The size of the earlier half of the decisions, and what is learned from it. Raises ValueError."""
    cut = sum([len(dataset.rows(records)) async for records in decisions()]) // 2
    sums, left = defaultdict[str, LinearSums](lambda: LinearSums.empty(policy.width)), cut
    async for records in decisions():
        rows = dataset.rows(records)[:left]
        left -= len(rows)
        for row in rows:
            if row.features and not row.forced and row.reward is not None:
                sums[row.variant] += LinearSums.of([encode(policy.features, row.features)], [row.reward])
        if not left:
            break
    if not sums:
        names = ", ".join(feature.name for feature in policy.features)
        raise ValueError(
            f"no rewarded decision of the earlier half of the record has features, so nothing can be learned about "
            f"{names}: a route records them while its own policy looks at features"
        )
    return cut, sums


def _shares(policy: Contextual, sums: Mapping[str, LinearSums]) -> Wanted:
    """The probabilities for each decision of a policy that has learned ``sums``."""
    drawn = ensemble(policy, sums, np.random.default_rng(0))
    return lambda row: drawn.shares(encode(policy.features, row.features))


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
    "snips": "self-normalized",
    "dm": "direct method",
    "dr": "doubly robust",
    "logged": "as it was",
    "gain": "doubly robust, less as it was",
}


def _figure(e: Estimate) -> str:
    return f"{e.value:.4g}  [{e.interval[0]:.4g}, {e.interval[1]:.4g}]"
