"""``turnout evaluate``: what another policy would have earned, from what was recorded."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.commands.export import add_store_arguments, existing, store_url
from gateway.commands.remote import complain, print_json
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import load
from gateway.config.plans import plan
from gateway.config.units import share
from gateway.record.export import chunks
from gateway.state import open_store
from gateway.state.base import DecisionRecord, StoreUnavailable
from policies.allocate import allocate
from policies.offpolicy import Logged, Report, evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store_arguments(parser)
    parser.add_argument("--metric", required=True, metavar="M", help="the reward to be had")
    parser.add_argument(
        "--policy",
        type=Path,
        required=True,
        metavar="FILE",
        help="shares by variant ({v1: 20%%, v2: 80%%}), or a configuration whose route's policy is meant",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(arguments: argparse.Namespace) -> int:
    try:
        if arguments.route is None:
            raise ValueError("which route? write --route R")
        target = _target(arguments)
        rows = asyncio.run(_rows(arguments, existing(store_url(arguments))))
        report = evaluate(rows, target)
    except (ConfigError, ValueError, OSError, StoreUnavailable) as error:
        return complain(error)
    if arguments.json:
        print_json(report.as_dict())
    else:
        sys.stdout.write(_shown(report, arguments.metric))
    return 0 if report.refusal is None else 1


def _target(arguments: argparse.Namespace) -> Mapping[str, float]:
    """The probabilities of the policy to evaluate. Raises ValueError and ConfigError."""
    text = arguments.policy.read_text()
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{arguments.policy} is not YAML: {error}") from error
    if isinstance(content, dict) and "routes" in content:
        document = load(text, source=str(arguments.policy), env={})
        if arguments.route not in document.routes:
            raise ValueError(f"{arguments.policy} has no route {arguments.route!r}")
        return _begins_with(document, arguments.route)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{arguments.policy}: write shares by variant, such as {{v1: 20%, v2: 80%}}")
    shares = {str(name): float(share(value)) for name, value in content.items()}
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"{arguments.policy}: the shares sum to {total:g}, not to 1")
    return shares


def _begins_with(document: Document, route: str) -> Mapping[str, float]:
    """The allocation with which a configured policy begins; a bandit's would move with rewards it has not seen."""
    return allocate(plan(document, route)).as_dict()


async def _rows(arguments: argparse.Namespace, url: str) -> list[Logged]:
    store = open_store(url)
    await store.open()
    try:
        found: list[Logged] = []
        async for records in chunks(
            store, route=arguments.route, since=arguments.since, until=arguments.until
        ):
            found += [_logged(record, arguments.metric) for record in records]
        return found
    finally:
        await store.close()


def _logged(record: DecisionRecord, metric: str) -> Logged:
    outcome = record.outcome
    assert outcome is not None
    value = next((r.value for r in record.rewards if r.metric == metric), None)
    unit = f"{outcome.unit:016x}" if outcome.sticky else ""
    return Logged(outcome.assigned, outcome.propensity, value, unit, {}, outcome.forced)


def _shown(report: Report, metric: str) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items() if count)
    lines = [f"{report.rows} decisions of {report.units} units" + (f"; left out: {left}" if left else "")]
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
    lines += [f"{_NAMES.get(e.name, e.name):28} {metric} {_figure(e)}" for e in report.estimates]
    return "\n".join(lines) + "\n"


_NAMES: Mapping[str, str] = {
    "logged": "as it was",
    "ips": "inverse propensity",
    "snips": "self-normalised",
    "dm": "direct method",
    "dr": "doubly robust",
}


def _figure(e: Any) -> str:
    return f"{e.value:.4g}  [{e.interval[0]:.4g}, {e.interval[1]:.4g}]"
