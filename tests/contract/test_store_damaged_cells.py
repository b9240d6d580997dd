"""A damaged cell of the aggregates fails nothing: what the record tells is computed again, the rest is counted."""

from __future__ import annotations

import asyncio
import json
import sqlite3

import pytest

from gateway.record.context import pack
from gateway.record.events import Reward
from gateway.state import damage
from gateway.state.base import Retention
from gateway.state.redis import RedisStore
from gateway.state.redis.codec import cell_field, linear_field
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from tests.support.made import T0, outcome, reward

ROWS = [outcome(T0 + 10 * bucket + part, total_ms=5.0 + part) for bucket in range(3) for part in range(4)]
CELL = int(T0) + 10
"""The start of the bucket whose cells are damaged."""
FINGERPRINT = bytes(range(8))


async def _garble(store: Store, what: str) -> None:
    if isinstance(store, SqliteStore):
        table, column = {
            "counts": ("outcome_cells", "latency"),
            "sums": ("reward_cells", "total_rest"),
            "total of counts": ("outcome_totals", "gateway"),
            "total of sums": ("reward_totals", "data"),
        }[what]
        where = f"WHERE start = {CELL}" if "total" not in what else ""
        with sqlite3.connect(store.path) as connection:
            connection.execute(f"UPDATE {table} SET {column} = x'0102030405' {where}")
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        letter, epoch = ("c" if "counts" in what else "s"), (-1 if "total" in what else 1)
        field = cell_field(epoch, "v1", None if letter == "c" else "correct")
        key = f"{store._link.of_route('digits')}:{letter}:{'all' if epoch < 0 else CELL}"
        assert await store._link.command("HSET", key, field, b"\1\2\3\4\5") == 0


async def _read(store: Store) -> tuple[object, ...]:
    return (
        await store.counts("digits"),
        await store.counts("digits", since=T0),
        await store.decided("digits", since=T0),
        await store.decided("digits", until=T0 + 1000),
        await store.reward_sums("digits"),
        await store.reward_sums("digits", since=T0),
        await store.reward_sums("digits", until=T0 + 1000),
        await store.series("digits", since=T0, until=T0 + 100, step=10),
        await store.metric_names(),
    )


@pytest.mark.parametrize("first", ["read", "append", "reward", "fold", "forget"])
@pytest.mark.parametrize("what", ["counts", "sums", "total of counts", "total of sums"])
async def test_whatever_meets_a_damaged_cell_goes_on(store: Store, what: str, first: str) -> None:
    await store.append(ROWS)
    await store.reward([reward(0.5, of=one) for one in ROWS])
    whole = await _read(store)
    await _garble(store, what)
    lost = isinstance(store, RedisStore) and "total" not in what
    missing = {"counts": 4 * (lost and what == "counts"), "sums": 4 * (lost and what == "sums")}
    added = 0
    if first == "append":
        await store.append([outcome(T0 + 11)])
        added = 1
    elif first == "reward":
        more = [reward(0.5, of=outcome(T0 + 10 * bucket + 1)) for bucket in range(3)]
        assert await store.reward(more) == ["accepted"] * 3
        assert await store.reward(more) == ["duplicate"] * 3
    elif first != "read":
        aggregates = 1e9 if first == "fold" else 3 * 86_400.0
        while await store.prune(Retention(aggregates=aggregates), now=T0 + 4 * 86_400):
            pass
    await _read(store)
    found = await _read(store)
    if first == "read" and not lost:
        assert found == whole
    if first == "forget":
        assert found[0] == {} == found[4]
        return
    counts, sums = await store.counts("digits"), await store.reward_sums("digits")
    assert counts["v1"].assigned == len(ROWS) + added - missing["counts"]
    assert sum(counts["v1"].latency.values()) == counts["v1"].served
    assert sums["v1", "correct"].count == len(ROWS) + 3 * (first == "reward") - missing["sums"]
    assert counts == await store.counts("digits", since=0.0)
    assert sums == await store.reward_sums("digits", since=0.0)
    known = await store.load(damage.KIND, "digits")
    assert (known is not None) == lost
    if known is not None:
        assert json.loads(known[1])["cells"] == 1
        assert "Figures of damaged cells are lost (1, the last of 2023-" in damage.message(
            known[1], T0 + 60, 3600.0
        )


