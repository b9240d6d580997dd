"""``turnout export``: the record as Parquet, JSONL or CSV."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gateway.clock import wall
from gateway.commands import stores
from gateway.commands.output import add_json, complain, print_json, progress, say
from gateway.commands.times import moment
from gateway.config.document import MetricConfig
from gateway.config.load import load_file
from gateway.ingest.export import MissingExtra, export, format_of
from gateway.state import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="output file, whose extension selects the format; - is standard output",
    )
    parser.add_argument(
        "--format", choices=("parquet", "jsonl", "csv"), help="format, instead of the one of the extension"
    )
    add_json(parser, "print a summary as one JSON document")


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Which part of which record."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="read the store of this configuration")
    parser.add_argument("--record", metavar="URL", help="read this store (sqlite:///FILE, redis://…)")
    parser.add_argument("--route", metavar="R", help="only this route (default: all)")
    parser.add_argument(
        "--since",
        type=moment,
        metavar="TIME",
        help="only decisions at or after: 1h (ago), 2026-01-31T12:00:00Z",
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="only decisions before")


def store_url(arguments: argparse.Namespace) -> str:
    """Raises ValueError and ConfigError."""
    if arguments.record:
        if "://" in arguments.record:
            return str(arguments.record)
        return f"sqlite:///{arguments.record}"
    if arguments.config is None:
        raise ValueError("whose record? write --config FILE or --record URL")
    return stores.of_file(load_file(arguments.config).store, arguments.config)


def declared(arguments: argparse.Namespace) -> Mapping[str, MetricConfig]:
    """The metrics of the configuration that was named, if one was. Raises ValueError and ConfigError."""
    return load_file(arguments.config).metrics if arguments.config is not None else {}


def existing(url: str) -> str:
    """``url``, if its file is there: reading a record must not make an empty one. Raises ValueError."""
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise ValueError(f"there is no record at {url}; run the gateway first, or name another store")
    return url


def main(arguments: argparse.Namespace) -> int:
    try:
        url = existing(store_url(arguments))
        piped = str(arguments.out) == "-"
        chosen = arguments.format or ("jsonl" if piped else format_of(arguments.out))
        number = asyncio.run(_export(arguments, url, chosen, declared(arguments)))
    except (*stores.FAILURES, MissingExtra) as error:
        return complain(error)
    if piped:
        return 0
    if arguments.json:
        print_json({"file": str(arguments.out), "format": chosen, "rows": number})
    else:
        say(f"{number} rows in {arguments.out}")
    return 0


async def _export(
    arguments: argparse.Namespace, url: str, chosen: str, metrics: Mapping[str, MetricConfig]
) -> int:
    store = open_store(url)
    await store.open()
    try:
        with _target(arguments.out) as target:
            number = await export(
                store,
                target,
                format=chosen,  # type: ignore[arg-type]
                route=arguments.route,
                since=arguments.since,
                until=arguments.until,
                declared=metrics,
                now=wall(),
                progress=lambda rows: progress(f"{rows} rows"),
            )
            if number == 0 and arguments.route is not None:
                raise ValueError(
                    f"the record has no rows of the route {arguments.route!r}; nothing was written"
                )
        return number
    finally:
        await store.close()


@contextmanager
def _target(out: Path) -> Iterator[BinaryIO]:
    """Where rows go: a file that is there whole or not at all, or for ``-`` standard output."""
    if str(out) == "-":
        yield sys.stdout.buffer
        return
    if not out.parent.is_dir():
        raise ValueError(f"there is no directory {out.parent}; make it, or write another --out")
    new = out.with_name(f".{out.name}.part")
    try:
        with open(new, "wb") as target:
            yield target
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
        progress()
