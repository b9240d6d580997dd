"""The data of ``turnout report``: a pure function of what the gateway's API returned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.config.yaml_text import as_written
from gateway.loops.alarms import INVALID
from gateway.state.history import MAX_STEPS, TRAIL

Json = dict[str, Any]

FORMAT: Final = "turnout-report/1"
FEW: Final = 30
"""Observations of a variant below which its metrics are thin, as on the dashboard."""
MISMATCH: Final = "sample_ratio_mismatch"
_LEFT_OUT: Final = frozenset({"example", "recent", "alarms"})
"""Parts of the route's report that are not about its versions, or are elsewhere in the document."""


def canonical(document: Json) -> str:
    """The text whose SHA-256, with a line feed at its end, the page states; ASCII, so that no locale changes it."""
    return json.dumps(document, indent=2)


def document(found: Json, made: float) -> Json:
    """The document of a route: its report, with what other calls add to it.

    Args:
        found: By name, the responses, as `gateway.commands.report.responses` returns them.
        made: Seconds since the epoch.
    """
    report, steps = found["report"], [_without_trail(step) for step in found["history"]]
    whole = {
        "format": FORMAT,
        "gateway": found["gateway"],
        "version": found["version"],
        "made": made,
        "made_by": found["session"]["id"],
        **{key: part for key, part in report.items() if key not in _LEFT_OUT},
        "verdict": found["verdict"],
        "traffic": _traffic(found["series"]),
        "shadow_reports": found["shadows"],
        "engine": next((one for one in found["engines"] if report["route"] in one["routes"]), None),
        "alarms": [*_alarms(report["alarms"], steps)],
        "gateway_alarms": found["gateway_alarms"],
        "configuration": _configuration(found["config"], report, steps),
        "history": steps,
    }
    whole["sample_ratio"] = _sample_ratio(whole)
    return whole | {"limits": list(_limits(whole))}


def _without_trail(step: Json) -> Json:
    """A step without the address that a person steered from."""
    return {**step, "data": {key: part for key, part in step["data"].items() if key not in TRAIL}}


def _traffic(series: Json | None) -> list[Json]:
    """Requests and shares over time."""
    if series is None:
        return []
    kept = ("assigned", "share", "allocated")
    return [
        {
            "start": bucket["start"],
            "seconds": series["step"],
            "variants": {n: {key: v[key] for key in kept} for n, v in bucket["variants"].items()},
        }
        for bucket in series["buckets"]
    ]


def _alarms(standing: list[Json], steps: list[Json]) -> Iterator[Json]:
    """Alarms of the route: those that stand, then those of the history that are over, newest first."""
    yield from ({**alarm, "until": None} for alarm in standing)
    over: dict[str, float] = {}
    for step in steps:
        data = step["data"]
        if step["kind"] == "alarm_over":
            over[data["code"]] = step["time"]
        elif step["kind"] == "alarm" and data["code"] in over:
            yield {**data, "since": step["time"], "until": over.pop(data["code"])}


def _configuration(text: str | None, report: Json, steps: list[Json]) -> Json:
    """The revision in force, and the route's part of it; null if the key may not read it."""
    number = report["revision"]
    step = next((s for s in steps if s["kind"] == "config" and s["data"]["revision"] == number), None)
    return {
        "revision": number,
        "time": step["time"] if step is not None else None,
        "author": step["data"]["author"] if step is not None else None,
        "route": route_section(text, report["route"]) if text is not None else None,
    }


def route_section(text: str, route: str) -> Json | None:
    """What a configuration says of a route. Variables stay as they are written, and no secret is kept."""
    data = as_written(text)[0] or {}
    section = (data.get("routes") or {}).get(route)
    if section is None:
        return None
    kept = {key: section.get(key) for key in ("match", "unit", "policy", "fallback")}
    backends = data.get("backends") or {}
    return kept | {"variants": {n: _version(v or {}, backends) for n, v in section["variants"].items()}}


def _version(variant: Json, backends: Mapping[str, Any]) -> Json:
    backend = backends.get(variant.get("backend", "")) or {}
    return {
        "backend": variant.get("backend"),
        "urls": backend.get("urls") or [url for url in (backend.get("url"),) if url],
        "rewrite": variant.get("rewrite") or {},
        "headers": sorted(variant.get("headers") or ()),  # only names: a value may be a secret
        "payload": variant.get("payload"),
    }


def _sample_ratio(found: Json) -> Json:
    """Whether units are assigned as the allocation says, which the gateway tests continuously."""
    alarm = next((a for a in found["alarms"] if a["code"] == MISMATCH and a["until"] is None), None)
    if alarm is not None:
        return {"result": "mismatch", "message": alarm["message"]}
    if found["contextual"] is not None:
        return {"result": "not tested", "message": "With features, each request has its own probabilities."}
    if sum(one["expected"] > 0 for one in found["variants"].values()) < 2:
        return {"result": "not tested", "message": "No decision was drawn between two variants."}
    message = "The test is always-valid: the probability that it ever raises a false alarm is 0.1 %."
    return {"result": "no mismatch found", "message": message}


