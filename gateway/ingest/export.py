"""Export of the record as Parquet, JSONL or CSV, streamed with bounded memory.

One row per outcome: its fields, its rewards in columns ``reward_METRIC`` (empty if not reported), and its shadow
responses as JSON in ``shadows``. For each metric whose missing values count as zero, ``counts_METRIC`` is the value
of the decision (`gateway.ingest.reward_value`). Decisions and units are hexadecimal text; units because many
readers of numbers do not hold 64 unsigned bits.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from gateway.archive.record import WholeRecord
from gateway.config.service import MetricConfig
from gateway.errors import MissingExtra
from gateway.ingest.reward_value import reward_value
from gateway.record.events import Outcome
from gateway.state.base import DecisionRecord

Format = Literal["parquet", "jsonl", "csv"]
Row = dict[str, Any]

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
        "backend_request_id",
        "principal",
        "features",
    }
)
_BOOLEANS: Final = frozenset({"sticky", "forced", "fallback"})


_UNIT_MASK: Final = (1 << 64) - 1
_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def format_of(path: Path) -> Format:
    """The format for the ending of a file name. Raises ValueError for an unknown one."""
    for ending, name in _ENDINGS.items():
        if path.name.endswith(ending):
            return name
    raise ValueError(f"{path.name!r} has none of the endings {', '.join(_ENDINGS)}; write one, or --format")


_ENDINGS: Final[dict[str, Format]] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}


async def export(
    source: WholeRecord,
    target: BinaryIO,
    *,
    format: Format,  # noqa: A002 - the usual name
    route: str | None = None,
    since: float | None = None,
    until: float | None = None,
    declared: Mapping[str, MetricConfig] | None = None,
    now: float = 0.0,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write outcomes to ``target``, oldest first; returns their number.

    Args:
        source: The record.
        target: Destination.
        format: Format of the file.
        route: Name of a route; None for all.
        since: Seconds since the epoch, inclusive; None for no limit.
        until: Seconds since the epoch, exclusive; None for no limit.
        declared: Metrics of the configuration, if known.
        now: Seconds since the epoch, to tell which windows are over.
        progress: Called with the number of rows so far.

    Raises:
        StoreUnavailable: The store cannot be read.
        MissingExtra: The format needs a package that is not installed.
        OSError: The target cannot be written, or the archive not be read.
    """
    metrics = await source.metric_names(route=route, since=since, until=until)
    filled = {name: m for name, m in (declared or {}).items() if m.missing == "zero"}
    writer = _WRITERS[format](target, [*(f"reward_{m}" for m in metrics), *(f"counts_{m}" for m in filled)])
    number = 0
    async for records in source.chunks(route=route, since=since, until=until):
        writer.write([row(record, metrics) | counts(record, filled, now) for record in records])
        number += len(records)
        progress(number)
    writer.finish()
    return number


def row(record: DecisionRecord, metrics: Sequence[str]) -> Row:
    """A record as a row."""
    assert record.outcome is not None
    made = outcome_row(record.outcome)
    values = {reward.metric: reward.value for reward in record.rewards}
    for metric in metrics:
        made[f"reward_{metric}"] = values.get(metric)
    made["shadows"] = _shadows(record)
    return made


def outcome_row(outcome: Outcome) -> Row:
    """An outcome as a row."""
    made: Row = outcome._asdict()
    return made | {"decision": outcome.decision.hex(), "unit": f"{outcome.unit & _UNIT_MASK:016x}"}


def counts(record: DecisionRecord, metrics: Mapping[str, MetricConfig], now: float) -> Row:
    """Columns ``counts_METRIC`` of a record."""
    return {f"counts_{name}": reward_value(record, name, metric, now=now) for name, metric in metrics.items()}


def _shadows(record: DecisionRecord) -> str:
    if not record.shadows:
        return ""
    shown = [
        {name: value for name, value in shadow._asdict().items() if name not in ("decision", "time", "route")}
        for shadow in record.shadows
    ]
    return _json(shown)


def names(rewards: Sequence[str]) -> list[str]:
    """Names of the columns in order; ``rewards`` are those of the metrics."""
    return [*Outcome._fields, *rewards, "shadows"]


# The formats --------------------------------------------------------------------------------------
class Writer(Protocol):
    """Writes rows in one format."""

    def __init__(self, target: BinaryIO, rewards: Sequence[str]) -> None: ...
    def write(self, rows: Sequence[Row]) -> None: ...
    def finish(self) -> None: ...


class Jsonl:
    """One JSON object per line."""

    def __init__(self, target: BinaryIO, rewards: Sequence[str]) -> None:
        self._target = target

    def write(self, rows: Sequence[Row]) -> None:
        for one in rows:
            self._target.write(_json(one).encode("utf-8", "backslashreplace") + b"\n")

    def finish(self) -> None:
        self._target.flush()


_FORMULA_STARTS: Final = frozenset("=+-@\t\r")
"""First characters that make a spreadsheet read a cell as a formula (OWASP, CSV injection)."""


class CsvText:
    """Rows as CSV: a header line; missing values are empty, booleans ``true`` and ``false``.

    Text that a spreadsheet would read as a formula gets a leading apostrophe: clients choose request ids.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._buffer = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._buffer, columns)
        self._writer.writeheader()

    def add(self, rows: Sequence[Row]) -> bytes:
        """Return the lines of ``rows``, after the header the first time."""
        for one in rows:
            booleans = {name: "true" if one[name] else "false" for name in _BOOLEANS}
            texts = {
                name: f"'{one[name]}" for name in _TEXTS if one[name] and one[name][0] in _FORMULA_STARTS
            }
            self._writer.writerow(one | booleans | texts)
        lines = self._buffer.getvalue().encode("utf-8", "backslashreplace")
        self._buffer.seek(0)
        self._buffer.truncate()
        return lines


class Csv:
    """`CsvText` into a file."""

    def __init__(self, target: BinaryIO, rewards: Sequence[str]) -> None:
        self._target = target
        self._text = CsvText(names(rewards))

    def write(self, rows: Sequence[Row]) -> None:
        self._target.write(self._text.add(rows))

    def finish(self) -> None:
        self._target.write(self._text.add(()))  # the header, if there was no row
        self._target.flush()


class Parquet:
    """Compressed with Zstandard, repeated texts as dictionaries; ``time`` is a UTC timestamp."""

    def __init__(self, target: BinaryIO, rewards: Sequence[str]) -> None:
        """Raises MissingExtra without pyarrow."""
        try:
            from gateway.archive import rows as arrow_rows
            from gateway.archive.row_groups import RowGroups
        except ImportError as error:
            raise MissingExtra(
                "Parquet needs pyarrow, which is not installed. Run \"pip install 'turnout[export]'\", "
                "or export as jsonl or csv."
            ) from error
        self._arrow = arrow_rows
        self._schema = arrow_rows.flat_schema(rewards)
        self._writer = RowGroups(target, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        values = {name: [one[name] for one in rows] for name in self._schema.names}
        values["time"] = list(map(self._arrow.microseconds, values["time"]))
        self._writer.write(self._arrow.table(values, self._schema))

    def finish(self) -> None:
        self._writer.finish({})


_WRITERS: Final[dict[Format, type[Writer]]] = {"parquet": Parquet, "jsonl": Jsonl, "csv": Csv}
