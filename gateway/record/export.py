"""The record as a file: Parquet, JSONL or CSV, streamed with bounded memory.

One row for each outcome: its fields, the figures of its rewards as columns ``reward_METRIC`` (empty where
nothing was reported), and of its shadows as JSON in ``shadows``. Decisions and units are hexadecimal text,
the unit because 64 unsigned bits are more than many readers of numbers hold.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from gateway.record.events import Outcome
from gateway.state.base import DecisionRecord, Store

Format = Literal["parquet", "jsonl", "csv"]
Row = dict[str, Any]

CHUNK: Final = 2000
"""Outcomes read, and written, at once."""
_TEXTS: Final = frozenset(
    {
        "decision",
        "route",
        "policy",
        "unit",
        "assigned",
        "served",
        "error",
        "attempts",
        "request_id",
        "principal",
        "features",
    }
)
_BOOLEANS: Final = frozenset({"sticky", "forced", "fallback"})
_INTEGERS: Final = frozenset({"revision", "epoch", "status", "request_bytes", "answer_bytes"})


_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class MissingExtra(Exception):
    """The format needs a package that is not installed; the message says how to install it."""


def format_of(path: Path) -> Format:
    """By the name's ending; raises ValueError for another."""
    for ending, name in _ENDINGS.items():
        if path.name.endswith(ending):
            return name
    raise ValueError(
        f"{path.name!r} has none of the endings {', '.join(_ENDINGS)}; write one, or give a format"
    )


_ENDINGS: Final[dict[str, Format]] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}


async def export(
    store: Store,
    target: BinaryIO,
    *,
    format: Format,  # noqa: A002 - what everybody calls it
    route: str | None = None,
    since: float | None = None,
    until: float | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Writes the outcomes of a route (None: all) and a span of time, oldest first; how many these were.

    ``since`` (inclusive) and ``until`` are seconds since the epoch. ``progress`` is told the number of
    rows so far. Raises StoreUnavailable, `MissingExtra` and OSError.
    """
    metrics = await store.metric_names()
    writer = _WRITERS[format](target, metrics)
    number = 0
    async for records in chunks(store, route=route, since=since, until=until):
        writer.write([row(record, metrics) for record in records])
        number += len(records)
        progress(number)
    writer.finish()
    return number


async def chunks(
    store: Store, *, route: str | None = None, since: float | None = None, until: float | None = None
) -> AsyncIterator[list[DecisionRecord]]:
    """The record in pieces of at most `CHUNK`, oldest first."""
    after: bytes | None = None
    while True:
        found = await store.records(route=route, since=since, until=until, after=after, limit=CHUNK)
        if not found:
            return
        yield found
        outcome = found[-1].outcome
        assert outcome is not None
        after = outcome.decision


def row(record: DecisionRecord, metrics: Sequence[str]) -> Row:
    """One record as the export shows it."""
    outcome = record.outcome
    assert outcome is not None
    made: Row = outcome._asdict()
    made["decision"] = outcome.decision.hex()
    made["unit"] = f"{outcome.unit:016x}"
    values = {reward.metric: reward.value for reward in record.rewards}
    for metric in metrics:
        made[f"reward_{metric}"] = values.get(metric)
    made["shadows"] = _shadows(record)
    return made


def _shadows(record: DecisionRecord) -> str:
    if not record.shadows:
        return ""
    shown = [
        {name: value for name, value in shadow._asdict().items() if name not in ("decision", "time", "route")}
        for shadow in record.shadows
    ]
    return _json(shown)


def names(metrics: Sequence[str]) -> list[str]:
    """The columns, in order."""
    return [*Outcome._fields, *(f"reward_{metric}" for metric in metrics), "shadows"]


# The formats --------------------------------------------------------------------------------------
class Writer(Protocol):
    def __init__(self, target: BinaryIO, metrics: Sequence[str]) -> None: ...
    def write(self, rows: Sequence[Row]) -> None: ...
    def finish(self) -> None: ...


class Jsonl:
    """One JSON object a line."""

    def __init__(self, target: BinaryIO, metrics: Sequence[str]) -> None:
        self._target = target

    def write(self, rows: Sequence[Row]) -> None:
        for one in rows:
            self._target.write(_json(one).encode("utf-8", "backslashreplace") + b"\n")

    def finish(self) -> None:
        self._target.flush()


class Csv:
    """With a head line; missing values are empty, booleans true and false."""

    def __init__(self, target: BinaryIO, metrics: Sequence[str]) -> None:
        self._target = target
        self._buffer = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._buffer, names(metrics))
        self._writer.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        for one in rows:
            booleans = {name: "true" if one[name] else "false" for name in _BOOLEANS}
            self._writer.writerow(one | booleans)
        self._empty()

    def finish(self) -> None:
        self._empty()
        self._target.flush()

    def _empty(self) -> None:
        self._target.write(self._buffer.getvalue().encode("utf-8", "backslashreplace"))
        self._buffer.seek(0)
        self._buffer.truncate()


class Parquet:
    """Zstandard-compressed, texts that repeat as dictionaries; ``time`` is a UTC timestamp."""

    def __init__(self, target: BinaryIO, metrics: Sequence[str]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingExtra(
                "Parquet needs pyarrow, which is not installed. Run \"pip install 'turnout[export]'\", "
                "or export as jsonl or csv."
            ) from error
        self._arrow = pyarrow
        self._schema = _schema(pyarrow, metrics)
        self._writer = pyarrow.parquet.ParquetWriter(target, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        shown = [one | {"time": round(one["time"] * 1e6)} for one in rows]
        for one in shown:
            for name in _TEXTS:
                one[name] = one[name].encode("utf-8", "backslashreplace").decode()
        self._writer.write_table(self._arrow.Table.from_pylist(shown, schema=self._schema))

    def finish(self) -> None:
        self._writer.close()


def _schema(arrow: Any, metrics: Sequence[str]) -> Any:
    def kind(name: str) -> Any:
        if name == "time":
            return arrow.timestamp("us", tz="UTC")
        if name in _TEXTS or name == "shadows":
            return arrow.string()
        if name in _BOOLEANS:
            return arrow.bool_()
        return arrow.int64() if name in _INTEGERS else arrow.float64()

    return arrow.schema([(name, kind(name)) for name in names(metrics)])


_WRITERS: Final[dict[Format, type[Writer]]] = {"parquet": Parquet, "jsonl": Jsonl, "csv": Csv}