@pytest.mark.parametrize("what", ["cell", "total"])
async def test_a_damaged_cell_of_sums_over_features_fails_nothing(store: Store, what: str) -> None:
    def of_minute(minute: int, part: int) -> Reward:
        about = outcome(T0 + 60 * minute + part)
        return reward(0.5, of=about, context=pack(FINGERPRINT, [1.0, 0.25]).hex())

    await store.reward([of_minute(minute, part) for minute in range(3) for part in range(4)])
    name = FINGERPRINT.hex()
    whole, series = (
        await store.linear_sums("digits", name),
        await store.linear_series("digits", name, since=0.0),
    )
    start = int(series[1][0]) if what == "cell" else -1
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            connection.execute("UPDATE linear_cells SET data = x'0102030405' WHERE start = ?", (start,))
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        key = f"{store._link.of_route('digits')}:l:{start if start >= 0 else 'all'}"
        assert await store._link.command("HSET", key, linear_field("v1", "correct", name), b"\1\2\3\4\5") == 0
    assert await store.reward([of_minute(1, 5)]) == ["accepted"]
    left = await store.linear_series("digits", name, since=0.0)
    found = (await store.linear_sums("digits", name))["v1", "correct"]
    lost = series[1][1]["v1", "correct"].count if what == "cell" else 0
    assert found.count == whole["v1", "correct"].count - lost + 1
    assert found.count == sum(sums["v1", "correct"].count for _, sums in left)
    assert (await store.load(damage.KIND, "digits") is not None) == (what == "cell")


async def test_rewards_of_a_unit_that_is_damaged_go_on(store: Store) -> None:
    """In Redis its values so far count as those of a unit that was forgotten."""
    values = [reward(0.5, of=one, unit=7, period="all") for one in ROWS]
    await store.reward(values[:4])
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            connection.execute("UPDATE units SET total_rest = x'0102030405'")
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        (key,) = await store._link.command("KEYS", "*:unit:*")
        for field in await store._link.command("HKEYS", key):
            await store._link.command("HSET", key, field, b"\1\2\3\4\5")
    assert await store.reward(values[4:]) == ["accepted"] * 8
    assert await store.reward([values[5]._replace(value=None)]) == ["updated"]
    assert (await store.reward_sums("digits"))["v1", "correct|sticky"].count == 11


async def test_all_readers_that_meet_it_together_go_on(store: Store) -> None:
    """One of them mends it, and those that find nothing to mend then read again."""
    await store.append(ROWS)
    await _garble(store, "counts")
    found = await asyncio.gather(*(store.counts("digits", since=T0) for _ in range(6)))
    lost = 4 * isinstance(store, RedisStore)
    assert [counts["v1"].assigned for counts in found] == [len(ROWS) - lost] * 6
    known = await store.load(damage.KIND, "digits")
    assert (json.loads(known[1])["cells"] if known is not None else 0) == (1 if lost else 0)


async def test_a_fault_of_ours_is_not_taken_for_damage(store: Store) -> None:
    await store.append(ROWS)
    with pytest.raises(ValueError, match="invalid literal"):
        await store.series("digits", since=T0, until=T0 + 100, step="x")  # type: ignore[arg-type]


async def test_times_that_the_record_no_longer_has_are_lost(sqlite_url: str) -> None:
    """SQLite: the numbers beside a damaged histogram stay."""
    store = SqliteStore(sqlite_url.removeprefix("sqlite:///"))
    await store.open()
    try:
        await store.append(ROWS)
        with sqlite3.connect(store.path) as connection:
            connection.execute("DELETE FROM pages")
        connection.close()
        await _garble(store, "counts")
        found = (await store.counts("digits", since=T0))["v1"]
        assert (found.assigned, sum(found.latency.values())) == (12, 8)
        known = await store.load(damage.KIND, "digits")
        assert known is not None
        assert json.loads(known[1])["cells"] == 1
    finally:
        await store.close()
