"""The record in Parquet files: the same rows and figures as from the store, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.dataset
import pytest

from gateway.archive.files import ParquetArchive
from gateway.archive.open import open_archive
from gateway.archive.record import WholeRecord
from gateway.archive.row_groups import RowGroups
from gateway.config.document import Document
from gateway.config.load import load
from gateway.ingest.export import export
from gateway.ingest.ope_dataset import OffPolicyDataset
from gateway.loops.allocation import Allocations
from gateway.loops.archiving import SETTLE_S, Archiving
from gateway.loops.upkeep import prune_store, retention
from gateway.state.base import DecisionRecord, Retention
from gateway.state.sqlite import SqliteStore
from policies.offpolicy.evaluation import Evaluation
from tests.archive.conftest import HOUR, START, decisions
from tests.support.command import turnout
from tests.support.made import outcome, published, reward

NOW = START + 5 * 3600 + SETTLE_S


@dataclass
class Stage:
    """The loop of a leader, with a clock that tests set."""

    store: SqliteStore
    url: str
    now: float = NOW
    window: str = "30m"

    def __post_init__(self) -> None:
        self.loop = Archiving(self.store, document=self.document, leads=lambda: True, clock=lambda: self.now)

    def document(self) -> Document:
        return load(
            f"""
            record: {{archive: "{self.url}", retention: 1h}}
            metrics: {{correct: {{type: boolean, window: {self.window}}}}}
            backends: {{b: {{url: "http://127.0.0.1:1"}}}}
            routes:
              digits: {{match: {{path: /d}}, variants: {{v1: {{backend: b}}}}, policy: {{type: single, variant: v1}}}}
              other: {{match: {{path: /o}}, variants: {{v1: {{backend: b}}}}, policy: {{type: single, variant: v1}}}}
              idle: {{match: {{path: /i}}, variants: {{v1: {{backend: b}}}}, policy: {{type: single, variant: v1}}}}
            """,
            source="archive.yaml",
            env={},
        )

    async def run(self, *, now: float = NOW) -> None:
        """Two looks: before the first, the store may not have everything yet."""
        self.now = now - SETTLE_S
        await self.loop.step()
        self.now = now
        await self.loop.step()

    async def prune(self) -> None:
        """Forget what the loop lets the store forget."""
        limits = retention(self.document(), self.now - self.loop.keep_from())
        while await self.store.prune(limits, now=self.now):
            pass


async def exported(record: WholeRecord, route: str | None = None) -> list[str]:
    target = io.BytesIO()
    await export(record, target, format="jsonl", route=route)
    return target.getvalue().decode().splitlines()


async def test_an_idle_route_costs_no_look_of_its_own(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, records = set(), store.records

    async def noted(**limits: Any) -> list[DecisionRecord]:
        asked.add(limits["route"])
        return await records(**limits)

    monkeypatch.setattr(store, "records", noted)
    await Stage(store, str(tmp_path / "lake")).run()
    assert asked == {"digits", "other"}, "with SQLite, a look at an idle route goes through the whole record"


async def test_a_route_that_was_removed_before_is_archived_too(store: SqliteStore, tmp_path: Path) -> None:
    await store.publish(published(route="removed"))
    await store.append([outcome(START + 60, route="removed")], [])
    stage = Stage(store, str(tmp_path / "lake"), now=NOW + 86_400)
    await stage.loop.step()  # by a clock that is a day ahead
    await stage.run()
    assert len(await exported(WholeRecord(None, open_archive(stage.url)), "removed")) == 1


async def test_only_files_of_the_route_are_read(store: SqliteStore, tmp_path: Path) -> None:
    stage = Stage(store, str(tmp_path / "lake"))
    await stage.run()
    for file in (tmp_path / "lake" / "route=other").rglob("*.parquet"):
        file.write_bytes(b"damaged")
    archive = WholeRecord(None, open_archive(stage.url))
    assert len(await exported(archive, "digits")) == 360
    with pytest.raises(ValueError, match="Parquet"):
        await exported(archive)


async def test_hours_before_the_first_decision_are_looked_through_once(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, first_times = list[float](), store.first_times

    async def noted(since: Mapping[str, float]) -> dict[str, float]:
        asked.append(min(since.values()))
        return await first_times(since)

    monkeypatch.setattr(store, "first_times", noted)
    stage = Stage(store, str(tmp_path / "lake"), window="10h")  # no hour is final yet
    await stage.run()
    await stage.loop.step()
    assert asked[0] == 0.0
    assert asked[1] >= NOW - 12 * 3600


async def test_all_rows_and_figures_are_those_of_the_store(store: SqliteStore, url: str) -> None:
    stage, stored = Stage(store, url), WholeRecord(store)
    before = {route: await exported(stored, route) for route in (None, "digits")}
    assert len(before[None]) == 720
    await stage.run()
    assert stage.loop.troubles() == {"archive_failed": ""}
    archive = open_archive(url)
    for record in (WholeRecord(None, archive), WholeRecord(store, archive)):
        assert {route: await exported(record, route) for route in (None, "digits")} == before

    reports = []
    for record in (stored, WholeRecord(None, archive)):
        dataset, evaluation = OffPolicyDataset("correct"), Evaluation({"v1": 0.4, "v2": 0.6})
        async for records in record.chunks(route="digits", since=START + 100, until=START + 3 * 3600 + 700):
            evaluation.add(dataset.rows(records))
        reports.append(evaluation.report())
    assert reports[0] == reports[1]
    assert reports[0].refusal is None
    # Half a year later the store has nothing left.
    await stage.run(now=NOW + 180 * 86_400)
    await stage.prune()
    assert await exported(WholeRecord(store)) == []
    assert await exported(WholeRecord(store, archive)) == before[None]


async def test_other_programs_read_it(store: SqliteStore, tmp_path: Path) -> None:
    await Stage(store, str(tmp_path / "lake")).run()
    lake = pyarrow.dataset.dataset(str(tmp_path / "lake"), partitioning="hive")
    assert lake.count_rows() == 720
    table = lake.to_table(
        columns=["decision", "rewards", "day"], filter=pyarrow.dataset.field("route") == "digits"
    )
    assert set(table.column("day").to_pylist()) == {"2023-11-14", "2023-11-15"}
    assert sum(map(len, table.column("rewards").to_pylist())) == 340


async def test_a_reward_that_comes_later_is_read_and_archived(store: SqliteStore, tmp_path: Path) -> None:
    stage = Stage(store, str(tmp_path / "lake"), window="20h")
    await stage.run()
    early = open_archive(stage.url)
    row = decisions()[0]
    (outcome_,) = [one.outcome for one in await store.records(limit=1)]
    assert outcome_ is not None
    assert outcome_.time == row.time
    await store.reward([reward(0.75, of=outcome_, time=NOW)])
    newest = await exported(WholeRecord(store))
    assert json.loads(newest[0])["reward_correct"] == 0.75
    assert await exported(WholeRecord(store, early)) == newest
    assert json.loads((await exported(WholeRecord(None, early)))[0])["reward_correct"] == 0.0
    assert stage.loop.keep_from() == START  # so that it can be written once more
    await stage.run(now=NOW + 86_400)
    assert await exported(WholeRecord(None, open_archive(stage.url))) == newest
    assert stage.loop.keep_from() > NOW


async def test_writing_again_keeps_what_the_store_has_lost(store: SqliteStore, url: str) -> None:
    stage = Stage(store, url, window="20h")
    await stage.run()
    before = await exported(WholeRecord(None, open_archive(url)))
    while await store.prune(Retention(outcomes=4.2 * 3600), now=NOW):
        pass
    late = outcome(START + 2, route="digits")
    await store.append([late])
    await stage.run(now=NOW + 86_400)
    after = await exported(WholeRecord(None, open_archive(url)))
    assert [line for line in after if late.decision.hex() not in line] == before
    assert len(after) == len(before) + 1


CRASH = """
import os, resource, signal, sys
from gateway.archive.files import ParquetArchive
from gateway.archive.open import open_archive
from gateway.state.base import DecisionRecord
from tests.support.made import outcome

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[1] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
writer = open_archive(sys.argv[2]).writer("digits", int(sys.argv[3]), final=True)
try:
    for k in range(20):
        rows = [outcome(int(sys.argv[3]) * 3600.0 + k, request_id=os.urandom(20).hex()) for _ in range(1000)]
        writer.add([DecisionRecord(row, (), ()) for row in rows])
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    writer.commit()
except OSError as error:
    writer.abort()
    sys.exit(f"failed: {error}")
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "full"])
async def test_a_crash_or_a_full_disk_leaves_the_last_file(
    store: SqliteStore, tmp_path: Path, how: str
) -> None:
    stage = Stage(store, str(tmp_path / "lake"), window="20h")
    await stage.run()
    before = await exported(WholeRecord(None, open_archive(stage.url)))
    crash = subprocess.run(
        [sys.executable, "-c", CRASH, how, stage.url, str(HOUR)], capture_output=True, text=True, timeout=60
    )
    assert crash.returncode == (-9 if how == "killed" else 1), crash.stderr
    assert how == "killed" or "failed: " in crash.stderr
    assert await exported(WholeRecord(None, open_archive(stage.url))) == before
    left = list((tmp_path / "lake").rglob(".*"))
    assert len(left) == (1 if how == "killed" else 0)
    await stage.run(now=NOW + 86_400)
    assert await exported(WholeRecord(None, open_archive(stage.url))) == before
    assert list((tmp_path / "lake").rglob(".*")) == []


