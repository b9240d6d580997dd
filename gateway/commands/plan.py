"""``turnout plan``: how many requests, and days, until a canary's guardrails see a difference."""

from __future__ import annotations

import argparse
import asyncio
import math
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.clock import wall
from gateway.commands import stores
from gateway.commands.documents import add_config, chosen_route
from gateway.commands.output import add_json, complain, print_json, say, table
from gateway.commands.times import positive
from gateway.compile.plans import adjustments, plan_of, rail_of, reported
from gateway.config.document import Document
from gateway.config.load import load_file
from gateway.config.policy import CanaryConfig
from gateway.ingest.comparable import known_before
from gateway.ingest.evidence import Rewarded, rewarded
from gateway.state import open_store
from policies.rollout.guardrails import border
from policies.rollout.verdicts import Guardrail, written
from policies.sequential.adjusted import without_predicted
from policies.sequential.planning import Needed, for_means, for_rates
from policies.types import CLIENT_ERROR_RATE, ERROR_RATES, RewardSums

USUAL_RATE: Final = 0.01
"""Of errors, and of client errors, if nothing is recorded."""
DAYS: Final = 7.0
"""Of the record that say what is usual."""
_OF_UNITS: Final = "share of a unit"
"""The kind of errors and boolean metrics on a sticky route: their spread follows from the rate that is to be seen."""
_DAY: Final = 86_400.0
_HOUR: Final = 3_600.0
_UNITS: Final = ((86_400.0, "s"), (1_440.0, "min"), (24.0, "h"))
"""Of a day."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What the route's requests have been like."""

    per_day: float
    error_rate: float = USUAL_RATE
    rewards: dict[str, RewardSums] = field(default_factory=dict)
    adjusted_by: dict[str, str] = field(default_factory=dict)
    """Of metrics whose ``rewards`` have only the variance that adjusting leaves: past | covariate."""
    days: float = 0.0
    """Of the record that say so; 0: an assumption."""

    def rate(self, metric: str) -> float:
        """The rate of errors, or of client errors."""
        if metric != CLIENT_ERROR_RATE:
            return self.error_rate
        found = self.rewards.get(metric, RewardSums())
        return found.mean if found.count else USUAL_RATE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--route", metavar="R", help="route with the canary (default: the only route)")
    parser.add_argument(
        "--worse",
        type=positive,
        default=2.0,
        metavar="X",
        help="size of the regression to detect, as a multiple of the guardrail's limit (default: 2)",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        metavar="R",
        help="requests per second (default: from the record, otherwise 50)",
    )
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    try:
        document = load_file(arguments.config)
        name = chosen_route(document, arguments.route)
        section = document.routes[name].policy
        if not isinstance(section, CanaryConfig):
            raise ValueError(
                f"the policy of {name!r} has no stages to plan; write --route with the name of a canary, or --config "
                "with a file that has the canary to come"
            )
        if arguments.worse <= 1:
            raise ValueError(
                "a candidate exactly at the limit is never detected; write --worse above 1, such as 2"
            )
        usual = asyncio.run(
            _usual(document, name, stores.of_file(document.store, arguments.config), arguments.rate)
        )
        sticky = document.routes[name].unit is not None
        rows = _rows(document, section, usual, arguments.worse, sticky=sticky)
    except stores.FAILURES as error:
        return complain(error)
    if arguments.json:
        print_json(
            {
                "route": name,
                "requests_per_day": usual.per_day,
                "measured": usual.days > 0,
                "unit": "requests" if document.routes[name].unit is None else "units",
                "rows": rows,
            }
        )
    else:
        _table(rows, usual, arguments.worse, sticky=sticky)
    return 0


async def _usual(document: Document, name: str, url: str, rate: float | None) -> Usual:
    if stores.missing(url):
        return Usual((rate or 50.0) * _DAY)
    store = open_store(url)
    await store.open()
    try:
        now = wall()
        since = now - DAYS * _DAY
        counts = await store.counts(name, since=since)
        found = await rewarded(store, name, reported(document, name), now=now, since=since)
        hours = await store.series(name, since=since, until=now, step=_HOUR, epochs="together")
    finally:
        await store.close()
    assigned, seen = (sum(getattr(c, of) for c in counts.values()) for of in ("assigned", "seen"))
    if not assigned:
        return Usual((rate or 50.0) * _DAY)
    together: dict[str, Rewarded] = {}
    for (_, metric), one in found.items():
        together[metric] = together.get(metric, Rewarded()) + one
    rewards = {metric: one.observations for metric, one in together.items()}
    whole = {("", metric): one for metric, one in together.items()}
    adjusted, adjusted_by = adjustments(document, name), {}
    for metric, before in known_before(whole, adjusted, "").items():
        if before.x.count:
            rewards[metric] = without_predicted(rewards[metric], before)
            adjusted_by[metric] = "covariate" if adjusted[metric] else "past"
    # The route may be new, and a clock that was set back leaves all of it in the future.
    first = min((hour.start for hour in hours), default=now)
    days = min(DAYS, max(now - first, _HOUR) / _DAY)
    per_day = assigned / days if rate is None else rate * _DAY
    # Of decisions without a proxied request no response is seen.
    errors = sum(c.errors for c in counts.values()) / seen if seen else USUAL_RATE
    return Usual(per_day, min(errors, 1.0), rewards, adjusted_by, days)


