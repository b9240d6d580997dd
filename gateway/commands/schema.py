"""``turnout schema``: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import argparse

from gateway.commands.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Save it next to the configuration and start that file with the line "
        "'# yaml-language-server: $schema=turnout.schema.json'."
    )


def main(arguments: argparse.Namespace) -> int:
    # Late: reading the models' sources takes a moment that other commands need not wait for.
    from gateway.config.json_schema import json_schema

    print_json(json_schema())
    return 0
