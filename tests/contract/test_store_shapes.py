"""JSON of another shape than a store's readers expect is damage, like text that is not JSON."""

from __future__ import annotations

import json
import math
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway.control.session
import gateway.engines.nodes
import gateway.loops.alarms
import gateway.loops.archiving
import gateway.loops.guardrail_verdicts
import gateway.loops.route_states
import gateway.loops.webhooks  # noqa: F401 (each declares its kind of documents)
from gateway.loops.route_shapes import STATE, VERDICT
from gateway.state import shapes
from gateway.state.redis import RedisStore, codec
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from policies.rollout.ejections import Ejections
from policies.rollout.guardrails import Judgement
from policies.rollout.route import RouteState
from policies.rollout.state import State
from policies.rollout.stop_rule import StopState
from policies.rollout.table import Status
from policies.rollout.verdicts import Verdict
from tests.support.made import T0, outcome, published, reward

WRONG_SHAPES = ["null", "5", '"x"', "[]", "[1]", "[null]", "[{}]", '{"a": 1}', "[" * 100_000 + "]" * 100_000]


@pytest.mark.parametrize("kind", sorted(shapes._SHAPES))
async def test_json_of_another_shape_is_damage(store: Store, kind: str) -> None:
    """Whatever is read is what its readers expect, and what was removed can be stored again."""
    for number, text in enumerate(WRONG_SHAPES):
        name = f"n{number}"
        assert await store.save(kind, name, text, expected=0)
        if (await open_and_load(store, kind, name)) is None:
            assert await store.save(kind, name, text, expected=0)
    assert await open_and_load(store, kind, "n1") is None
    assert await open_and_load(store, kind, "n8") is None


async def open_and_load(store: Store, kind: str, name: str) -> tuple[int, str] | None:
    """As a process reads it that has not written it."""
    if isinstance(store, RedisStore):
        store.memory.known_documents.clear()
    found = await store.load(kind, name)
    if found is not None:
        shapes.check_document(kind, found[1])
    return found


@pytest.mark.parametrize(
    ("column", "garbled"),
    [
        ("probabilities", "[]"), ("probabilities", '{"v1": "1"}'), ("bounds", "[null]"),
        ("bounds", "[0.5, 0.25]"), ("bounds", "[0.5, 0.75]"), ("owners", "[0, 7]"), ("owners", "[]"),
        ("evidence", "[1]"), ("evidence", '{"variants": {"v1": 5}}'),
        ("bounds", "[" * 100_000 + "]" * 100_000),
    ],
)  # fmt: skip
async def test_an_allocation_of_another_shape_is_left_out(store: Store, column: str, garbled: str) -> None:
    for epoch in (1, 2):
        assert await store.publish(published(epoch))
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            connection.execute(f"UPDATE allocations SET {column} = ? WHERE epoch = 2", (garbled,))
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        store.memory.known_published.clear()
        whole = json.loads(codec.pack_published(published(2)))
        text = garbled if column == "evidence" else json.loads(garbled) if len(garbled) < 1000 else []
        key = f"{store._link.of_route('digits')}:allocations"
        await store._link.command("HSET", key, 2, json.dumps(whole | {column: text}))
    found = (await store.published())["digits"]
    assert (found.epoch, found.bounds) == (2, published(1).bounds)
    assert [one.epoch for one in await store.allocation_history("digits")] == [1]


@pytest.mark.redis
@pytest.mark.parametrize("garbled", [b"null", b"5", b"{}", b'["x", "a", "b", "c"]', b"[1.0]", b"[" * 100_000])
async def test_a_revision_of_another_shape_is_left_out(redis_url: str, garbled: bytes) -> None:
    writer, fresh = RedisStore(redis_url), RedisStore(redis_url)
    for store in (writer, fresh):
        await store.open()
    for number in (1, 2):
        await writer.add_revision(time=T0, author="ops", etag=f"e{number}", document=f"n: {number}\n")
    for key in ("revisions", "revision_entries"):
        assert await fresh._link.command("HSET", f"{fresh._link.of_all}:{key}", 2, garbled) == 0
    assert [one.revision for one in await fresh.revision_entries()] == [1]
    added = await fresh.add_revision(time=T0, author="ops", etag="e3", document="n: 3\n", after=1)
    assert added is not None
    assert added.revision == 3
    for store in (writer, fresh):
        await store.close()


