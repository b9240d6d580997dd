"""``turnout version``: the version, the form of the hot path and the interpreter."""

from __future__ import annotations

import argparse
import platform
import sys

from gateway import build
from gateway.commands.remote import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"version": build.version(), "form": build.form(), "python": platform.python_version()})
    else:
        sys.stdout.write(f"{build.described()}\n")
    return 0
