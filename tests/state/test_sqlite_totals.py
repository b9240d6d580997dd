"""SQLite keeps totals, so that what is read each second does not grow with the history of a route."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.record.events import columns
from gateway.record.histogram import merge_packed, pack
from gateway.state.base import StoreUnavailable
from gateway.state.sqlite import SqliteStore, rewards, schema, sums, totals
from gateway.state.sqlite.connect import connect
from gateway.state.sqlite.totals import MergedHistograms
from gateway.state.tally import tally
from policies.types import RewardSums
from tests.support.made import T0, outcome, reward

Query = Callable[[sqlite3.Connection], object]


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    path.touch()
    connection = connect(path)
    try:
        schema.migrate(connection)
        yield connection
    finally:
        connection.close()


def _fill(connection: sqlite3.Connection, first: int, last: int) -> None:
    """A bucket of cells each: an outcome and a reward of each of two variants."""
    connection.execute("BEGIN")
    for bucket in range(first, last):
        made = [
            outcome(T0 + 10 * bucket, epoch=bucket, assigned=v, served=v, total_ms=1.0 + bucket)
            for v in ("v1", "v2")
        ]
        cells = tally(columns(made), lambda route, epoch: None).counts
        sums.add_cells(connection, cells)
        totals.count(connection, cells)
        rewards.upsert(connection, [reward(1.0, of=one, unit=bucket, period="all") for one in made])
    connection.execute("COMMIT")


def _work(connection: sqlite3.Connection, query: Query) -> int:
    """Instructions of SQLite's virtual machine: a few for each row that is read."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 1)
    query(connection)
    connection.set_progress_handler(None, 1)
    return steps


RECENT: dict[str, Query] = {
    "rewards of a bandit": lambda c: sums.reward_sums(c, "digits"),
    "rewards up to a moment ago": lambda c: sums.reward_sums(c, "digits", until=T0 + 10 * (_END - 3)),
    "decisions of an alarm": lambda c: sums.decided(c, "digits", until=T0 + 10 * (_END - 3)),
    "counts of a report": lambda c: sums.counts(c, "digits"),
    "metrics": totals.metric_names,
}
_END = 300


@pytest.mark.parametrize("name", sorted(RECENT))
def test_what_is_read_each_second_does_not_grow_with_history(tmp_path: Path, name: str) -> None:
    with _opened(tmp_path / "store.db") as connection:
        _fill(connection, _END - 10, _END)
        before = _work(connection, RECENT[name])
        _fill(connection, 0, _END - 10)
        assert _work(connection, RECENT[name]) <= before + 20


def test_a_file_of_an_earlier_release_gets_its_totals(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with _opened(path) as connection:
        _fill(connection, 0, 50)
        rewards.upsert(connection, [reward(value, metric="amount") for value in (1e18, 0.1, -1e18, 0.2)])
        counted, summed = sums.counts(connection, "digits"), sums.reward_sums(connection, "digits")
        _without_totals(connection)
    with _opened(path) as connection:
        assert sums.counts(connection, "digits") == counted
        assert sums.reward_sums(connection, "digits") == summed
        assert summed["v1", "amount"] == RewardSums(4, 0.1 + 0.2, 2e36)


def _without_totals(connection: sqlite3.Connection) -> None:
    """Make the file one of the release before totals."""
    for table in ("outcome_totals", "reward_totals", "changed_cells"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("DROP INDEX shadowed_by_route")
    connection.execute(f"PRAGMA user_version = {schema.MIGRATIONS.index(schema._TOTALS)}")


async def test_damaged_cells_of_an_earlier_release_do_not_keep_a_gateway_from_starting(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    made = [outcome(T0 + 10 * bucket) for bucket in range(3)]
    await store.append(made)
    await store.reward([reward(0.1, of=one) for one in made])
    whole = await store.counts("digits"), await store.reward_sums("digits")
    await store.close()
    connection = connect(path)
    connection.execute(f"UPDATE outcome_cells SET latency = x'0102030405' WHERE start = {T0 + 10}")
    connection.execute(f"UPDATE reward_cells SET total_rest = x'01' WHERE start = {T0 + 10}")
    _without_totals(connection)
    connection.close()
    store = SqliteStore(path)
    await store.open()
    try:
        counts = await store.counts("digits")
        assert (counts["v1"].assigned, sum(counts["v1"].latency.values())) == (3, 2)
        assert await store.counts("digits", since=T0) == whole[0], "it is mended once it is read"
        assert (await store.counts("digits"), await store.reward_sums("digits")) == whole
    finally:
        await store.close()


def test_the_upgrade_does_not_hold_the_histograms_of_all_cells_in_memory(tmp_path: Path) -> None:
    """Grouping sorts whole rows, in memory: a file of 94 MB took 109 MB."""
    with _opened(tmp_path / "store.db") as connection:
        totals.add_aggregates(connection)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {totals.OF_OUTCOMES}", ("digits", "v1")).fetchall()
        assert [step[3].split(" (")[0] for step in plan] == ["SEARCH outcome_cells USING PRIMARY KEY"]


def test_many_histograms_are_merged_in_bounded_memory() -> None:
    merged, each = MergedHistograms(), [pack({k % 7: 1, 100 + k % 3: k}) for k in range(2500)]
    for one in each:
        merged.step(one)
        assert len(merged._packed) < 1000
    assert merged.finalize() == merge_packed(*each)


async def test_a_running_gateway_does_not_write_into_a_file_that_a_later_release_migrated(
    tmp_path: Path,
) -> None:
    """It would leave out what the later release keeps beside the sums."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    try:
        await store.reward([reward()])
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
        connection.close()
        with pytest.raises(StoreUnavailable, match="later release"):
            await store.reward([reward()])
        assert (await store.reward_sums("digits"))["v1", "correct"].count == 1
    finally:
        await store.close()
