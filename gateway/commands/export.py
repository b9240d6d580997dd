"""``turnout export``: the record as Parquet, JSONL or CSV."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.archive.open import open_archive
from gateway.archive.record import WholeRecord
from gateway.clock import wall
from gateway.commands import stores
from gateway.commands.documents import USUAL
from gateway.commands.output import add_json, complain, output_file, print_json, progress, say
from gateway.commands.times import moment
from gateway.config.document import Document
from gateway.config.load import load_file
from gateway.config.service import MetricConfig
from gateway.ingest.export import export, format_of
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
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"read the store of this configuration (default: {USUAL}, without --record)",
    )
    parser.add_argument("--record", metavar="URL", help="read this store (sqlite:///FILE, redis://…)")
    parser.add_argument(
        "--archive", metavar="URL", help="read this archive too (s3://BUCKET/PREFIX, FOLDER), or alone"
    )
    parser.add_argument("--route", metavar="R", help="only this route (default: all)")
    parser.add_argument(
        "--since",
        type=moment,
        metavar="TIME",
        help="only decisions at or after: 1h (ago), 2026-01-31T12:00:00Z",
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="only decisions before")


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read the record: a store, an archive, or both."""

    store: str | None
    archive: str | None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[WholeRecord]:
        """The record. Raises StoreUnavailable, MissingExtra, OSError and ValueError."""
        archive = open_archive(self.archive) if self.archive is not None else None
        if self.store is None:
            if archive is not None and not archive.exists():
                raise ValueError(
                    f"there is no archive at {self.archive}; write the address that 'record.archive' has"
                )
            yield WholeRecord(None, archive)
            return
        store = open_store(self.store)
        await store.open()
        try:
            yield WholeRecord(store, archive)
        finally:
            await store.close()


def read_from(arguments: argparse.Namespace) -> tuple[Source, Document | None]:
    """Return what to read, and the configuration that declares its metrics, if there is one.

    Raises ConfigError and ValueError.
    """
    config = arguments.config
    if config is None and not arguments.record and not arguments.archive and USUAL.exists():
        config = USUAL
    document = load_file(config) if config is not None else None
    archive = arguments.archive
    if archive is None and document is not None and document.record.archive is not None:
        archive = stores.archive_of_file(document.record.archive, config)
    if arguments.archive and not arguments.record:
        return Source(None, archive), document
    if arguments.record:
        url = arguments.record if "://" in arguments.record else f"sqlite:///{arguments.record}"
    elif document is not None:
        url = stores.of_file(document.store, config)
    else:
        raise ValueError("whose record? write --config FILE, --record URL or --archive URL")
    # Reading a record must not make an empty one.
    if stores.missing(url):
        raise ValueError(f"there is no record at {url}; run the gateway first, or name another store")
    return Source(url, archive), document


def main(arguments: argparse.Namespace) -> int:
    try:
        source, document = read_from(arguments)
        piped = str(arguments.out) == "-"
        chosen = arguments.format or ("jsonl" if piped else format_of(arguments.out))
        number = asyncio.run(
            _export(arguments, source, chosen, document.metrics if document is not None else {})
        )
    except stores.FAILURES as error:
        return complain(error)
    if piped:
        return 0
    if arguments.json:
        print_json({"file": str(arguments.out), "format": chosen, "rows": number})
    else:
        say(f"{number} rows in {arguments.out}")
    return 0


async def _export(
    arguments: argparse.Namespace, source: Source, chosen: str, metrics: Mapping[str, MetricConfig]
) -> int:
    async with source.opened() as record:
        with output_file(arguments.out) as target:
            number = await export(
                record,
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
                    f"nothing was written: the record has no rows of the route {arguments.route!r} in that time; "
                    "see --route, --since and --until"
                )
        return number