def _limits(found: Json) -> Iterator[str]:
    """What the statements rest on, and what they do not cover."""
    yield from _of_the_record(found)
    yield from _of_the_method(found)
    for metric, declared in found["metrics"].items():
        yield from _of_a_metric(metric, declared, found["variants"])
    for name, one in found["variants"].items():
        ends = one["latency_interval_ms"] or {}
        if unknown := [quantile for quantile, interval in ends.items() if interval[1] is None]:
            yield f"{name} has too few responses for an upper end of its latency {', '.join(unknown)}."
    for name, one in (found["agreement"] or {}).items():
        if lost := one["answers"] - one["compared"]:
            yield f"{lost} of {one['answers']} responses of the shadow {name} could not be compared."
    if rescued := sum(one["fallbacks"] for one in found["variants"].values()):
        yield (
            f"Rewards of the {rescued:,} decisions that a fallback served count as the metric's worst value, or not "
            "at all if it has none."
        )
    yield "The figures of a variant cover every build that ran under its name."
    yield "Nothing else was tested: no other metric, and no part of the traffic by itself."
    if found["segments"]:
        parts = " and ".join(found["segments"])
        yield f"The route's page compares the variants by {parts} too; this report does not."


def _of_the_record(found: Json) -> Iterator[str]:
    if found["configuration"]["route"] is None:
        yield (
            "The configuration was not read, since the key has no scope 'config' or is limited to routes: rewrites, "
            "and limits of guardrails without a verdict, are missing."
        )
    if found["gateway_alarms"] is None:
        yield "Alarms of the whole gateway, such as lost records, were not read: the key is limited to routes."
    standing = [*found["alarms"], *(found["gateway_alarms"] or ())]
    for code in sorted({a["code"] for a in standing if a.get("until") is None}.intersection(INVALID)):
        yield f"Comparisons are not valid while the alarm {code} stands."
    if found["engine"] is not None and found["engine"]["lost_share"]:
        yield f"The engine lost {found['engine']['lost_share']:.2%} of its rows of the last five minutes."
    if found["since"] is not None:
        yield "The verdicts of guardrails, alarms and the history are not limited to the period."
    if sum(step["kind"] != "config" for step in found["history"]) >= MAX_STEPS:
        yield f"The gateway keeps the last {MAX_STEPS} steps of a route; earlier ones are missing."


def _of_the_method(found: Json) -> Iterator[str]:
    yield (
        "Intervals of differences and of agreement hold at every look with probability 95 %, those of differences "
        "for all pairs of variants of a metric together; intervals of means and quantiles, and the probability of "
        "being best, hold for one look."
    )
    if found["unit"] == "units":
        yield (
            "Rewards and differences count each sticky unit once per variant; error rates, quantiles and missing "
            "values of a variant count requests."
        )
        by_epoch = found["policy"] != "bandit" and (found["rollout"] or {}).get("phase") != "bandit"
        if by_epoch and len(found["variants"]) > 1:
            yield (
                "Differences are those of the newest epoch in which two variants could be drawn, such as the present "
                "stage of a canary, and their intervals hold within it; means are of the whole period."
            )
    elif len(found["variants"]) > 1:
        yield "Each request counts as independent: if few clients send most of them, intervals are too narrow."
    if found["policy"] == "bandit":
        yield "The guardrails of a bandit appear only in the history, when one acted."
    if found["contextual"] is not None:
        yield "Variants served different requests, by their features: plain means are not comparable."
    lifts = [lift for one in found["variants"].values() for lift in one["lift"].items()]
    if moved := sorted({metric for metric, lift in lifts if lift["method"] != "pooled"}):
        yield (
            f"Shares moved: the differences of {', '.join(moved)} compare the same times, so they need not be "
            "those of the means."
        )


def _of_a_metric(metric: str, declared: Json, variants: Json) -> Iterator[str]:
    rewards = {name: one["rewards"][metric] for name, one in variants.items()}

    def total(key: str) -> float:
        return sum(float(one[key]) for one in rewards.values())

    if not total("count"):
        yield f"{metric} has no values: nothing is known about it."
        return
    if declared["missing"] == "zero":
        yield (
            f"{metric}: {total('missing'):,.15g} missing values count as zero, or as its worst value after a failure; "
            f"{total('waiting'):,.15g} are not due yet."
        )
    elif total("count") < (made := sum(one["assigned"] for one in variants.values())):
        yield f"{metric}: {total('count'):,.15g} of {made:,} decisions have a value; the others are left out."
    drawn = {name: one for name, one in rewards.items() if variants[name]["assigned"]}
    if few := [name for name, one in drawn.items() if one["observations"] < FEW]:
        yield f"{metric} has fewer than {FEW} observations of {', '.join(few)}."
