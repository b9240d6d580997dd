"""The files of an archive: one for each route and hour, in a folder or an object store.

``ROOT/route=R/day=2026-01-31/07.parquet`` holds the decisions of the hour from 07:00 UTC, ordered by decision. A file
appears whole or not at all: it is written under another name, which readers of partitioned data sets skip, and
renamed. Writing an hour again keeps the rows that the store no longer has.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final

import pyarrow as arrow
from pyarrow import compute, fs, parquet

from gateway.archive.base import HOUR_S, HourFile, attached
from gateway.archive.row_groups import RowGroups
from gateway.archive.rows import SCHEMA, completed, records_of, table_of
from gateway.state.base import DecisionRecord

_BATCH_ROWS: Final = 2000
_BEHIND_ALL: Final = "g"
"""Text behind every hexadecimal decision."""
_FINAL: Final = b"turnout.final"
_METRICS: Final = b"turnout.metrics"


class ParquetArchive:
    """A folder of Parquet files. Its methods block, and raise OSError."""

    def __init__(self, url: str) -> None:
        """Open the archive at ``url``: ``s3://BUCKET/PREFIX``, another URL of pyarrow, or a folder."""
        if "://" in url:
            self._files, self._root = fs.FileSystem.from_uri(url)
        else:
            self._files, self._root = fs.LocalFileSystem(), str(Path(url).absolute())
        self._local = isinstance(self._files, fs.LocalFileSystem)

    def exists(self) -> bool:
        """Whether anything was archived there."""
        selector = fs.FileSelector(self._root, allow_not_found=True)
        return any(info.base_name.startswith("route=") for info in self._files.get_file_info(selector))

    def files(self, route: str | None, since: float | None, until: float | None) -> list[HourFile]:
        """The files with decisions of ``route`` (None: of all) from ``since`` to ``until``, oldest first."""
        place = self._root if route is None else f"{self._root}/route={route}"
        selector = fs.FileSelector(place, allow_not_found=True, recursive=True)
        found = (_hour_file(info.path) for info in self._files.get_file_info(selector) if info.is_file)
        return sorted(
            file
            for file in found
            if file is not None
            and (since is None or (file.hour + 1) * HOUR_S > since)
            and (until is None or file.hour * HOUR_S < until)
        )

    def read(self, file: HourFile) -> Iterator[list[DecisionRecord]]:
        """The records of a file, ordered by decision. Raises ValueError if it is damaged."""
        with parquet.ParquetFile(self._files.open_input_file(file.path)) as source:
            for batch in source.iter_batches(_BATCH_ROWS):
                yield records_of(completed(batch))

    def is_final(self, file: HourFile) -> bool:
        """Whether the file was written after the last window of its decisions."""
        return _FINAL in self._metadata(file)

    def metric_names(self, files: Sequence[HourFile]) -> list[str]:
        """Metrics with a reward in ``files``, in alphabetical order."""
        names = (self._metadata(file).get(_METRICS, b"").decode().split("\n") for file in files)
        return sorted({name for of_file in names for name in of_file if name})

    def _metadata(self, file: HourFile) -> dict[bytes, bytes]:
        with self._files.open_input_file(file.path) as source:
            return parquet.read_metadata(source).metadata or {}

    def writer(self, route: str, hour: int, *, final: bool) -> ParquetHour:
        """A writer of the file of one hour; `ParquetHour.commit` makes it appear."""
        day = datetime.fromtimestamp(hour * HOUR_S, UTC)
        folder = f"{self._root}/route={route}/day={day:%Y-%m-%d}"
        if self._local:
            self._files.create_dir(folder)
        return ParquetHour(self._files, folder, f"{day:%H}.parquet", final=final)


