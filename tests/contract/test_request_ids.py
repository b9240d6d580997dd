"""The index of request ids, in both stores."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.load import load
from gateway.ingest.request_lookup import MAX_TOGETHER, Found, RequestIds
from gateway.record.request_ids import AMBIGUOUS, RequestKey, request_key
from gateway.state.base import DecisionRecord, Retention
from gateway.state.store import Store
from tests.support.made import T0, outcome, reward

A, B = b"a" * 16, b"b" * 16


def entry(request_id: str, decision: bytes, route: str = "digits") -> RequestKey:
    return RequestKey(route, request_key(route, request_id), decision)


async def find(store: Store, *ids: str, route: str = "digits") -> list[bytes | None]:
    return await store.find_requests(route, [request_key(route, each) for each in ids])


async def test_what_was_indexed_is_found_in_the_order_of_the_question(store: Store) -> None:
    await store.index_requests([entry("one", A), entry("two", B), entry("one", B, "b")], now=T0, keep=3600)
    assert await find(store, "two", "none", "one") == [B, None, A]
    assert await find(store, "one", route="b") == [B]
    assert await find(store) == []


async def test_repeating_changes_nothing_and_another_decision_is_ambiguous(store: Store) -> None:
    for _ in range(3):
        await store.index_requests([entry("one", A)], now=T0, keep=3600)
    assert await find(store, "one") == [A]
    await store.index_requests([entry("one", B)], now=T0, keep=3600)
    assert await find(store, "one") == [AMBIGUOUS]
    await store.index_requests([entry("one", A)], now=T0, keep=3600)
    assert await find(store, "one") == [AMBIGUOUS]


async def test_two_of_one_batch_are_ambiguous_too(store: Store) -> None:
    await store.index_requests([entry("one", A), entry("one", B)], now=T0, keep=3600)
    assert await find(store, "one") == [AMBIGUOUS]


async def test_entries_end(store: Store) -> None:
    await store.index_requests([entry("one", A)], now=T0, keep=0.001)
    await store.index_requests([entry("two", B)], now=T0, keep=3600)
    async with asyncio.timeout(60):  # Redis ends entries by its own clock, a little after their time
        while await find(store, "one") != [None]:
            while await store.prune(Retention(), now=T0 + 60):
                pass
            await asyncio.sleep(0.005)
    assert await find(store, "one", "two") == [None, B]


async def test_the_requests_of_a_call_are_looked_up_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [outcome(T0 + k, request_id=f"r{k}") for k in range(40)]
    await store.append(rows)
    document = load(
        "record: {request_ids: true, flush: 10ms}\nmetrics: {correct: {type: boolean}}\n"
        "backends: {a: {url: 'http://127.0.0.1:1'}}\n"
        "routes: {digits: {match: {path: /}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}}",
        source="test",
        env={},
    )
    requests = RequestIds(store, lambda: document, lambda: T0, lambda *_: b"")
    await requests.index([*rows, outcome(T0 + 99, request_id="r7")])
    running, most, real = [0], [0], store.decision

    async def spied(decision: bytes, route: str | None = None) -> DecisionRecord:
        running[0] += 1
        most[0] = max(most[0], running[0])
        found = await real(decision, route)
        running[0] -= 1
        return found

    monkeypatch.setattr(store, "decision", spied)
    found = await requests.find([("digits", f"r{k}") for k in range(41)])
    assert 1 < most[0] <= MAX_TOGETHER
    assert found[7] == AMBIGUOUS
    assert found[40] is None
    known = {k: one.opened.decision for k, one in enumerate(found) if isinstance(one, Found)}
    assert known == {k: rows[k].decision for k in range(40) if k != 7}


async def test_a_correction_after_an_edit_of_the_features_moves_what_the_report_moved(store: Store) -> None:
    document = load("record: {request_ids: true}\nmetrics: {correct: {type: boolean}}", source="test", env={})
    packed = [b"S" + b"before"]
    requests = RequestIds(store, lambda: document, lambda: T0, lambda *_: packed[0])
    row = outcome(T0, request_id="one", features='{"tier":"free"}')
    await store.append([row])
    await requests.index([row])
    for _ in range(2):
        (found,) = await requests.find([("digits", "one")])
        assert isinstance(found, Found)
        assert found.opened.context == b"S" + b"before"
        await store.reward([reward(1.0, of=row, context=found.opened.context.hex())])
        packed[0] = b"S" + b"behind"
