"""``turnout import``: the configuration of another tool as a configuration of ours."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gateway.commands.init import SCHEMA, refuse_existing, write_schema
from gateway.commands.output import FAILURES, add_json, complain, note, output_file, print_json, say
from gateway.commands.tensorzero import Imported, imported
from gateway.commands.tensorzero_text import by_hand_lines
from gateway.config.load import examine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tool", choices=("tensorzero",), help="the tool that the files configure")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="its configuration; several files are read as one"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="output file (default: standard output)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_json(parser, "print the result and what is left to do as one JSON document")


def main(arguments: argparse.Namespace) -> int:
    """0, also where something is left to do by hand; 1 if there is nothing to import."""
    try:
        if str(arguments.out) == "-":
            arguments.out = None
        if arguments.out is not None:
            if arguments.out.resolve() in (file.resolve() for file in arguments.files):
                raise ValueError(f"{arguments.out} is the file to read; write another --out")
            refuse_existing([arguments.out], force=arguments.force)
        result = imported(arguments.files)
        _check(result.text)
        if arguments.out is not None:
            with output_file(arguments.out) as target:
                target.write(result.text.encode())
            write_schema(arguments.out.with_name(SCHEMA))
    except FAILURES as error:
        return complain(error)
    _report(arguments, result)
    return 0


def _check(text: str) -> None:
    """Raise ValueError if ``text`` is not valid, wherever its variables and secret files are set."""
    faults = examine(re.sub(r"(?<!\$)\$\{[^}]*\}", "https://a.example", text), env={}).faults
    if faults:
        raise ValueError(f"the result is not a valid configuration: {faults[0]}")


def _report(arguments: argparse.Namespace, result: Imported) -> None:
    if arguments.json:
        written = {"config": None if arguments.out is None else str(arguments.out), "text": result.text}
        by_hand = [{"keys": keys, "do": advice} for advice, keys in result.by_hand.items()]
        print_json({**written, "variables": result.variables, "by_hand": by_hand})
        return
    if arguments.out is None:
        say(result.text.rstrip())
    else:
        note(f"wrote {arguments.out}; next: turnout check {arguments.out}")
    if result.variables:
        note(f"environment variables that it needs: {', '.join(result.variables)}")
    if result.by_hand:
        note("not imported, and what to do instead:")
        for line in by_hand_lines(result.by_hand):
            note(f"  {line}")
