"""A damaged page of the record is set aside: everything else can be read, and what is missing is counted."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import struct
from contextlib import suppress

import pytest

from gateway.loops.route_states import KIND, RouteStates
from gateway.record.events import Outcome
from gateway.record.exposures import exposures
from gateway.record.page import BadPage, DamagedPage, decode, encode
from gateway.state import damage, open_store
from gateway.state.base import OutcomeFilter, Retention, StoreUnavailable
from gateway.state.redis import RedisStore
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from policies.rollout.ejections import Ejections
from policies.rollout.route import RouteState
from policies.sequential.srm import EVERY_UNIT
from tests.support.heard import Heard
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
    for _ in range(2):
        assert await store.reward([given[0]._replace(value=None)]) == ["updated"]
    assert await store.reward(given) == ["updated", "duplicate", "duplicate", "accepted"]
    sums = (await store.reward_sums("digits"))["v1", "correct|sticky" if period else "correct"]
    assert (sums.count, sums.total) == (4, 2.0)
    assert (await store.decision(rows[0].decision, "digits")).rewards == (given[0],)
    assert await store.reward([given[0]._replace(value=1.0)]) == ["updated"]
    sums = (await store.reward_sums("digits"))["v1", "correct|sticky" if period else "correct"]
    assert (sums.count, sums.total) == (4, 2.5)
    known = await store.load(damage.KIND, "digits")
    assert known is not None
    assert json.loads(known[1]) == {"pages": 0, "cells": 0, "rewards": 3, "last": T0}
    assert "New reports met damaged rewards" in damage.message(known[1], T0 + 60, 3600.0)
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
    for epoch in (1, 2, 3, 4, 5):
        assert await first.publish(published(epoch, probabilities={"v1": 0.1 * epoch, "v2": 1 - 0.1 * epoch}))
    known = (await first.published())["digits"]
    key = f"{first._link.of_route('digits')}:allocations"
    for epoch in (1, 2):
        assert await first._link.command("HSET", key, epoch, garbled) == 0
    await fresh.append([outcome(T0, epoch=2)])
    while await fresh.prune(Retention(), now=T0 + 86_400):
        pass
    assert sorted(await first._link.command("HKEYS", key)) == [b"3", b"4", b"5"]
    for epoch in (4, 5):
        assert await first._link.command("HSET", key, epoch, garbled) == 0
    found = (await fresh.published())["digits"]
    assert (found.epoch, found.probabilities["v1"]) == (5, pytest.approx(0.3))
    assert (await first.published())["digits"] == known
    assert (await fresh.published())["digits"] == known
    assert [one.epoch for one in await fresh.allocation_history("digits")] == [3, 5]
    assert await fresh.publish(published(6))
    assert "allocation 5 of the route digits is damaged and was removed" in caplog.text
    for store in (first, fresh):
        await store.close()


@pytest.mark.redis
async def test_a_route_whose_only_allocation_is_damaged_gets_another(redis_url: str) -> None:
    """After a restart, if no process knows it."""
    first, fresh = RedisStore(redis_url), RedisStore(redis_url)
    for store in (first, fresh):
        await store.open()
    assert await first.publish(published(1))
    key = f"{first._link.of_route('digits')}:allocations"
    assert await first._link.command("HSET", key, 1, b"{gar") == 0
    assert await fresh.published() == {}
    assert await fresh.publish(published(1))
    assert (await fresh.published())["digits"].epoch == 1
    for store in (first, fresh):
        await store.close()


async def _overwrite_document(store: Store, kind: str, name: str, row: bytes) -> None:
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            text = row.partition(b"\n")[2]
            connection.execute(
                "UPDATE documents SET text = CAST(? AS TEXT) WHERE kind = ? AND name = ?", (text, kind, name)
            )
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        key = f"{store._link.of_all}:documents"
        assert await store._link.command("HSET", key, f"{kind}\0{name}", row) == 0


@pytest.mark.parametrize("garbled", [b"1\n", b"1\n{gar", b"1\n\xff{}"], ids=["empty", "cut", "bytes"])
async def test_a_damaged_document_fails_nothing_else(url: str, garbled: bytes) -> None:
    """A process that does not know it goes on without it, and alarms; in Redis, one that does writes it back."""
    store, fresh = open_store(url), open_store(url)
    for one in (store, fresh):
        await one.open()
    assert await store.save("rollout", "digits", '{"share": NaN}', expected=0)
    assert await store.save("rollout", "other", "{}", expected=0)
    await fresh.changed()
    await _overwrite_document(store, "rollout", "digits", garbled)
    assert await fresh.load_all("rollout", ("digits", "other")) == {"other": (1, "{}")}
    await fresh.changed()
    (event,) = await fresh.events()
    told = json.loads(event.data)
    assert (event.kind, told["code"]) == ("alarm", "store_lost_data")
    assert "document rollout 'digits'" in told["message"]
    if isinstance(store, RedisStore):
        assert await store.load("rollout", "digits") == (1, '{"share": NaN}')
    else:
        assert await store.save("rollout", "digits", "[1]", expected=0)
    assert await fresh.load("rollout", "digits") == await store.load("rollout", "digits")
    for one in (store, fresh):
        await one.close()


async def test_a_process_that_knows_the_state_of_a_route_stores_it_again(url: str) -> None:
    store, fresh = open_store(url), open_store(url)
    for one in (store, fresh):
        await one.open()
    states, other = RouteStates(store, Heard(store, float)), RouteStates(store, Heard(store, float))
    ejected = RouteState(None, Ejections("f", 1.0, {"v2": "it fails"}))
    for _ in range(2):
        await states.update("digits", lambda _: (ejected, None))
        await states.update("digits", lambda _: (RouteState(), None))
    await states.update("digits", lambda _: (ejected, None))
    assert await other.read("digits") == ejected
    await _overwrite_document(store, KIND, "digits", b"5\n{gar")
    for one_of in (states, other):
        assert (await one_of.read_all(["digits"]))("digits") == ejected
    assert await RouteStates(fresh, Heard(fresh, float)).read("digits") == ejected
    for one_of in (states, other):
        assert await one_of.update("digits", lambda _: (RouteState(), None)) == (RouteState(), None)
    for one in (store, fresh):
        await one.close()


@pytest.mark.redis
@pytest.mark.parametrize("garbled", [b"", b"x", b"\xff1"], ids=["empty", "letter", "bytes"])
async def test_damaged_numbers_in_redis_go_on_from_what_they_number(redis_url: str, garbled: bytes) -> None:
    writer, fresh = RedisStore(redis_url), RedisStore(redis_url)
    for store in (writer, fresh):
        await store.open()
    for epoch in (1, 2):
        assert await writer.publish(published(epoch))
        await writer.add_revision(time=T0, author="ops", etag=f"e{epoch}", document="n: 1\n")
    await writer.reward([reward(1.0)])
    route = fresh._link.of_route("digits")
    for key in (f"{route}:epoch", f"{route}:changed", f"{fresh._link.of_all}:changed"):
        await fresh._link.command("SET", key, garbled)
    await fresh._link.command("SET", f"{fresh._link.of_all}:revision", garbled)
    await fresh.changed()
    assert [one.epoch for one in await fresh.allocation_history("digits")] == [1, 2]
    assert (await fresh.published())["digits"].epoch == 2
    added = await fresh.add_revision(time=T0, author="ops", etag="e3", document="n: 2\n")
    assert added is not None
    assert added.revision == 3
    assert await fresh.rewards_version("digits") == 0
    await fresh.changed()
    told = "".join(json.loads(event.data)["message"] for event in await fresh.events())
    for number in ("{digits}:epoch", "{.}-:changed", "{digits}:changed", "{.}-:revision"):
        assert (
            f"{number} (it was damaged and is now {2 if number.endswith(('epoch', 'revision')) else 0})"
            in told
        )
    assert await fresh.publish(published(3))
    assert await fresh.reward([reward(1.0)]) == ["accepted"]
    assert await fresh.rewards_version("digits") > 0
    for store in (writer, fresh):
        await store.close()


@pytest.mark.redis
async def test_a_damaged_revision_in_redis_is_written_back_or_left_out(redis_url: str) -> None:
    writer, fresh = RedisStore(redis_url), RedisStore(redis_url)
    for store in (writer, fresh):
        await store.open()
    for number in (1, 2):
        await writer.add_revision(time=T0, author="ops", etag=f"e{number}", document=f"n: {number}\n")
    key = f"{fresh._link.of_all}:revisions"
    assert await fresh._link.command("HSET", key, 2, b"[1, ") == 0
    assert [one.revision for one in await fresh.revisions()] == [1]
    assert [one.revision for one in await writer.revisions()] == [2, 1]
    assert [one.revision for one in await fresh.revisions()] == [2, 1]
    for store in (writer, fresh):
        await store.close()


@pytest.mark.parametrize("garbled", [b"", b"{gar", b"\xff{}", b"7"], ids=["empty", "cut", "bytes", "number"])
async def test_a_damaged_allocation_in_sqlite_is_left_out(sqlite_url: str, garbled: bytes) -> None:
    """The one before stays in force under the number of the newest."""
    store = SqliteStore(sqlite_url.removeprefix("sqlite:///"))
    await store.open()
    for epoch in (1, 2, 3):
        assert await store.publish(published(epoch, probabilities={"v1": 0.1 * epoch, "v2": 1 - 0.1 * epoch}))
    with sqlite3.connect(store.path) as connection:
        connection.execute(
            "UPDATE allocations SET bounds = CAST(? AS TEXT) WHERE epoch IN (1, 3)", (garbled,)
        )
    connection.close()
    found = (await store.published())["digits"]
    assert (found.epoch, found.probabilities["v1"]) == (3, pytest.approx(0.2))
    assert [one.epoch for one in await store.allocation_history("digits")] == [2]
    await store.append([outcome(T0, epoch=3)])
    assert await store.publish(published(4))
    await store.close()


async def test_events_behind_a_damaged_one_are_read(store: Store) -> None:
    whole = [await store.add_event(time=T0 + n, kind="note", route="digits", data="{}") for n in range(2)]
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            connection.execute(
                "UPDATE events SET data = CAST(x'ff' AS TEXT), time = 'x' WHERE id = ?", (whole[0].id,)
            )
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        place = f"{store._link.of_all}:events"
        await store._link.command("DEL", place)
        fields = ("kind", "note", "route", "digits", "time")
        await store._link.command("XADD", place, f"{whole[0].id}-1", *fields, "x", "data", b"\xff")
        await store._link.command("XADD", place, f"{whole[1].id}-1", *fields, T0, "data", b"{}")
    first, second = await store.events()
    assert (first.id, first.time, first.fields) == (whole[0].id, 0.0, {})
    assert (second.id, second.data) == (whole[1].id, "{}")
    await store.prune(Retention(events_with_allocations=0), now=T0)


async def test_a_file_that_was_moved_acknowledges_nothing_until_it_is_back(sqlite_url: str) -> None:
    """Rewards were acknowledged, and gone with the process; a reader made an empty file, for which SQLite removed what
    was acknowledged before."""
    store = open_store(sqlite_url)
    await store.open()
    assert isinstance(store, SqliteStore)
    first, second = (reward(1.0, of=outcome(T0 + n)) for n in range(2))
    await store.reward([first])
    elsewhere = store.path.with_name("elsewhere.db")
    store.path.rename(elsewhere)
    for replacement in (None, b""):
        if replacement is not None:
            store.path.write_bytes(replacement)
        with pytest.raises(StoreUnavailable, match="was moved or deleted while it was in use"):
            await store.reward([second])
        with pytest.raises(StoreUnavailable, match="was moved or deleted while it was in use"):
            await store.changed()
    elsewhere.rename(store.path)
    assert await store.reward([first, second]) == ["duplicate", "accepted"]
    again = open_store(sqlite_url)
    await again.open()
    assert await again.reward([first, second]) == ["duplicate", "duplicate"]
    await again.close()
    await store.close()
