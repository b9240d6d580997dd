"""``turnout status``: the routes of a running gateway at a glance."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any, Final
from urllib.parse import quote

from gateway.commands.output import MISUSED, complain, print_json, say
from gateway.commands.remote import RemoteError, add_remote_arguments, call, route_name
from gateway.commands.report_text import NO_RATIO, Kind, factor_of, kind_of, too_uncertain
from gateway.commands.times import clock_time, moment
from policies.types import ERROR_RATES

WATCH_S: Final = 2.0
MIN_COLUMNS: Final = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "route",
        nargs="?",
        type=route_name,
        metavar="ROUTE",
        help="show one route in full (default: a summary of all)",
    )
    parser.add_argument(
        "--since",
        type=moment,
        metavar="TIME",
        help="figures of ROUTE since this time: 1h (ago), 2026-01-31T12:00",
    )
    parser.add_argument("--watch", action="store_true", help=f"repeat every {WATCH_S:g} s until interrupted")
    add_remote_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    if arguments.since is not None and not arguments.route:
        return complain("--since is for one route; write 'status ROUTE --since 1h'", MISUSED)
    failed = ""
    while True:
        try:
            found = _asked(arguments)
        except RemoteError as error:
            if error.lasting or not arguments.watch:
                return complain(error)
            if str(error) != failed:  # once: it is asked again every 2 s
                complain(f"{error}; trying again every {WATCH_S:g} s")
            failed = str(error)
            time.sleep(WATCH_S)  # a gateway that restarts, for example
            continue
        failed = ""
        if arguments.watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        if arguments.json:
            print_json(found)
        else:
            routes = [found] if arguments.route else found["routes"]
            fleets = "".join(map(_fleet, found.get("engines", ())))
            alarms = "" if arguments.route else _alarms(found)
            text = _banner(found.get("config")) + alarms + "".join(map(_shown, routes)) + fleets
            say(fitted(text.rstrip(), get_terminal_size().columns) if sys.stdout.isatty() else text.rstrip())
        if not arguments.watch:
            return 0
        time.sleep(WATCH_S)


def fitted(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` columns, if no word is longer; what continues a line is indented."""
    wrapped = (
        wrap(
            line,
            max(width, MIN_COLUMNS),
            subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )
    return "\n".join("\n".join(lines) for lines in wrapped)


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.route:
        found = call(arguments, "GET", "/-/routes", holds="routes")
        return found | call(arguments, "GET", "/-/engines", holds="engines")
    query = "" if arguments.since is None else f"?since={arguments.since}"
    path = f"/-/routes/{arguments.route}"
    found = call(arguments, "GET", f"{path}{query}", holds="route")
    shadows = found["shadows"] or ()
    return found | {
        "shadow_reports": {
            name: call(arguments, "GET", f"{path}/shadow?shadow={quote(name)}", holds="latency")
            for name in shadows
        }
    }


def _banner(config: dict[str, Any] | None) -> str:
    """What is wrong with the configuration that came last."""
    refused = config["refused"] if config is not None else None
    if config is None or refused is None:
        return ""
    more = f" and {refused['faults'] - 1} more" if refused["faults"] > 1 else ""
    return (
        f"configuration refused at {clock_time(refused['time'])}: {refused['place']}: {refused['path']}{more}; "
        f"revision {config['revision']} stays in force ('turnout check' and the log say why)\n"
    )


def _shown(route: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in route["allocation"].items())
    lines = [f"{route['route']}: {route['policy']}, epoch {route['epoch']}, {shares}"]
    if route["shadows"]:
        lines.append("  shadows: " + ", ".join(f"{n} {s:.0%}" for n, s in route["shadows"].items()))
    lines += [*_rollout(route["rollout"]), *_asked_of_a_person(route["route"], route["rollout"])]
    # Of a bandit; a canary's are with its rollout.
    lines += [f"  {verdict['variant']}: {_verdict(verdict)}" for verdict in route.get("guardrails") or ()]
    reports = route.get("shadow_reports") or {}
    lines += [
        _agreed(name, found, reports.get(name)) for name, found in (route.get("agreement") or {}).items()
    ]
    lines += list(_unhealthy(route.get("health") or {}))
    stop = route.get("stop")
    if stop is not None and stop["winner"] is not None:
        state = stop["state"].replace("_", " ")
        to = "to take that back" if stop["state"] == "handed_over" else "to hand over"
        lines.append(
            f"  {stop['winner']} has won ({state}{_lead(stop.get('lead'))}); {to}: {stop['command']}"
        )
    declared = route.get("metrics") or {}
    lines += [
        f"  {_variant(n, v, declared)}" for n, v in (route.get("variants") or {}).items() if "assigned" in v
    ]
    return "\n".join(lines) + "\n" + _alarms(route, "  ")


def _alarms(found: dict[str, Any], indent: str = "") -> str:
    return "".join(f"{indent}alarm: {alarm['message']}\n" for alarm in found.get("alarms") or ())


def _fleet(engine: dict[str, Any]) -> str:
    """An engine's nodes by state, what its rows lost, and a line for each node that is not up to date."""
    nodes = engine["nodes"]
    states = Counter(node["state"] for node in nodes)
    shown = ", ".join(f"{count} {state}" for state, count in states.items()) or "no node has asked yet"
    lines = [f"{engine['engine']}: {engine['type']}, nodes: {shown}"]
    if engine["lost_share"]:
        lines.append(f"  {engine['lost_share']:.2%} of the rows of the last five minutes were lost")
    for node in nodes:
        if skew := node.get("clock_skew"):
            way = "ahead" if skew > 0 else "behind"
            lines.append(f"  rows of {node['node']} are refused: its clock is {abs(skew):,.0f} s {way}")
        if node["state"] != "accepted":
            said = f": {node['refused']}" if node["refused"] else ""
            behind = f"; old epoch of {', '.join(node['behind'])}" if node["behind"] else ""
            lines.append(
                f"  {node['node']} is {node['state']} (last seen {clock_time(node['seen'])}){behind}{said}"
            )
    return "\n".join(lines) + "\n"


def _rollout(rollout: dict[str, Any] | None) -> list[str]:
    if rollout is None:
        return []
    decided = rollout.get("decided")
    lines = [f"  rollout: {rollout['state']}, {_phase(rollout)} at {rollout['weight']:.1%}"]
    if rollout.get("bake_until"):
        lines[0] += f", guardrails watch until {clock_time(rollout['bake_until'])}"
    if rollout["state"] == "running" and rollout.get("min_samples"):
        what = "comparisons" if rollout["phase"] == "shadow" else "requests to the candidate"
        lines.append(f"    {rollout['samples']:.0f} of {rollout['min_samples']} {what}")
    if rollout.get("waits"):
        lines.append(f"    the stage's time stands: {rollout['waits']}")
    if rollout["state"] == "running":
        return lines + [f"    {_verdict(v)}" for v in rollout["verdicts"]]
    # What led here; the window that is open now is another one, and mostly empty.
    when = f"{clock_time(decided['time'])}: " if decided is not None else ""
    by = f" (by {decided['actor']})" if decided is not None and decided["actor"] else ""
    return [*lines, f"    {when}{rollout['reason']}{by}"]


def _asked_of_a_person(name: str, rollout: dict[str, Any] | None) -> Iterator[str]:
    """The commands that end a wait."""
    if rollout is None:
        return
    possible, state = rollout["possible"], rollout["state"]
    if state == "waiting" or (state == "running" and "resume" in possible):  # held for client errors
        onward = next(action for action in ("resume", "confirm", "promote") if action in possible)
        yield f"    waits for you: turnout rollout {name} {onward} (or rollback)"


def _agreed(name: str, found: dict[str, Any], report: dict[str, Any] | None) -> str:
    parts = [f"{found['answers']} responses, none compared"]
    if found["compared"]:
        low, high = found["interval"]
        parts = [f"{found['rate']:.1%} of {found['compared']} agree [{low:.1%}, {high:.1%}]"]
    if report is not None and report["seen"]:
        parts.append(f"{sum(count for _, count in report['failed'])} of its last {report['seen']} failed")
        parts += _latencies({f"latency_{q}": one for q, one in report["latency"].items()})
    return f"  shadow {name}: {'; '.join(parts)}"


def _unhealthy(health: dict[str, Any]) -> Iterator[str]:
    """A line for each address that is not healthy, with the variants that use it."""
    states: dict[str, tuple[str, list[str]]] = {}
    for variant, addresses in health.items():
        for address in addresses:
            if address["state"] != "healthy":
                states.setdefault(address["address"], (address["state"], []))[1].append(variant)
    for address, (state, variants) in states.items():
        yield f"  {address} is {state} ({', '.join(variants)})"


def _phase(rollout: dict[str, Any]) -> str:
    ended = (
        rollout["decided"]["source"] if rollout["state"] == "rolled_back" and rollout.get("decided") else ""
    )
    if "promoted" in (rollout["state"], ended):
        return "after the last stage"
    return f"stage {rollout['stage'] + 1}" if rollout["phase"] == "canary" else str(rollout["phase"])


def _verdict(verdict: dict[str, Any]) -> str:
    more, tail = verdict.get("more_requests"), ""
    if more is not None and verdict["verdict"] == "inconclusive":
        tail = f", about {more} more requests to the candidate"
    elif verdict.get("reason"):
        tail = f" ({verdict['reason']})"
    by = " by unit" if verdict.get("unit") == "units" else ""
    return f"{verdict['metric']}{by}: {verdict['verdict']}{tail}"


def _variant(name: str, v: dict[str, Any], declared: dict[str, Any]) -> str:
    parts = [f"{name}: {v['assigned']} assigned, {v['errors']} errors, {v['fallbacks']} fallbacks"]
    lifts, shown = v.get("lift") or {}, (*v["rewards"], *ERROR_RATES)
    parts += [_lift(m, lift, kind_of(m, declared)) for m, lift in lifts.items() if m in shown]
    parts += _latencies(lifts)
    if v["latency_ms"]:
        parts.append("p50 {p50:.1f} ms, p99 {p99:.1f} ms".format(**v["latency_ms"]))
    for metric, reward in v["rewards"].items():
        if reward["count"]:
            ends = reward["interval"]
            interval = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends is not None else ""
            parts.append(f"{metric} {reward['mean']:.4g}{interval} of {reward['count']:g}")
    if v["probability_best"] is not None:
        parts.append(f"P(best) {v['probability_best']:.3f}")
    return "\n      ".join(parts)


def _lead(lead: dict[str, Any] | None) -> str:
    """The observed difference is too large on average, because the winner was named for it; the shrunk one less so."""
    if lead is None:
        return ""
    shrunk, measured = lead["shrunk"], lead["difference"]
    return f", expected lead over {lead['over']} at most about {shrunk:.3g} (shrunk from {measured:.3g})"


def _latencies(lifts: dict[str, Any]) -> list[str]:
    """The differences of the latency quantiles; without enough responses there is none."""
    known = {
        metric: lift for metric, lift in lifts.items() if metric.startswith("latency_") and lift is not None
    }
    return [_lift(metric, lift, "ms") for metric, lift in known.items() if lift["absolute"] is not None]


def _lift(metric: str, lift: dict[str, Any], kind: Kind) -> str:
    """The difference to the baseline, first absolute (of shares in percentage points), then relative; intervals hold
    at all looks."""
    if lift["absolute"] is None:
        return f"{metric} not comparable with {lift['baseline']}: never both drawn at the same time"
    factor, unit = factor_of(kind), {"share": " pp", "ms": " ms", "number": ""}[kind]
    ends = lift["interval"] and [None if end is None else factor * end for end in lift["interval"]]
    interval = _between(ends, "{:+.4g}") or " [not known yet]"
    text = f"{metric} {factor * lift['absolute']:+.4g}{interval}{unit}"
    if too_uncertain(lift["relative_interval"]):
        text += f" ({NO_RATIO})"
    elif lift["relative"] is not None:
        text += f" ({lift['relative']:+.2%}{_between(lift['relative_interval'], '{:+.2%}')})"
    if lift.get("unit") == "units":
        text += " by unit"
    if lift.get("adjusted_by"):
        text += " adjusted"
    return f"{text} against {lift['baseline']}"


def _between(ends: list[float | None] | None, shape: str) -> str:
    if ends is None:
        return ""
    return f" [{', '.join('…' if end is None else shape.format(end) for end in ends)}]"
