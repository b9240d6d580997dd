"""The index of request ids, in both stores."""

from __future__ import annotations

import asyncio

from gateway.record.request_ids import AMBIGUOUS, RequestKey, request_key
from gateway.state.base import Retention
from gateway.state.store import Store
from tests.support.made import T0

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
    async with asyncio.timeout(10):  # Redis ends entries by its own clock, a little after their time
        while await find(store, "one") != [None]:
            while await store.prune(Retention(), now=T0 + 60):
                pass
            await asyncio.sleep(0.005)
    assert await find(store, "one", "two") == [None, B]
