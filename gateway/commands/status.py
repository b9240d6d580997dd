"""``turnout status``: the routes of a running gateway at a glance."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gateway.commands.remote import RemoteError, add_remote_arguments, call, complain, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("route", nargs="?", metavar="ROUTE", help="one route in full (all, in short)")
    add_remote_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    path = f"/-/routes/{arguments.route}" if arguments.route else "/-/routes"
    try:
        found = call(arguments, "GET", path)
    except RemoteError as error:
        return complain(error)
    if arguments.json:
        print_json(found)
        return 0
    for route in [found] if arguments.route else found["routes"]:
        sys.stdout.write(_shown(route))
    return 0


def _shown(route: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in route["allocation"].items())
    lines = [f"{route['route']}: {route['policy']}, epoch {route['epoch']}, {shares}"]
    if route["shadows"]:
        lines.append("  shadows: " + ", ".join(f"{n} {s:.0%}" for n, s in route["shadows"].items()))
    rollout = route["rollout"]
    if rollout is not None:
        lines.append(f"  rollout: {rollout['state']}, {_phase(rollout)} at {rollout['weight']:.1%}")
        if rollout["state"] != "running" and rollout.get("reason"):
            lines.append(f"    {rollout['reason']}")
        lines += [f"    {_verdict(v)}" for v in rollout["verdicts"]]
    stop = route.get("stop")
    if stop is not None and stop["winner"] is not None:
        lines.append(f"  {stop['winner']} has won ({stop['state'].replace('_', ' ')}): {stop['command']}")
    lines += [f"  {_variant(n, v)}" for n, v in (route.get("variants") or {}).items() if "assigned" in v]
    lines += [f"  alarm: {alarm['message']}" for alarm in route.get("alarms") or ()]
    return "\n".join(lines) + "\n"


def _phase(rollout: dict[str, Any]) -> str:
    return f"stage {rollout['stage'] + 1}" if rollout["phase"] == "canary" else str(rollout["phase"])


def _verdict(verdict: dict[str, Any]) -> str:
    more = verdict.get("more_requests")
    tail = (
        f", about {more} more requests" if more is not None and verdict["verdict"] == "inconclusive" else ""
    )
    by = " by unit" if verdict.get("unit") == "units" else ""
    return f"{verdict['metric']}{by}: {verdict['verdict']}{tail}"


def _variant(name: str, v: dict[str, Any]) -> str:
    parts = [f"{name}: {v['assigned']} assigned, {v['errors']} errors, {v['fallbacks']} fallbacks"]
    if v["latency_ms"]:
        parts.append("p50 {p50:.1f} ms, p99 {p99:.1f} ms".format(**v["latency_ms"]))
    for metric, reward in v["rewards"].items():
        if reward["count"]:
            ends = reward["interval"]
            interval = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends is not None else ""
            parts.append(f"{metric} {reward['mean']:.4g}{interval} of {reward['count']:g}")
    if v["probability_best"] is not None:
        parts.append(f"P(best) {v['probability_best']:.3f}")
    return "; ".join(parts)
