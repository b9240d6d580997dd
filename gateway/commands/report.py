"""``turnout report ROUTE``: what the versions of a route did, as one page to sign."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from gateway.clock import wall
from gateway.commands.output import MISUSED, complain, output_file, say
from gateway.commands.remote import (
    RemoteError,
    add_remote_arguments,
    call,
    call_text,
    route_name,
    shown_url,
)
from gateway.commands.report_document import canonical, document
from gateway.commands.report_page import page
from gateway.commands.times import moment

Json = dict[str, Any]

TABLE_ROWS: Final = 10
"""Rows of the table of traffic over time, about."""
BUCKET_S: Final = 10.0
"""Seconds of the gateway's finest figures over time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("route", type=route_name, metavar="ROUTE", help="name of the route")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="only decisions after: 1h (ago), 2026-01-31T12:00"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the page, an HTML file; - is standard output"
    )
    add_remote_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """0 when the page or the document is whole, 1 if the gateway or the file could not be used, 2 without either."""
    if arguments.out is None and not arguments.json:
        return complain("write --out FILE.html for the page, --json for its data, or both", MISUSED)
    if str(arguments.out) == "-" and arguments.json:
        return complain("--json and '--out -' both write to standard output; write --out FILE.html", MISUSED)
    try:
        found = document(responses(arguments), wall())
        if arguments.out is not None:
            with output_file(arguments.out) as target:
                target.write(page(found).encode(errors="backslashreplace"))
    except (RemoteError, ValueError, OSError) as error:
        return complain(error)
    except KeyError as error:
        return complain(
            f"the gateway's API has no {error}: it is of another release; use the 'turnout' of that release"
        )
    if arguments.json:
        say(canonical(found))
    elif str(arguments.out) != "-":
        say(f"report on {arguments.route} in {arguments.out}")
    return 0


def responses(arguments: argparse.Namespace) -> Json:
    """What the API returns about the route, by part of the document; null where the key may not read.

    Raises RemoteError.
    """

    def get(path: str, holds: str, **query: Any) -> Json:
        given = urlencode({key: value for key, value in query.items() if value is not None})
        return call(arguments, "GET", f"{path}?{given}" if given else path, holds=holds)

    base, since = f"/-/routes/{arguments.route}", arguments.since
    report = get(base, "variants", since=since)
    session = get("/-/dashboard/session", "scopes")
    everything = session["routes"] is None
    begin, now = report["first_decision"], report["as_of"]
    step = 0.0 if begin is None else max(BUCKET_S, (now - begin) / TABLE_ROWS)
    shadows = {
        name: get(f"{base}/shadow", "failed", shadow=name, since=since or 0)
        | get(f"{base}/disagreements", "kinds", shadow=name, since=since or 0, limit=1)
        for name in report["agreement"] or ()
        if name in report["variants"]
    }
    config = None
    if everything and "config" in session["scopes"]:
        config = call_text(arguments, f"/-/config?revision={report['revision']}")
    return {
        "gateway": shown_url(arguments),
        "version": get("/-/openapi.json", "info")["info"]["version"],
        "session": session,
        "report": report,
        "history": get(f"{base}/history", "steps", limit=400)["steps"],
        "verdict": get(f"{base}/verdict", "verdict") if report["rollout"] is not None else None,
        "series": None
        if begin is None
        else get(f"{base}/series", "buckets", since=begin, until=now + BUCKET_S, step=step),
        "shadows": shadows,
        "engines": get("/-/engines", "engines")["engines"],
        "gateway_alarms": get("/-/routes", "alarms")["alarms"] if everything else None,
        "config": config,
    }
