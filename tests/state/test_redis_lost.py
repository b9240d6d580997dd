"""A shared store that has lost what it acknowledged gets it back from the processes that go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.state.base import NewEvent, Revision, StoreUnavailable
from gateway.state.redis import RedisStore
from tests.compile.test_revisions import ONE, TWO, Gateway
from tests.support.made import T0, outcome, published, reward
from tests.support.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


@pytest.fixture
async def stores(server: RedisServer) -> AsyncIterator[list[RedisStore]]:
    """Two replicas that went on while the store lost everything, and one that starts afterwards."""
    made = [RedisStore(f"redis://127.0.0.1:{server.port}/0", clock=lambda: T0) for _ in range(3)]
    for store in made:
        await store.open()
    yield made
    for store in made:
        await store.close()


async def test_the_sealing_key_is_offered_again(server: RedisServer, stores: list[RedisStore]) -> None:
    one, other, fresh = stores
    before = await one.secrets("decision-id")
    assert await other.secrets("decision-id") == before
    server.send("FLUSHALL")
    assert await other.secrets("decision-id") == before
    assert await fresh.secrets("decision-id") == before


async def test_keys_of_both_sides_are_kept_where_a_new_replica_was_first(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    one, other, fresh = stores
    (before,) = await one.secrets("decision-id")
    server.send("FLUSHALL")
    (new,) = await fresh.secrets("decision-id")
    assert new != before
    assert await one.secrets("decision-id") == (new, before)
    assert await fresh.secrets("decision-id") == (new, before)
    assert await other.secrets("decision-id") == (new, before)


@pytest.mark.parametrize("fresh_first", [False, True])
async def test_the_newest_revision_stays_the_newest(
    server: RedisServer, stores: list[RedisStore], fresh_first: bool
) -> None:
    one, other, fresh = stores
    for k in range(3):
        newest = await one.add_revision(time=T0 + k, author="ops", etag=f"e{k}", document=f"n: {k}\n")
    assert (await other.revisions(limit=1)) == [newest]
    server.send("FLUSHALL")
    if fresh_first:
        await fresh.add_revision(time=T0 + 9, author="file", etag="f", document="old: 1\n")
    assert await one.revisions(limit=1) == [newest]
    assert await fresh.revisions(limit=1) == [newest]
    assert [r.etag for r in await fresh.revisions()] == ["e2", "e1", "f" if fresh_first else "e0"]
    assert await other.revisions(limit=1) == [newest]
    assert await one.add_revision(time=T0, author="ops", etag="x", document="") == Revision(
        4, T0, "ops", "x", document=""
    )


async def test_revisions_of_an_earlier_release_are_indexed_once(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    """An earlier release, or a replica of it beside this one, stores the text only."""
    one, other, _ = stores
    for k in range(3):
        await one.add_revision(time=T0 + k, author="ops", etag=f"e{k}", document=f"n: {k}\n", origin="PUT")
    entries = await one.revision_entries()
    server.send("DEL turnout:{.}-:revision_entries")
    assert await other.revision_entries() == entries
    assert server.send("HLEN turnout:{.}-:revision_entries") == ":3\r\n"


@pytest.mark.parametrize("fresh_first", [False, True])
async def test_the_newest_allocation_stays_the_newest(
    server: RedisServer, stores: list[RedisStore], fresh_first: bool
) -> None:
    one, other, fresh = stores
    await one.publish(published(6))
    newest = published(7, probabilities={"v1": 0.1, "v2": 0.9}, bounds=(0.1, 1.0))
    assert await one.publish(newest, b"ensemble")
    assert await other.published() == {"digits": newest}
    assert await other.ensemble("digits", 7) == b"ensemble"
    server.send("FLUSHALL")
    if fresh_first:
        assert await fresh.publish(published(1))
    assert await other.published() == {"digits": newest}
    assert await fresh.published() == {"digits": newest}
    assert await fresh.ensemble("digits", 7) == b"ensemble"
    assert not await one.publish(published(9))
    assert await one.publish(published(8))


@pytest.mark.parametrize("fresh_first", [False, True])
async def test_the_stage_of_a_rollout_stays(
    server: RedisServer, stores: list[RedisStore], fresh_first: bool
) -> None:
    one, other, fresh = stores
    for version in range(5):
        assert await one.save("rollout", "digits", str(version), expected=version)
    assert await other.load("rollout", "digits") == (5, "4")
    server.send("FLUSHALL")
    if fresh_first:
        assert await fresh.save("rollout", "digits", "{}", expected=0)
    assert await other.load("rollout", "digits") == (5, "4")
    assert await fresh.load("rollout", "digits") == (5, "4")
    assert await one.save("rollout", "digits", "5", expected=5)


async def test_a_replica_that_lagged_does_not_override_what_came_later(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    one, other, _ = stores
    await one.save("rollout", "digits", "[1]", expected=0)
    await other.load("rollout", "digits")
    await one.save("rollout", "digits", "[2]", expected=1)
    server.send("FLUSHALL")
    assert await other.load("rollout", "digits") == (1, "[1]")
    assert await one.load("rollout", "digits") == (2, "[2]")
    assert await other.load("rollout", "digits") == (2, "[2]")


async def test_a_loss_is_told_as_an_alarm_and_event_numbers_go_on(
    server: RedisServer, stores: list[RedisStore], caplog: pytest.LogCaptureFixture
) -> None:
    one, other, _ = stores
    for _ in range(5):
        last = await one.add_event(time=T0, kind="note", route="", data="{}")
    await one.reward([reward(1.0)])
    before = await one.changed()
    await other.changed()  # it reads no events
    server.send("FLUSHALL")
    first = await other.add_event(time=T0, kind="note", route="", data="{}")
    assert first.id > last.id
    after = await one.changed()
    assert after > before
    assert await one.changed() == after
    (event,) = await one.events(after=first.id)
    assert (event.kind, json.loads(event.data)["code"]) == ("alarm", "store_lost_data")
    assert "has lost data" in caplog.text


async def test_a_step_is_not_stored_without_its_event(server: RedisServer, stores: list[RedisStore]) -> None:
    one, _, fresh = stores
    for _ in range(2):
        last = await one.add_event(time=T0, kind="note", route="", data="{}")
    place = f"{one._link.of_all}:event"
    told = [NewEvent(T0, "rollout", "digits", "{}")]
    server.send(f"RENAME {place}s away")
    server.send(f"SET {place}s damaged")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await one.save_with_events("made", "digits", "{}", expected=0, events=told)
    assert await fresh.load("made", "digits") is None
    server.send(f"RENAME away {place}s")
    server.send(f"DEL {place}")
    saved = await fresh.save_with_events("made", "digits", "{}", expected=0, events=told)
    assert saved is not None
    (event,) = saved
    assert event.id > last.id
    assert await one.events(after=last.id) == [event]


async def test_a_route_is_still_listed(server: RedisServer, stores: list[RedisStore]) -> None:
    """Otherwise its keys would never be found, folded or forgotten."""
    one, _, fresh = stores
    await one.append([outcome(T0)])
    server.send("FLUSHALL")
    about = outcome(T0 + 1)
    await one.append([about])
    await one.changed()
    assert (await fresh.decision(about.decision)).outcome == about


async def test_an_old_state_from_the_disk_does_not_come_back_without_a_word(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    """A process that started from its last state, and then met an empty store."""
    one, late, _ = stores
    await one.add_revision(time=T0, author="ops", etag="e", document="old: 1\n")
    await one.secrets("decision-id")
    await late.close()
    late.memory.unpack(json.loads(json.dumps(one.memory.packed(frozenset()))))
    server.send("FLUSHALL")
    (newest,) = await late.revisions()
    assert newest.document == "old: 1\n"
    await late.changed()
    (event,) = await late.events()
    told = json.loads(event.data)
    assert told["code"] == "store_lost_data"
    assert "configuration revision 1 of 2" in told["message"]
    await late.changed()
    assert await late.events(after=event.id) == []


async def test_revisions_that_were_evicted_alone_are_written_back(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    one, _, fresh = stores
    newest = await one.add_revision(time=T0, author="ops", etag="e", document="n: 1\n")
    await one.changed()
    server.send("DEL turnout:{.}-:revisions")
    await one.changed()
    assert await fresh.revisions() == [newest]
    (event,) = await one.events()
    assert "configuration revision 1" in json.loads(event.data)["message"]


async def test_a_start_says_that_the_revisions_are_gone(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    one, _, fresh = stores
    await one.add_revision(time=T0, author="ops", etag="e", document="n: 1\n")
    server.send("DEL turnout:{.}-:revisions")
    assert await fresh.revisions() == []
    await fresh.changed()
    (event,) = await fresh.events()
    assert "the configuration file is used" in json.loads(event.data)["message"]


async def test_a_newest_revision_whose_text_is_lost_is_refused(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    """A process that had the one before published nothing for good, not after a restart either."""
    first, running, restarted, same = (Gateway().revisions(store) for store in (*stores, stores[2]))
    await first.start(ONE)
    await running.start(ONE)
    await first.propose(TWO, "ops", "*")
    server.send("HDEL turnout:{.}-:revisions 2")
    assert await running.refresh() is None
    await restarted.start(ONE)
    for one in running, restarted:
        assert (one.current.revision, await one.may_publish(True)) == (1, True)
        assert one.refused is not None
        assert one.refused["place"] == "the store"
    assert (await same.start(TWO)).revision == 2, "the file has the text"


async def test_buckets_of_before_are_not_taken_for_unchanged(
    server: RedisServer, stores: list[RedisStore]
) -> None:
    one, *_ = stores
    await one.append([outcome(T0)])
    known, _ = await one.changed_cells("digits", since=-1)
    server.send("FLUSHALL")
    await asyncio.sleep(0.02)  # a new count begins at the time: within 4.1 ms it goes on from the old one
    await one.append([outcome(T0 + 100)])
    assert (await one.changed_cells("digits", since=known))[1] is None


@pytest.mark.parametrize("seen", ["break", "loss"])
async def test_versions_of_another_server_are_not_taken_for_those_of_this(
    server: RedisServer, stores: list[RedisStore], seen: str
) -> None:
    """A replica that lagged has other buckets under the same numbers: they were read again after an hour."""
    one, *_ = stores
    await one.append([outcome(T0)])
    await one.reward([reward(1.0)])
    before, _ = await one.changed_cells("digits", since=-1)
    for k in (1, 2):
        await one.append([outcome(T0 + 100 * k)])
    await one.changed()
    known, starts = await one.changed_cells("digits", since=before)
    assert starts is not None
    assert len(starts) == 2
    if seen == "break":
        server.kill()
        with pytest.raises(StoreUnavailable):
            await one.changed()
        server.start()
    for key in ("changed_cells", "cells_version"):
        server.send(f"DEL turnout:{{digits}}:{key}")
    server.send(f"SET turnout:{{digits}}:cells_version {before}")
    server.send("DEL turnout:{digits}:changed")
    if seen == "loss":
        await one.changed()
    for k in (3, 4, 5):
        await one.append([outcome(T0 + 100 * k)])
    newest, starts = await one.changed_cells("digits", since=known)
    assert starts is None
    assert await one.changed_cells("digits", since=newest) == (newest, [])
