"""The embedded store when things go wrong: processes die, files are damaged, disks fill up."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest

from gateway.state import open_store
from gateway.state.base import OutcomeFilter, Retention, StoreUnavailable
from gateway.state.paging import MARK_BYTES, milliseconds
from gateway.state.sqlite import SqliteStore, control, pages, schema
from gateway.state.sqlite.connect import connect
from gateway.state.sqlite.readers import Readers
from gateway.state.sqlite.rewards import shadow_responses
from gateway.state.sqlite.schema import MIGRATIONS, migrate
from gateway.state.sqlite.upkeep import Upkeep
from gateway.state.units import UNIT_REST_S
from policies.sequential.srm import EVERY_UNIT
from policies.types import RewardSums
from tests.support.made import T0, drawn_decision, outcome, published, reward

ROOT = Path(__file__).parents[2]


def worker(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.state.workers", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 60, 200])
async def test_a_sigkill_loses_no_acknowledged_reward(tmp_path: Path, after: int) -> None:
    path = tmp_path / "store.db"
    with worker("acknowledge", f"sqlite:///{path}") as victim:
        assert victim.stdout is not None
        acknowledged = [int(victim.stdout.readline()) for _ in range(after)]
        victim.send_signal(signal.SIGKILL)
        lines = victim.stdout.read().split("\n")
        acknowledged += [int(line) for line in lines[:-1]]
    store = await opened(path)
    try:
        for number in acknowledged:
            record = await store.decision(number.to_bytes(16, "big"))
            assert [r.value for r in record.rewards] == [1.0], number
            assert record.outcome is not None, number
        sums = (await store.reward_sums("digits"))["v1", "correct"]
        assert sums.count >= len(acknowledged)
        rows = await store.outcomes(OutcomeFilter(limit=100_000))
        assert (await store.counts("digits"))["v1"].assigned == len(rows)
    finally:
        await store.close()


@pytest.mark.slow
async def test_four_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    batches = 12
    workers = [worker("fill", f"sqlite:///{path}", str(k), str(batches)) for k in range(4)]
    for one in workers:
        with one:
            assert one.wait(timeout=100) == 0
    store = await opened(path)
    try:
        assert (await store.counts("digits"))["v1"].assigned == 4 * batches * 20 + batches
        sums = await store.reward_sums("digits")
        assert sums["v1", "correct"] == RewardSums(4 * batches * 20, 4 * batches * 20.0, 4 * batches * 20.0)
        assert sums["v1", "shared"] == RewardSums(batches, batches * 0.5, batches * 0.25)
        found = await store.load("document", "counter")
        assert found is not None
        assert found[0] == batches
    finally:
        await store.close()


@pytest.mark.long
async def test_a_killed_writer_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with worker("leave_open", f"sqlite:///{path}") as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "open\n"
        victim.kill()
    store = await opened(path)
    assert await store.reward([reward()]) == ["accepted"]
    await store.close()


async def test_reopening_finds_everything(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    about = outcome()
    await store.append([about])
    await store.reward([reward(0.5, of=about)])
    await store.publish(published(1))
    secret = await store.secrets("x")
    await store.close()
    store = await opened(tmp_path / "store.db")
    assert (await store.decision(about.decision)).outcome == about
    assert await store.published() == {"digits": published(1)}
    assert await store.secrets("x") == secret
    await store.append([about])
    assert (await store.counts("digits"))["v1"].assigned == 1
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.changed()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.append([about])


async def test_a_file_that_is_no_database_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database, not at all" * 100)
    with pytest.raises(StoreUnavailable, match=r"store\.db is not an SQLite file.*another file"):
        await SqliteStore(path).open()


async def test_a_damaged_file_is_reported_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await opened(path)
    await store.append([outcome(T0 + i) for i in range(3000)])
    await store.close()
    size = path.stat().st_size
    with closing(sqlite3.connect(path)) as connection:
        (last_root,) = connection.execute("SELECT MAX(rootpage) FROM sqlite_master").fetchone()
    begin = (
        last_root + 2
    ) * 4096  # behind the schema and the roots of the tables, so that the file still opens
    assert size > begin + 10 * 4096
    store = await opened(path)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(os.urandom(size - begin))
    with pytest.raises(StoreUnavailable, match=r"damaged: .*(rowid|[Pp]age).*put back a backup"):
        await SqliteStore(path).open()
    try:
        with pytest.raises(StoreUnavailable, match=r"damaged.*backup"):
            await store.outcomes(OutcomeFilter())
        with pytest.raises(StoreUnavailable, match=r"damaged.*backup"):
            await store.append([outcome(T0 + 9999)])
    finally:
        await store.close()


async def test_a_full_disk_is_reported_and_writing_goes_on_once_there_is_room(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    await store.append([outcome(T0)])
    # The limit stands for a disk: SQLite answers both alike, and the connection keeps it.
    await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchall())

    async def fill() -> None:
        for k in range(200):
            await store.append([outcome(T0 + k + i / 100, features=os.urandom(40).hex()) for i in range(100)])

    with pytest.raises(StoreUnavailable, match=r"no room left.*Free some"):
        await fill()
    assert await store.reward([reward()]) == ["accepted"]
    await store.append([outcome(T0 + 5000)])
    assert (await store.outcomes(OutcomeFilter(limit=1)))[0].time == T0 + 5000
    await store.close()


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="directory exists"):
        await SqliteStore(tmp_path / "missing" / "store.db").open()


READ_ONLY = """
import asyncio, os, sys
import gateway.state.sqlite
from gateway.state import open_store
from gateway.state.base import StoreUnavailable
async def main():
    try:
        await open_store(sys.argv[1]).open()
    except StoreUnavailable as error:
        print(error)
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & 0o001 and directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o005)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    command = [sys.executable, "-c", READ_ONLY, f"sqlite:///{locked / 'store.db'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "may write there" in done.stdout


def _made(path: Path) -> sqlite3.Connection:
    path.touch()
    return connect(path)


async def test_readers_that_failed_leave_no_connections(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    readers = Readers(tmp_path / "store.db", lambda: False, threads=1)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await readers.run(lambda connection: connection.execute("SELECT * FROM none"))
    assert not readers._all
    await readers.close()


async def test_only_its_owner_reads_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S12: it holds the keys that seal decision ids and logins, and was readable by everyone on the machine."""
    path = tmp_path / "store.db"
    before = os.umask(0)
    try:
        store = await opened(path)
        await store.append([outcome(T0)])
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm"), 0o600)
        await store.close()
    finally:
        os.umask(before)
    assert not caplog.records
    path.chmod(0o640)
    await (await opened(path)).close()
    assert path.stat().st_mode & 0o777 == 0o640, "somebody's choice"
    assert "chmod 600" in caplog.text


async def test_a_file_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    await store.close()
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnavailable, match="later release"):
        await SqliteStore(tmp_path / "store.db").open()


def test_migrations_run_once_and_whole(tmp_path: Path) -> None:
    connection = _made(tmp_path / "store.db")
    more = (*schema.MIGRATIONS, "ALTER TABLE events ADD COLUMN seen INTEGER;\nCREATE TABLE extra (a);")
    for migrations in (schema.MIGRATIONS, more, more):
        schema.migrate(connection, migrations)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(more),)
    assert connection.execute("SELECT count(*) FROM extra").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        schema.migrate(connection, (*more, "CREATE TABLE third (a);\nnonsense;"))
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'third'").fetchone() is None
    connection.close()


@pytest.mark.long
async def test_rewards_of_many_callers_share_a_sync(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    before = store._writer.syncs
    await asyncio.gather(*(store.reward([reward(of=outcome(T0 + i))]) for i in range(400)))
    assert store._writer.syncs - before < 100
    await store.append([outcome()])
    assert store._writer.commits > store._writer.syncs, "the record commits without one"
    await store.close()


async def test_one_job_that_fails_takes_nobody_along(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('half', 1)")
        raise RuntimeError("a fault of ours")

    results = await asyncio.gather(
        *(store.reward([reward(of=outcome(T0 + i))]) for i in range(20)),
        store._writer.run(broken),
        store._writer.run(lambda connection: connection.execute("SELECT nonsense")),
        *(store.reward([reward(of=outcome(T0 + i))]) for i in range(20)),
        return_exceptions=True,
    )
    failures = [r for r in results if isinstance(r, BaseException)]
    assert [type(f) for f in failures] == [RuntimeError, StoreUnavailable]
    assert sum(r == ["accepted"] for r in results) == 40
    assert (await store.reward_sums("digits"))["v1", "correct"].count == 40
    connection = sqlite3.connect(tmp_path / "store.db")
    assert connection.execute("SELECT count(*) FROM meta WHERE name = 'half'").fetchone() == (0,)
    connection.close()
    await store.close()


async def test_a_lock_held_by_another_program_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.state.sqlite.connect.BUSY_TIMEOUT_S", 0.1)
    store = await opened(tmp_path / "store.db")
    connection = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        await store.reward([reward()])
    assert await store.changed() == 0, "reading goes on"
    connection.execute("ROLLBACK")
    connection.close()
    assert await store.reward([reward()]) == ["accepted"]
    await store.close()


@pytest.mark.parametrize(
    "url", ["sqlite://x.db", "sqlite:///", "postgres://h/db", "nonsense", "sqlite:///dir/"]
)
def test_addresses_that_name_no_store(url: str) -> None:
    with pytest.raises(ValueError, match="write sqlite:///"):
        open_store(url)


def test_addresses_of_files() -> None:
    relative, absolute, odd = map(open_store, ("sqlite:///a.db", "sqlite:////var/a.db", "sqlite:///a%20b.db"))
    assert [str(one.path) for one in (relative, absolute, odd)] == ["a.db", "/var/a.db", "a b.db"]  # type: ignore[attr-defined]


async def test_rewards_of_an_earlier_release_can_still_be_corrected(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, schema.MIGRATIONS[:1])
    one = reward(1.0)
    columns = [name for name in one._fields if name not in ("context", "period")]
    fields = [getattr(one, name) for name in columns]
    fields[columns.index("unit")] -= 1 << 64
    places = ",".join("?" * (len(columns) + 1))
    connection.execute(
        f"INSERT INTO rewards ({', '.join(columns)}, counted) VALUES ({places})", (*fields, 1.0)
    )
    cell = (one.route, int(one.decided), one.epoch, one.assigned, one.metric, 1, 1.0, 1.0, None, None)
    connection.execute("INSERT INTO reward_cells VALUES (?,?,?,?,?,?,?,?,?,?)", cell)
    connection.close()
    store = await opened(path)
    try:
        assert (await store.decision(one.decision)).rewards == (one,)
        assert await store.reward([one._replace(value=0.0, period="all")]) == ["updated"]
        found = await store.reward_sums("digits")
        assert {name: (s.count, s.total) for (_, name), s in found.items()} == {
            "correct|sticky": (1, 0.0),
            "correct|units": (1, 0.0),
            "correct|weighted": (1, 0.0),
            "correct|weight": (1, 0.5),
            "correct|joint": (1, 0.5),
        }
    finally:
        await store.close()


async def test_a_unit_that_is_silent_for_long_is_forgotten_and_begins_anew(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    forever = Retention(rewards=float("inf"))
    try:
        one = reward(1.0, unit=7, period="e1")
        await store.reward([one])
        while await store.prune(forever, now=T0 + UNIT_REST_S - 10):
            pass
        await store.reward([one._replace(value=0.0)])
        while await store.prune(forever, now=T0 + UNIT_REST_S + 10):
            pass
        # What was counted stays, and a correction after that finds nothing to take away.
        assert await store.reward([one._replace(value=None)]) == ["updated"]
        found = await store.reward_sums("digits")
        assert {name: (s.count, s.total) for (_, name), s in found.items()} == {"correct|units": (1, 0.0)}
        await store.reward([reward(1.0, of=outcome(T0 + UNIT_REST_S), unit=7, period="e1")])
        assert (await store.reward_sums("digits"))["v1", "correct|units"] == RewardSums(2, 1.0, 1.0)
    finally:
        await store.close()


async def test_no_periodic_work_reads_a_whole_table(tmp_path: Path) -> None:
    """A scan of three million rewards held up the writer for 0.65 s each minute."""
    store = await opened(tmp_path / "store.db")
    statements: list[str] = []
    connection = connect(tmp_path / "store.db")
    connection.set_trace_callback(statements.append)
    try:
        await store.append([outcome(T0 + k) for k in range(3)])
        await store.reward([reward(1.0, unit=7, period="e1")])
        for age in (0, 10 * 86_400, 1000 * 86_400):
            Upkeep().step(connection, Retention(), now=T0 + age)
        pages.exposures_of(connection, "digits", since=T0, until=T0 + 60, below=EVERY_UNIT)
        pages.first_times(connection, {"digits": T0, "idle": 0.0})
        control.published(connection)
        connection.set_trace_callback(None)
        plans = {
            text: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
            for text in statements
            if text.startswith(("SELECT", "DELETE", "WITH"))
        }
    finally:
        connection.close()
        await store.close()
    assert len(plans) > 20
    scans = {text: plan for text, plan in plans.items() if any(_TABLE_SCAN.match(step) for step in plan)}
    assert scans == {}


def test_repeating_rows_of_a_node_leaves_their_marks_as_they_are(tmp_path: Path) -> None:
    rows = [outcome(T0 + k / 100, decision=drawn_decision(T0 + k / 100)) for k in range(100)]
    connection = _made(tmp_path / "store.db")
    try:
        migrate(connection)
        sizes = []
        for batch in (rows[:60], rows, rows, rows[30:]):
            pages.only_new(connection, batch)
            sizes.append(connection.execute("SELECT SUM(LENGTH(bits)) FROM seen").fetchone()[0])
    finally:
        connection.close()
    assert sizes == [60 * MARK_BYTES, *[100 * MARK_BYTES] * 3]


async def test_a_step_passes_over_a_bounded_number_of_pages_of_other_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_PASSED_PAGES", 5)
    store = await opened(tmp_path / "store.db")
    try:
        rare = outcome(T0, route="rare")
        await store.append([rare])
        for number in range(30):
            await store.append([outcome(T0 + 10 + number)])
        query = OutcomeFilter(route="rare")
        found, before = await store.scan(query)
        assert found == []
        assert before is not None
        assert milliseconds(before) > milliseconds(rare.decision) + 20_000
        assert await store.outcomes(query) == [rare]
    finally:
        await store.close()


def test_what_is_rare_is_found_by_an_index(tmp_path: Path) -> None:
    connection = _made(tmp_path / "store.db")
    try:
        migrate(connection)
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        pages.scan(connection, OutcomeFilter(errors_only=True))
        shadow_responses(connection, "digits", "v3", since=T0, disagreeing=True)
        shadow_responses(connection, "digits", "v3", since=T0)
        connection.set_trace_callback(None)
        plans = [connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in statements]
    finally:
        connection.close()
    assert [plan[0][3].split("USING INDEX ")[1].split(" ")[0] for plan in plans] == [
        "pages_with_errors",
        "shadowed_disagreeing",
        "shadowed_by_route",
    ]


def test_a_process_waits_for_another_that_migrates_however_long_that_takes(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = _made(path)
    first.execute("BEGIN IMMEDIATE")
    second = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(migrate, second)
            wait([done], timeout=0.2)
            first.execute("ROLLBACK")
            done.result(timeout=30.0)
        assert second.execute("PRAGMA busy_timeout").fetchone() == (0,)
        assert second.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    finally:
        first.close()
        second.close()


_TABLE_SCAN = re.compile(r"SCAN (?!CONSTANT|routes|\d|\()")


@pytest.mark.slow
async def test_long_walks_through_the_record_hold_up_nothing_short(tmp_path: Path) -> None:
    """Allocations and rollouts read while several callers look for an outcome that is not there."""
    store = await opened(tmp_path / "store.db")
    try:
        for k in range(300):
            await store.append([outcome(T0 + k, status=200) for _ in range(500)])
        query = OutcomeFilter(status=418)
        walks = [asyncio.create_task(store.outcomes(query)) for _ in range(6)]
        await asyncio.sleep(0.05)
        await store.changed()
        assert await store.published() == {}
        assert not any(walk.done() for walk in walks)
        assert await asyncio.gather(*walks) == [[]] * 6
    finally:
        await store.close()
