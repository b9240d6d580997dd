"""A damaged page of the record is set aside: everything else can be read, and what is missing is counted."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import struct
from contextlib import suppress

import pytest

from gateway.record.events import Outcome
from gateway.record.exposures import exposures
from gateway.record.page import BadPage, DamagedPage, decode, encode
from gateway.state import damage
from gateway.state.base import OutcomeFilter, Retention, StoreUnavailable
from gateway.state.redis import RedisStore
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from policies.sequential.srm import EVERY_UNIT
from tests.support.made import T0, outcome, published, reward, shadowed

GARBLED = b"TPZ1" + bytes(40)


async def _overwrite_first_page(store: Store, data: bytes) -> None:
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            connection.execute("UPDATE pages SET data = ? WHERE id = (SELECT MIN(id) FROM pages)", (data,))
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        await store._link.command("HSET", f"{store._link.of_route('digits')}:page", 1, data)


async def _pages(store: Store) -> tuple[list[Outcome], list[Outcome]]:
    """Two pages, the first of which is damaged."""
    lost = [outcome(T0 + i) for i in range(3)]
    kept = [outcome(T0 + 60 + i) for i in range(3)]
    await store.append(lost)
    await store.append(kept)
    await _overwrite_first_page(store, GARBLED)
    return lost, kept


async def test_all_else_is_read_and_the_damage_is_counted_once(store: Store) -> None:
    lost, kept = await _pages(store)
    for _ in range(2):
        assert await store.outcomes(OutcomeFilter(route="digits")) == kept[::-1]
        assert [r.outcome for r in await store.records(route="digits")] == kept
    assert (await store.decision(lost[0].decision, "digits")).outcome is None
    known = await store.load(damage.KIND, "digits")
    assert known is not None
    assert json.loads(known[1]) == {
        "pages": 1,
        "cells": 0,
        "rewards": 0,
        "last": pytest.approx(T0 + 2, abs=1.0),
    }
    assert "set aside (1, the last of" in damage.message(known[1], T0 + 10, 3600.0)
    assert damage.message(known[1], T0 + 7200, 3600.0) == ""
    # The sums are of cells, which are whole.
    assert (await store.counts("digits"))["v1"].assigned == 6


@pytest.mark.parametrize("way", ["exposures", "page", "reward", "append", "prune", "first"])
async def test_whatever_meets_the_page_goes_on(store: Store, way: str) -> None:
    lost, kept = await _pages(store)
    if way == "exposures":
        found = await store.exposures("digits", since=T0 - 1, until=T0 + 100, below=EVERY_UNIT)
        assert len(found) == 3
    elif way == "page":
        numbers = await store.page_numbers("digits", since=T0 - 1)
        found = await store.page_exposures("digits", numbers, since=T0 - 1, below=EVERY_UNIT)
        assert len(found) == 3
    elif way == "reward":
        assert (await store.decision(kept[0].decision, "digits")).outcome == kept[0]
        assert await store.reward([reward(1.0, of=lost[0])]) == ["accepted"]
    elif way == "first":
        assert await store.first_times({"digits": T0 - 1}) == {"digits": T0 + 60}
    elif way == "append":
        await store.append([*lost, outcome(T0 + 1)])
        assert len(await store.outcomes(OutcomeFilter())) >= 3
    else:
        while await store.prune(Retention(outcomes=1e9, rewards=1e9), now=T0 + 8 * 3600):
            pass
    assert len(await store.outcomes(OutcomeFilter(route="digits", since=T0 + 59))) == 3


async def test_a_page_of_a_later_release_is_not_set_aside(store: Store) -> None:
    await _pages(store)
    later = b"TPX9" + encode([outcome(T0)])[4:]
    await _overwrite_first_page(store, later)
    with pytest.raises(StoreUnavailable, match="a later release"):
        await store.outcomes(OutcomeFilter(route="digits"))
    assert await store.load(damage.KIND, "digits") is None


def test_no_byte_of_a_page_can_fail_a_reader_in_another_way() -> None:
    page = encode([outcome(T0 + i) for i in range(3)])
    for place in range(len(page)):
        for value in (*b"rdBHIQbhiq=tm", 0, page[place] ^ 1, 0xFF):
            changed = page[:place] + bytes([value]) + page[place + 1 :]
            with suppress(BadPage):
                decode(changed)
            with suppress(BadPage):
                exposures([(1, changed)], "digits", since=0.0, until=T0 + 100)


def test_a_number_of_rows_that_the_page_can_not_hold_is_damage() -> None:
    page = encode([outcome(T0)])
    with pytest.raises(DamagedPage):
        decode(page[:4] + b"\xff\xff\xff\x7f" + page[8:])
    with pytest.raises(BadPage):
        decode(b"TPX9")


@pytest.mark.redis
async def test_a_damaged_page_that_an_index_lacks_is_set_aside(redis_url: str) -> None:
    store = RedisStore(redis_url)
    await store.open()
    await _pages(store)
    await store._link.command("ZREM", f"{store._link.of_route('digits')}:last", 1)
    async with asyncio.timeout(60):
        found = await store.page_exposures("digits", [1, 2], since=T0 - 1, below=EVERY_UNIT)
    assert len(found) == 3
    await store.close()


@pytest.mark.redis
@pytest.mark.parametrize("garbled", [b"", b"x", bytes(40), b"[1"], ids=["empty", "short", "zeros", "cut"])
async def test_a_damaged_row_is_left_out(
    redis_url: str, garbled: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(redis_url)
    await store.open()
    one, other = outcome(T0), outcome(T0 + 1)
    await store.append([one, other], [shadowed(of=one), shadowed(of=other)])
    await store.reward([reward(1.0, of=one), reward(1.0, of=other)])
    base = store._link.of_route("digits")
    for kind, name in (("rewards", "correct"), ("shadowed", shadowed(of=one).shadow)):
        key = f"{base}:{kind}:{int(T0) // 3600}"
        assert await store._link.command("HSET", key, one.decision + name.encode(), garbled) == 0
    damaged = await store.decision(one.decision, "digits")
    assert (damaged.outcome, damaged.rewards, damaged.shadows) == (one, (), ())
    first, second = await store.records(route="digits")
    assert first == damaged
    assert (len(second.rewards), len(second.shadows)) == (1, 1)
    found = await store.shadow_responses("digits", shadowed(of=one).shadow, since=T0 - 10)
    assert [row.decision for row in found] == [other.decision]
    assert "a damaged row of the record is left out" in caplog.text
    await store.close()


def _head(flags: int, value: float, counts: int, counted: float, time: float) -> bytes:
    return struct.pack("<BdBdd", flags, value, counts, counted, time)


@pytest.mark.redis
@pytest.mark.parametrize("period", ["", "all"], ids=["plain", "sticky"])
@pytest.mark.parametrize(
    "garbled",
    [
        b"",
        b"x",
        bytes(40),
        _head(1, 1.0, 1, 1.0, T0),
        _head(9, 1.0, 1, 1.0, T0) + b"[]",
        _head(1, math.nan, 1, math.nan, T0) + b"[]",
        _head(3, 1.0, 1, 1.0, T0) + b"\3",
        _head(3, 1.0, 1, 1.0, T0) + b"\xff\xffall",
        _head(3, 1.0, 1, 1.0, T0) + b"\3\0all" + struct.pack("<d", math.inf) + b"[]",
    ],
    ids=["empty", "short", "zeros", "cut", "flags", "not a number", "length", "period", "decided"],
)
async def test_a_damaged_reward_is_replaced_by_the_next_report(
    redis_url: str, garbled: bytes, period: str
) -> None:
    """Nor does it fail those that are reported together with it."""
    store = RedisStore(redis_url)
    await store.open()
    rows = [outcome(T0 + i, unit=i) for i in range(4)]
    given = [reward(0.5, of=one, period=period) for one in rows]
    await store.reward(given[:3])
    key = f"{store._link.of_route('digits')}:rewards:{int(T0) // 3600}"
    assert await store._link.command("HSET", key, rows[0].decision + b"correct", garbled) == 0
    assert await store.reward(given) == ["updated", "duplicate", "duplicate", "accepted"]
    sums = (await store.reward_sums("digits"))["v1", "correct|sticky" if period else "correct"]
    assert (sums.count, sums.total) == (4, 2.0)
    assert (await store.decision(rows[0].decision, "digits")).rewards == (given[0],)
    assert await store.reward([given[0]._replace(value=1.0)]) == ["updated"]
    sums = (await store.reward_sums("digits"))["v1", "correct|sticky" if period else "correct"]
    assert (sums.count, sums.total) == (4, 2.5)
    known = await store.load(damage.KIND, "digits")
    assert known is not None
    assert json.loads(known[1]) == {"pages": 0, "cells": 0, "rewards": 1, "last": T0}
    assert "Damaged rewards were replaced by new reports" in damage.message(known[1], T0 + 60, 3600.0)
    await store.close()


@pytest.mark.redis
@pytest.mark.parametrize("garbled", [b"", b"{gar", b"\xff{}"], ids=["empty", "cut", "bytes"])
async def test_a_damaged_allocation_fails_nothing_else(
    redis_url: str, garbled: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest is replaced by a process that knows it; one that does not goes on with the one before."""
    first, fresh = RedisStore(redis_url), RedisStore(redis_url)
    for store in (first, fresh):
        await store.open()
    for epoch in (1, 2, 3):
        assert await first.publish(published(epoch, probabilities={"v1": 0.1 * epoch, "v2": 1 - 0.1 * epoch}))
    known = (await first.published())["digits"]
    key = f"{first._link.of_route('digits')}:allocations"
    assert await first._link.command("HSET", key, 1, garbled) == 0
    await fresh.append([outcome(T0)])
    while await fresh.prune(Retention(), now=T0 + 86_400):
        pass
    assert [one.epoch for one in await fresh.allocation_history("digits")] == [2, 3]
    assert await first._link.command("HSET", key, 3, garbled) == 0
    found = (await fresh.published())["digits"]
    assert (found.epoch, found.probabilities["v1"]) == (3, pytest.approx(0.2))
    assert (await first.published())["digits"] == known
    assert (await fresh.published())["digits"] == known
    assert await fresh.publish(published(4))
    assert "allocation 3 of the route digits is damaged and was removed" in caplog.text
    for store in (first, fresh):
        await store.close()