class ParquetHour:
    """Writes one hour: new rows, and those of the last file that are not among them."""

    def __init__(self, files: fs.FileSystem, folder: str, name: str, *, final: bool) -> None:
        self._files = files
        self._path = f"{folder}/{name}"
        self._new = f"{folder}/.{name}.{secrets.token_hex(4)}"
        self._metrics: set[str] = set()
        self._final = final
        self._at_work = Lock()
        """A stop aborts while another thread may still write, which nothing can cancel."""
        for info in files.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
            if info.base_name.startswith(f".{name}."):  # of a process that died
                files.delete_file(info.path)
        self._before = _Before(files, self._path)
        self._writer = RowGroups(self._new, SCHEMA, filesystem=files)

    def add(self, records: Sequence[DecisionRecord]) -> None:
        """Write records, ordered by decision, after those of earlier calls. Raises ValueError for a damaged file."""
        with self._at_work:
            self._add(records)

    def _add(self, records: Sequence[DecisionRecord]) -> None:
        self._metrics.update(reward.metric for record in records for reward in record.rewards)
        table = table_of(records)
        ids = table.column("decision").to_pylist()
        kept = self._before.kept(dict(zip(ids, map(attached, records), strict=True)), ids[-1])
        if kept is not None:
            old = set(kept.column("decision").to_pylist())
            new = _where(table, [one not in old for one in ids])
            table = arrow.concat_tables([new, kept]).sort_by("decision")
        self._writer.write(table)

    def commit(self) -> None:
        """Make the file appear."""
        with self._at_work:
            self._commit()

    def _commit(self) -> None:
        rest = self._before.kept({}, _BEHIND_ALL)
        if rest is not None:
            self._writer.write(rest)
        self._writer.finish(
            {_METRICS: "\n".join(sorted(self._metrics | self._before.metrics))}
            | ({_FINAL: "true"} if self._final else {})
        )
        self._before.close()
        if isinstance(self._files, fs.LocalFileSystem):
            _sync(self._new)
        self._files.move(self._new, self._path)
        if isinstance(self._files, fs.LocalFileSystem):
            _sync(os.path.dirname(self._path))

    def abort(self) -> None:
        """Leave the last file as it is."""
        with self._at_work:
            with suppress(OSError, ValueError):
                self._before.close()
            with suppress(OSError, ValueError):
                self._writer.abort()
            with suppress(OSError):
                self._files.delete_file(self._new)


class _Before:
    """The rows of the file that is written again, read as far as the new rows go."""

    def __init__(self, files: fs.FileSystem, path: str) -> None:
        there = files.get_file_info(path).is_file
        self._source = parquet.ParquetFile(files.open_input_file(path)) if there else None
        self._batches = self._source.iter_batches(_BATCH_ROWS) if self._source is not None else iter(())
        self._waiting: Any = None
        metadata = (self._source.metadata.metadata if self._source is not None else None) or {}
        self.metrics = set(filter(None, metadata.get(_METRICS, b"").decode().split("\n")))

    def kept(self, new: Mapping[str, int], last: str) -> Any:
        """The rows up to the decision ``last`` that are not among the ``new`` ones, or have more attached.

        The store forgets the rewards and shadow responses of a decision row by row, and outcomes page by page.
        """
        found = []
        while (batch := self._next()) is not None:
            ids = batch.column("decision").to_pylist()
            counts = zip(ids, _attached(batch), strict=True)
            found.append(_where(batch, [one <= last and n > new.get(one, -1) for one, n in counts]))
            if ids[-1] > last:
                self._waiting = _where(batch, [one > last for one in ids])
                break
        tables = [completed(one).select(SCHEMA.names) for one in found if len(one)]
        return arrow.concat_tables(tables).cast(SCHEMA) if tables else None

    def _next(self) -> Any:
        batch, self._waiting = self._waiting, None
        return batch if batch is not None else next(self._batches, None)

    def close(self) -> None:
        if self._source is not None:
            self._source.close(force=True)


def _attached(batch: Any) -> list[int]:
    lengths = (compute.list_value_length(batch.column(name)) for name in ("rewards", "shadows"))
    total: list[int] = compute.add(*lengths).to_pylist()
    return total


def _where(batch: Any, chosen: list[bool]) -> Any:
    return batch.filter(arrow.array(chosen, arrow.bool_()))


def _hour_file(path: str) -> HourFile | None:
    """The file of an hour; None for any other."""
    *_, route, day, name = ["", "", *path.split("/")]
    try:
        began = datetime.strptime(f"{day} {name}", "day=%Y-%m-%d %H.parquet").replace(tzinfo=UTC)
    except ValueError:
        return None
    return HourFile(int(began.timestamp() // HOUR_S), route.removeprefix("route="), path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
