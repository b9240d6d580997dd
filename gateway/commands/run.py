"""``turnout run``: the gateway."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from typing import Final

from gateway.commands.documents import add_config
from gateway.commands.output import MISUSED, complain
from gateway.commands.times import count
from gateway.config.faults import ConfigError

MAX_WORKERS: Final = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--workers",
        type=count,
        default=1,
        metavar="N",
        help="number of processes that share the port (default: 1)",
    )
    parser.add_argument("--store", metavar="URL", help="use this store instead of the configured one")


def main(arguments: argparse.Namespace) -> int:
    if arguments.workers > MAX_WORKERS:
        return complain(f"--workers: at most {MAX_WORKERS}; one for each core is enough", MISUSED)
    # Imported late so that 'turnout run --help' is quick. What is imported stays: to look through it for garbage again
    # and again would take a tenth of the start.
    gc.disable()
    from gateway import serving, supervisor
    from gateway.state import open_store

    gc.enable()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        if arguments.store:
            open_store(arguments.store)
    except ValueError as error:
        return complain(f"--store: {error}", MISUSED)
    overrides = {"store": arguments.store} if arguments.store else {}
    try:
        if arguments.workers > 1:
            return supervisor.supervise(arguments.config, arguments.workers, overrides)
        return serving.serve(arguments.config, overrides=overrides)
    except (ConfigError, OSError) as error:
        return complain(error)