def _rows(
    document: Document, section: CanaryConfig, usual: Usual, worse: float, *, sticky: bool
) -> list[dict[str, Any]]:
    """``sticky``: of units, each of which counts once; how many requests that takes is not known."""
    levels = plan_of(section).levels(len(section.guardrails))
    rows = []
    for stage in section.stages:
        for rail in map(rail_of, section.guardrails):
            if not 0 < stage.weight < 1:
                continue
            kind = "boolean" if rail.metric in ERROR_RATES else _kind(document, rail.metric)
            if sticky and kind == "boolean":
                kind = _OF_UNITS
            found = _needed(rail, kind, usual, stage.weight, worse, levels.bet, levels.fail, levels.passing)
            rows.append(
                {
                    "share": stage.weight,
                    "confirm": stage.confirm,
                    "metric": rail.metric,
                    "bound": rail.bound,
                    "limit": rail.limit,
                    "adjusted_by": usual.adjusted_by.get(rail.metric),
                    "fail": None if found is None else _shown(found[0], usual, sticky=sticky),
                    "pass": None if found is None else _shown(found[1], usual, sticky=sticky),
                }
            )
    return rows


def _kind(document: Document, metric: str) -> str:
    return document.metrics[metric].type if metric in document.metrics else "latency"


def _needed(
    rail: Guardrail,
    kind: str,
    usual: Usual,
    share: float,
    worse: float,
    bet: float,
    fail: float,
    passing: float,
) -> tuple[Needed, Needed] | None:
    """(until a worse candidate fails, until an equal one passes); None where nothing can be said beforehand."""
    if kind == "latency":
        return None
    if rail.metric in ERROR_RATES:
        mean = usual.rate(rail.metric)
        sd = _spread(mean)
    else:
        sums = usual.rewards.get(rail.metric, RewardSums())
        if sums.count < 2:
            return None
        mean, sd = sums.mean, math.sqrt(max(sums.squares / sums.count - sums.mean**2, 0.0))
        if kind in ("boolean", _OF_UNITS) and not 0.0 <= mean <= 1.0:
            return None  # the metric had another type when its values were reported
    limit = abs(rail.limit - 1) * mean if rail.relative else rail.limit
    gap = (worse - 1) * limit
    sign = -1.0 if rail.bound in ("max_decrease", "min_ratio") else 1.0
    bad = min(max(mean + sign * worse * limit, 0.0), 1.0)
    if kind == _OF_UNITS:
        between = min(max(mean + sign * limit / 2, 0.0), 1.0)
        scale = sd / _spread(mean) if _spread(mean) else 1.0
        sound = scale * _spread(between)
        return (
            for_means(max(scale * _spread(bad), sound), gap, share, fail),
            for_means(sound, limit, share, passing),
        )
    if kind != "boolean":
        return for_means(sd, gap, share, fail), for_means(sd, limit, share, passing)
    pairs = [_as_bet(rail, mean, candidate) for candidate in (bad, mean)]
    shares = 1 - share if rail.bound == "min_ratio" else share
    return (
        for_rates(pairs[0], border(rail), shares, bet, "fail"),
        for_rates(pairs[1], border(rail), shares, passing, "pass"),
    )


def _spread(rate: float) -> float:
    """The standard deviation of outcomes of yes and no."""
    return math.sqrt(rate * (1 - rate))


def _as_bet(rail: Guardrail, baseline: float, candidate: float) -> tuple[float, float]:
    """The rates as `policies.rollout.guardrails.outcomes` counts them."""
    if rail.bound == "min_ratio":
        return candidate, baseline
    return (1 - baseline, 1 - candidate) if rail.bound == "max_decrease" else (baseline, candidate)


def _shown(found: Needed, usual: Usual, *, sticky: bool) -> dict[str, float | None]:
    def known(requests: float) -> float | None:
        return requests if math.isfinite(requests) else None

    days = math.inf if sticky else found.most / usual.per_day
    return {"requests": known(found.median), "most": known(found.most), "days": known(days)}


def _table(rows: list[dict[str, Any]], usual: Usual, worse: float, *, sticky: bool) -> None:
    source = f"the last {_time(usual.days)}" if usual.days else "an assumption: nothing is recorded yet"
    say(f"{usual.per_day:,.0f} requests a day, {usual.error_rate:.2%} errors ({source})")
    if sticky:
        say("Units of the route, of which each counts once, until the verdict: median, in four of five runs")
    else:
        say("Requests to the route until the verdict: median, in four of five runs (time of these)")
    header = "share", "guardrail", f"{worse:g} x the limit fails", "an equal one passes"
    cells = [
        (
            f"{row['share']:.1%}",
            f"{row['metric']} {written(row['bound'], row['limit'])}{', adjusted' if row['adjusted_by'] else ''}",
            _cell(row["fail"]),
            _cell(row["pass"]),
        )
        for row in rows
    ]
    table("{:>6}  {:40}{:>34}{:>34}", header, cells)
    if waiting := dict.fromkeys(f"{row['share']:.1%}" for row in rows if row["confirm"]):
        say(f"A person confirms before these shares, which takes time of its own: {', '.join(waiting)}")


def _cell(found: dict[str, float | None] | None) -> str:
    if found is None:
        return "not known beforehand"
    if found["most"] is None or found["requests"] is None:
        return "never"
    time = "" if found["days"] is None else f" ({_time(found['days'])})"
    return f"{found['requests']:,.0f}, {found['most']:,.0f}{time}"


def _time(days: float) -> str:
    amount, unit = next(((days * n, unit) for n, unit in _UNITS if days * n < 100), (days, "days"))
    return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.2g} {unit}"