async def test_a_revision_that_is_no_text_fails_nothing_else(sqlite_url: str) -> None:
    store = SqliteStore(sqlite_url.removeprefix("sqlite:///"))
    await store.open()
    for number in (1, 2):
        await store.add_revision(time=T0, author="ops", etag=f"e{number}", document=f"n: {number}\n")
    with sqlite3.connect(store.path) as connection:
        for column in ("document", "etag", "author"):
            connection.execute(
                f"UPDATE revisions SET {column} = CAST(? AS TEXT) WHERE revision = 2", (b"\xff{}",)
            )
    connection.close()
    assert [one.document for one in await store.revisions()] == ["\ufffd{}", "n: 1\n"]
    assert [one.etag for one in await store.revision_entries()] == ["\ufffd{}", "e1"]
    await store.close()


@pytest.mark.redis
@pytest.mark.parametrize("garbled", [b"", b"x", b"-5", b"1_0", b"9" * 20])
async def test_damaged_counts_and_leases_in_redis_fail_nothing(redis_url: str, garbled: bytes) -> None:
    store = RedisStore(redis_url)
    await store.open()
    await store.add_event(time=T0, kind="note", route="", data="{}")
    assert await store.lease("leader", "a", ttl=5, now=T0) == 1
    fresh = RedisStore(redis_url)
    await fresh.open()
    of_all = fresh._link.of_all
    await fresh._link.command("SET", f"{of_all}:event", garbled)
    await fresh._link.command("SET", f"{of_all}:changed", garbled)
    await fresh._link.command("HSET", f"{of_all}:lease:leader", "until", garbled)
    await fresh.changed()
    assert (await fresh.add_event(time=T0, kind="note", route="", data="[]")).id == 3  # 2: the alarm
    assert [event.fields for event in await fresh.events() if event.kind == "note"] == [{}, {}]
    assert await fresh.lease("leader", "b", ttl=5, now=T0) is not None
    await fresh._link.command("HSET", f"{of_all}:lease:leader", "fence", garbled)
    assert await fresh.lease("leader", "b", ttl=5, now=T0 + 1) is not None
    for number in ("pages", "changed", "cells_version"):
        await fresh._link.command("SET", f"{fresh._link.of_route('digits')}:{number}", garbled)
    assert (await fresh.changed_cells("digits", since=7))[1] is None
    await fresh.append([one := outcome(T0)])
    known, _ = await fresh.changed_cells("digits", since=-1)
    assert await fresh.reward([reward(of=one)]) == ["accepted"]
    assert (await fresh.changed_cells("digits", since=known))[1] == [T0]
    for each in (store, fresh):
        await each.close()


def test_the_shapes_of_a_route_name_every_field() -> None:
    verdict = Verdict("error_rate", "fail", "max_increase", 0.02, 0.05, interval=(0.1, math.inf))
    rollout = State(Status.RUNNING, 0, 0.1, "v1", "v2", 1.0, 1.0, 1.0, 1.0, evidence=(verdict.as_dict(),))
    state = RouteState(rollout, Ejections(judgement=Judgement((verdict,)))).as_dict()
    for whole, shape in (
        (verdict.as_dict(), VERDICT),
        (state["rollout"], STATE["rollout"][1]),
        (state["stop"], STATE["stop"]),
    ):
        assert set(whole) == {name.removesuffix("?") for name in shape}
    shapes.check_document("route", json.dumps(state))


VERDICTS = st.from_type(Verdict)
EVIDENCE = st.lists(VERDICTS.map(Verdict.as_dict), max_size=2).map(tuple)
LEADS = st.none() | st.dictionaries(st.text(), st.none() | st.floats() | st.text(), max_size=2)
STATES = st.builds(
    RouteState,
    st.none() | st.builds(State, carried=st.dictionaries(st.text(), st.floats()), evidence=EVIDENCE),
    st.builds(
        Ejections,
        ejected=st.dictionaries(st.text(), st.text()),
        judgement=st.none() | st.builds(Judgement, st.lists(VERDICTS, max_size=2).map(tuple)),
    ),
    st.builds(StopState, lead=LEADS),
)


@given(STATES)
def test_no_state_of_a_route_is_taken_for_damage(state: RouteState) -> None:
    """What is taken for damage is removed, and the rollout begins again."""
    shapes.check_document("route", json.dumps(state.as_dict()))