async def test_what_was_written_but_not_noted_is_written_again(store: SqliteStore, url: str) -> None:
    before = await exported(WholeRecord(store))
    writer = open_archive(url).writer("digits", HOUR, final=False)
    async for records in WholeRecord(store).chunks(route="digits", until=START + 3600):
        writer.add(records)
    writer.commit()
    await Stage(store, url).run()
    assert await exported(WholeRecord(None, open_archive(url))) == before


async def test_a_stop_closes_a_file_only_after_the_piece_that_is_being_written(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[str]()
    write, abort = RowGroups.write, RowGroups.abort

    def slow(rows: RowGroups, table: Any) -> None:
        begun.set()
        go_on.wait(60)
        write(rows, table)
        done.append("written")

    def closed(rows: RowGroups) -> None:
        abort(rows)
        done.append("closed")

    monkeypatch.setattr(RowGroups, "write", slow)
    monkeypatch.setattr(RowGroups, "abort", closed)
    loop = asyncio.create_task(Stage(store, str(tmp_path / "lake")).run())
    await asyncio.to_thread(begun.wait, 60)
    loop.cancel()
    await asyncio.sleep(0.05)  # in which a thread could close it
    go_on.set()
    await asyncio.wait({loop})
    assert done == ["written", "closed"]
    assert list((tmp_path / "lake").rglob("*.parquet*")) == []


async def test_an_archive_that_fails_holds_the_store_back(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("not a folder")
    stage = Stage(store, str(tmp_path / "lake"))
    assert stage.loop.keep_from() == float("-inf")
    await stage.run()
    assert "lake" in stage.loop.troubles()["archive_failed"]
    stage.now = NOW + 365 * 86_400
    await stage.prune()
    assert len(await exported(WholeRecord(store))) == 720
    (tmp_path / "lake").unlink()
    await stage.run(now=stage.now)
    assert stage.loop.troubles() == {"archive_failed": ""}
    await stage.prune()
    assert len(await exported(WholeRecord(store))) == 0
    assert len(await exported(WholeRecord(None, open_archive(stage.url)))) == 720


async def test_a_route_that_cannot_be_written_holds_up_no_other(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, writer = Stage(store, str(tmp_path / "lake")), ParquetArchive.writer

    def fails(archive: ParquetArchive, route: str, hour: int, *, final: bool) -> Any:
        if route == "digits":
            raise TypeError("a string is no number")
        return writer(archive, route, hour, final=final)

    monkeypatch.setattr(ParquetArchive, "writer", fails)
    await stage.run()
    assert "a string is no number" in stage.loop.troubles()["archive_failed"]
    archived = await exported(WholeRecord(None, open_archive(stage.url)))
    assert archived == await exported(WholeRecord(store), "other") != []


async def test_a_pruning_that_runs_for_long_forgets_what_was_archived_meanwhile(tmp_path: Path) -> None:
    """A store with many routes always has sums to fold."""
    store = SqliteStore(tmp_path / "small.db")
    await store.open()
    await store.append([outcome(START + 10 * k, route="digits") for k in range(30)], [])
    stage = Stage(store, str(tmp_path / "lake"), now=START + 86_400)
    looks = 0

    def keep_from() -> float:
        nonlocal looks
        looks += 1
        return -inf if looks == 1 else inf

    leader = cast("Allocations", SimpleNamespace(leads=True))
    await prune_store(store, leader, stage.document, lambda: stage.now, keep_from)
    assert looks > 2, "there was more to do after the first step"
    assert await exported(WholeRecord(store)) == []
    await store.close()


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = turnout("export", "--archive", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out.jsonl"))
    assert done.returncode == 1
    assert f"there is no archive at {tmp_path}/nowhere; write the address" in done.stderr


async def test_a_damaged_file_is_not_overwritten(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(store, str(tmp_path / "lake"), window="20h")
    await stage.run()
    (file, *_) = [one for one in open_archive(stage.url).files("digits", None, None) if one.hour == HOUR]
    Path(file.path).write_bytes(b"PAR1 damaged PAR1")
    await stage.run(now=NOW + 86_400)
    assert stage.loop.troubles()["archive_failed"]
    began = datetime.fromtimestamp(START, UTC)
    assert f"the hour from {began:%Y-%m-%d %H}:00 UTC of digits could not be archived" in caplog.text
    assert Path(file.path).read_bytes() == b"PAR1 damaged PAR1"
    assert stage.loop.keep_from() == START
