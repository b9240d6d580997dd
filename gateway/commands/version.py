"""``turnout version``: the version, the form of the hot path and the interpreter."""

from __future__ import annotations

import argparse
import platform

from gateway import build
from gateway.commands.output import add_json, print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"version": build.version(), "form": build.form(), "python": platform.python_version()})
    else:
        say(build.described())
    return 0
