"""``turnout check FILE``: every fault of a configuration, with line, key path and what to write."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import asdict, replace
from typing import Final

from gateway.commands.output import add_json, print_json, say
from gateway.compile.prepare import prepare, standalone
from gateway.config.document import Document
from gateway.config.faults import Fault
from gateway.config.given_up import GivenUp, given_up
from gateway.config.load import ConfigError, Examined, examine, read_text, render_faults

_MAX_NAMED: Final = 5
"""Routes of an engine that are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        default="turnout.yaml",
        metavar="FILE",
        help="configuration file (default: turnout.yaml); '-' reads standard input",
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    """0 when the gateway would take the file (warnings or not), else 1."""
    found = _examined(args.file)
    name = "standard input" if args.file == "-" else args.file
    if args.json:
        print_json(_as_json(name, found))
    else:
        say(_as_text(name, found))
    return 1 if found.document is None else 0


def _examined(file: str) -> Examined:
    try:
        text = sys.stdin.read() if file == "-" else read_text(file)
    except ConfigError as error:
        return Examined(None, error.faults)
    except UnicodeDecodeError as error:
        return Examined(
            None, (Fault(0, 0, "", f"byte {error.start + 1} is not UTF-8; save the file in UTF-8"),)
        )
    found = examine(text, env=os.environ)
    loop = asyncio.new_event_loop()
    try:
        prepared = prepare(found, standalone(loop, os.environ), source=file)
    except ConfigError as error:
        return Examined(None, error.faults)
    finally:
        loop.close()
    return replace(found, warnings=(*found.warnings, *found.placed(prepared.missing)))


def _as_json(name: str, found: Examined) -> dict[str, object]:
    return {
        "file": name,
        "valid": found.document is not None,
        "faults": [asdict(fault) for fault in found.faults],
        "warnings": [asdict(warning) for warning in found.warnings],
        "given_up": [each._asdict() for each in given_up(found.document)] if found.document else [],
    }


def _as_text(name: str, found: Examined) -> str:
    lines = [render_faults(found.faults, source=name)] if found.faults else []
    lines += [f"warning: {render_faults([warning], source=name)}" for warning in found.warnings]
    if found.document is None:
        lines.append(f"{name}: refused, {_count(len(found.faults), 'fault')}")
    else:
        lines += map(_given_up, given_up(found.document))
        lines.append(f"{name}: valid, {_summary(found.document)}")
    return "\n".join(lines)


def _given_up(given: GivenUp) -> str:
    named, more = ", ".join(given.routes[:_MAX_NAMED]), len(given.routes) - _MAX_NAMED
    routes = f"{named} and {more} more" if more > 0 else named
    head = f"given up on the engine {given.engine} ({given.type}) by {routes}:"
    return "\n".join([head, *(f"  {difference}" for difference in given.differences)])


def _summary(document: Document) -> str:
    parts = (
        _count(len(document.routes), "route"),
        _count(len(document.backends), "backend"),
        _count(len(document.metrics), "metric"),
    )
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
