"""Parquet files written piece by piece, with row groups that do not depend on the size of the pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as arrow
from pyarrow import parquet

GROUP_ROWS: Final = 65_536
"""A row group takes the writer 25 kB of memory until it closes the file, then twice that."""


class RowGroups:
    """A Parquet file, compressed with Zstandard."""

    def __init__(self, target: Any, schema: Any, **options: Any) -> None:
        """``target``: a path, or a file that is open for writing."""
        self._writer = parquet.ParquetWriter(target, schema, compression="zstd", **options)
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, table: Any) -> None:
        """Add the rows of a table; they are written once there are enough."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(arrow.concat_tables(self._waiting))
        self._waiting, self._rows = [], 0

    def finish(self, metadata: Mapping[bytes, str]) -> None:
        """Write what is left, and close the file."""
        self._flush()
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()

    def abort(self) -> None:
        """Close the file without the rows that are left."""
        self._writer.close()
