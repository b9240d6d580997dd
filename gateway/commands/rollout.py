"""``turnout rollout ROUTE promote|rollback|pause|resume|confirm|restart|set WEIGHT``: steers a running gateway."""

from __future__ import annotations

import argparse
from typing import Any, Final

from gateway.commands.output import MISUSED, complain, print_json, say
from gateway.commands.remote import RemoteError, add_remote_arguments, call, route_name

ACTIONS: Final = ("promote", "rollback", "pause", "resume", "confirm", "restart", "set")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("route", type=route_name, metavar="ROUTE", help="name of the route")
    parser.add_argument("action", type=_action, choices=ACTIONS)
    parser.add_argument("weight", nargs="?", metavar="WEIGHT", help="share for set: 5%% or 0.05")
    parser.add_argument("--reason", default="", metavar="TEXT", help="one line for the history of the route")
    add_remote_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """0 when the gateway did it, 1 when it refused, 2 for words that mean nothing."""
    if arguments.weight is not None and arguments.action != "set":
        return complain(f"{arguments.action} takes no weight; write 'set {arguments.weight}'", MISUSED)
    try:
        body: dict[str, Any] = {"action": arguments.action, "reason": arguments.reason}
        if arguments.action == "set":
            body["weight"] = _weight(arguments.weight)
        found = call(arguments, "POST", f"/-/routes/{arguments.route}/rollout", body, holds="state")
    except RemoteError as error:
        return complain(error)
    if arguments.json:
        print_json(found)
    else:
        say(f"{arguments.route}: {found['state'].replace('_', ' ')}{_who(found)}")
    return 0


def _action(text: str) -> str:
    if text in ACTIONS:
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is unknown; expected one of {', '.join(ACTIONS)}, after the route: turnout rollout ROUTE ACTION"
    )


def _who(found: dict[str, Any]) -> str:
    if "candidate" in found:
        return f", {found['candidate']} at {found['weight']:.1%}"
    return f" to {found['winner']}" if found["winner"] else ""


def _weight(text: str | None) -> float:
    try:
        if text is not None:
            weight = float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
            if text == "1":
                raise RemoteError("set 1 is ambiguous; write 'set 1%' or 'set 100%'")
            if 0.0 <= weight <= 1.0:
                return weight
    except ValueError:
        pass
    wrong = "" if text is None else f", not {text}"
    raise RemoteError(f"set takes a weight between 0% and 100%{wrong}; write 'set 5%' or 'set 0.05'")
