"""Where the request log goes: a file of JSON lines, or a directory of Parquet files. Used in the log's thread."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

PARQUET: Final = ".parquet"
"""The ending of a path that means a directory of Parquet files."""
MAX_FILE_REQUESTS: Final = 10_000
MAX_FILE_S: Final = 60.0
"""A file is written when it has this many requests, or its first one is this old."""
BUFFER_BYTES: Final = 1024 * 1024
"""A line larger than the buffer is written past it, and torn where the disk becomes full: the next one is lost, too."""


class Sink(Protocol):
    """Takes lines of JSON. Its methods raise OSError."""

    lost: int
    """Lines that could not be written."""

    def write(self, line: bytes) -> None:
        """Takes one request."""
        ...

    def idle(self) -> None:
        """Nothing waits now."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


def open_sink(path: Path) -> Sink:
    """Raises OSError, and ImportError if Parquet is wanted without pyarrow."""
    return ParquetFiles(path) if path.suffix == PARQUET else JsonLines(path)


class JsonLines:
    """Appends to one file."""

    def __init__(self, path: Path) -> None:
        self.lost = 0
        self._unflushed = 0
        self._file = path.open("ab", BUFFER_BYTES)

    def write(self, line: bytes) -> None:
        """See `Sink`."""
        try:
            self._file.write(line)
        except OSError:
            self.lost += 1
            raise
        self._unflushed += 1

    def idle(self) -> None:
        """See `Sink`."""
        self._file.flush()
        self._unflushed = 0

    def close(self) -> None:
        """See `Sink`."""
        try:
            self._file.close()
        except OSError:
            self.lost += self._unflushed
            raise


class ParquetFiles:
    """Writes whole files into a directory, so that each of them can be read as soon as it has its name."""

    def __init__(self, folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._arrow, self._parquet = pyarrow, pyarrow.parquet
        self._schema = _schema(pyarrow)
        self.lost = 0
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._began = 0.0

    def write(self, line: bytes) -> None:
        """See `Sink`."""
        if not self._rows:
            self._began = time.monotonic()
        self._rows.append(_row(orjson.loads(line)))
        if len(self._rows) >= MAX_FILE_REQUESTS:
            self._flush()

    def idle(self) -> None:
        """See `Sink`."""
        if self._rows and time.monotonic() - self._began >= MAX_FILE_S:
            self._flush()

    def close(self) -> None:
        """See `Sink`."""
        if self._rows:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        name = f"requests-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}{PARQUET}"
        scratch = self._folder / f".{name}"
        try:
            table = self._arrow.Table.from_pylist(rows, schema=self._schema)
            self._parquet.write_table(table, scratch, compression="zstd")
            scratch.rename(self._folder / name)
        except BaseException:
            self.lost += len(rows)
            scratch.unlink(missing_ok=True)
            raise


def _schema(arrow: Any) -> Any:
    text, number = arrow.string(), arrow.int64()
    tensor = arrow.struct(
        {
            "name": text,
            "datatype": text,
            "shape": arrow.list_(number),
            "data": text,
            "truncated": arrow.bool_(),
            "redacted": arrow.bool_(),
        }
    )
    return arrow.schema(
        {
            "time": arrow.timestamp("ms", tz="UTC"),
            "model": text,
            "version": text,
            "rows": number,
            "milliseconds": arrow.float64(),
            "status": number,
            "error": text,
            "inputs": arrow.list_(tensor),
            "outputs": arrow.list_(tensor),
        }
    )


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """The values of tensors as JSON: they have different types, and a column has one."""
    row = {**document, "time": datetime.fromisoformat(document["time"])}
    for side in ("inputs", "outputs"):
        if side in row:
            row[side] = [_tensor(tensor) for tensor in row[side]]
    return row


def _tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    data = {"data": orjson.dumps(tensor["data"]).decode()} if "data" in tensor else {}
    return {"truncated": False, "redacted": False, **tensor, **data}
