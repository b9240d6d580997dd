"""The record as a file."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pyarrow.parquet
import pytest

from gateway.archive.record import WholeRecord
from gateway.errors import MissingExtra
from gateway.ingest.export import Format, export, format_of
from gateway.record.events import Outcome
from gateway.state.sqlite import SqliteStore
from tests.support.made import T0, outcome, reward, shadowed


async def fill(store: SqliteStore) -> list[Outcome]:
    rows = [
        outcome(T0, unit=2**64 - 1, request_id='ü,"x\ny'),
        outcome(T0 + 1.5, route="other", served="", fallback=True, error="backend_reset", status=502),
        outcome(T0 + 2, forced=True, request_id="\udcff"),
    ]
    await store.append(rows, [shadowed(of=rows[0], difference=0.5)])
    await store.reward(
        [reward(0.25, of=rows[0]), reward(3, of=rows[0], metric="clicks"), reward(1, of=rows[1])]
    )
    await store.reward([reward(None, of=rows[1])])
    return rows


async def exported(store: SqliteStore, format: Format, **limits: object) -> bytes:  # noqa: A002
    target = io.BytesIO()
    await export(WholeRecord(store), target, format=format, **limits)  # type: ignore[arg-type]
    return target.getvalue()


@pytest.mark.parametrize("start", "=+-@\t\r")
async def test_no_text_of_a_client_is_a_formula(store: SqliteStore, start: str) -> None:
    """S30: a spreadsheet ran what a client had sent as its request id."""
    await store.append([outcome(T0, request_id=f'{start}HYPERLINK("http://evil.example")')])
    (found,) = csv.DictReader(io.StringIO((await exported(store, "csv")).decode(), newline=""))
    assert found["request_id"] == f'\'{start}HYPERLINK("http://evil.example")'
    assert float(found["time"]) == T0


async def test_jsonl(store: SqliteStore) -> None:
    rows = await fill(store)
    lines = [json.loads(line) for line in (await exported(store, "jsonl")).splitlines()]
    assert [line["decision"] for line in lines] == [row.decision.hex() for row in rows]
    assert [line["reward_correct"] for line in lines] == [0.25, None, None]
    assert [line["reward_clicks"] for line in lines] == [3, None, None]
    assert lines[0]["unit"] == "ffffffffffffffff"
    assert lines[0]["request_id"] == 'ü,"x\ny'
    assert lines[1]["fallback"] is True
    assert json.loads(lines[0]["shadows"])[0]["difference"] == 0.5
    assert lines[1]["shadows"] == ""


async def test_csv(store: SqliteStore) -> None:
    await fill(store)
    lines = list(csv.DictReader(io.StringIO((await exported(store, "csv")).decode())))
    assert [line["reward_correct"] for line in lines] == ["0.25", "", ""]
    assert [line["forced"] for line in lines] == ["false", "false", "true"]
    assert lines[0]["request_id"] == 'ü,"x\ny'
    assert float(lines[1]["time"]) == T0 + 1.5


async def test_parquet(store: SqliteStore) -> None:
    rows = await fill(store)
    table = pyarrow.parquet.read_table(io.BytesIO(await exported(store, "parquet")))
    found = table.to_pylist()
    assert [one["decision"] for one in found] == [row.decision.hex() for row in rows]
    assert [one["reward_correct"] for one in found] == [0.25, None, None]
    assert [one["time"].timestamp() for one in found] == [T0, T0 + 1.5, T0 + 2]
    assert found[1]["fallback"] is True
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("status").type) == "int64"


async def test_row_groups_do_not_grow_in_number_with_the_chunks_of_the_record(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds a footer that names each: of groups of 2,000 rows it had a gigabyte for 100 million."""
    rows = [outcome(T0 + i / 10) for i in range(5000)]
    await store.append(rows)
    for group, groups in ((65_536, 1), (3000, 2)):
        monkeypatch.setattr("gateway.archive.row_groups.GROUP_ROWS", group)
        file = pyarrow.parquet.ParquetFile(io.BytesIO(await exported(store, "parquet")))
        assert file.num_row_groups == groups
        assert file.read().column("decision").to_pylist() == [row.decision.hex() for row in rows]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
async def test_an_empty_record_is_a_valid_file(store: SqliteStore, format: Format) -> None:  # noqa: A002
    data = await exported(store, format)
    if format == "parquet":
        assert pyarrow.parquet.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data.count(b"\n") == (1 if format == "csv" else 0)


async def test_route_and_time_limit_what_is_exported(store: SqliteStore) -> None:
    rows = await fill(store)

    async def decisions(**limits: object) -> list[str]:
        return [
            json.loads(line)["decision"] for line in (await exported(store, "jsonl", **limits)).splitlines()
        ]

    assert await decisions(route="other") == [rows[1].decision.hex()]
    assert await decisions(since=T0 + 1, until=T0 + 2) == [rows[1].decision.hex()]
    assert await decisions(since=T0 + 2) == [rows[2].decision.hex()]


@pytest.mark.slow
async def test_memory_stays_bounded_and_progress_is_told(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.archive.record.CHUNK_ROWS", 100)
    for k in range(40):
        await store.append([outcome(T0 + k * 10 + i / 20, features="x" * 2000) for i in range(100)])
    told: list[int] = []

    class Nowhere(io.BytesIO):
        size = 0

        def write(self, data: object) -> int:
            self.size += len(data)  # type: ignore[arg-type]
            return len(data)  # type: ignore[arg-type]

    target = Nowhere()
    tracemalloc.start()
    number = await export(WholeRecord(store), target, format="jsonl", progress=told.append)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == told[-1] == 4000
    assert told == sorted(told)
    assert len(told) == 40
    assert target.size > 8_000_000
    assert peak < target.size / 8


async def test_parquet_without_pyarrow_says_what_to_install(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gateway.archive.row_groups", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"turnout\[export\]"):
        await exported(store, "parquet")


def test_the_format_is_read_off_the_name() -> None:
    names = ["a.parquet", "a.b.jsonl", "x.ndjson", "y.csv"]
    assert [format_of(Path(name)) for name in names] == ["parquet", "jsonl", "jsonl", "csv"]
    with pytest.raises(ValueError, match="endings"):
        format_of(Path("a.txt"))
