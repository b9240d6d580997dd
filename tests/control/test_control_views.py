"""The stream of a page: the view once, then what changes in it, made once for all who watch."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import pytest

from gateway.control.views import View, Views, changes, merged
from gateway.internal_errors import INTERNAL_ERRORS
from tests.control.test_control_events import Listening, server, stream
from tests.support.harness import Harness
from tests.support.seed import World, live_through

__all__ = ["server"]

WORLD = World("digits", {"v1": 0.9, "v2": 0.95})


def folded(blocks: list[dict[str, str]]) -> Any:
    """The view that the patches add up to."""
    view: dict[str, Any] = {}
    for block in blocks:
        view |= json.loads(block["data"])
    return {key: value for key, value in view.items() if value is not None}


async def views(found: AsyncIterator[dict[str, str]], count: int) -> list[dict[str, str]]:
    blocks: list[Any] = []
    while len(blocks) < count:
        block = await asyncio.wait_for(anext(found), 60)
        if block.get("event") == "view":
            blocks.append(block)
    return blocks


@pytest.mark.long
async def test_a_page_gets_the_report_and_then_what_changes(
    harness: Harness, server: tuple[Listening, str]
) -> None:
    async with stream(server[1], query="?view=route:digits") as found:
        first = await views(found, 1)
        assert json.loads(first[0]["data"])["recent"]["assigned"] == 0
        await live_through(harness, WORLD, steps=1, per_step=20)
        second = await views(found, 1)
        patch = json.loads(second[0]["data"])
    assert patch["recent"]["assigned"] == 20
    assert "metrics" not in patch, "what is the same is not sent again"
    assert folded([*first, *second])["route"] == "digits"


async def test_what_follows_an_event_is_on_the_page_soon_however_rarely_it_is_made() -> None:
    """Shares are published, and other processes hear of a step, after the event that tells of it."""
    shares, made = Views(), 0
    known = {"share": 10}

    async def make() -> dict[str, Any]:
        nonlocal made
        made += 1
        return dict(known)

    rare = View(make, lambda: 3600.0)
    shares._views["route:shop"] = rare
    watching = rare.watch()
    assert await asyncio.wait_for(anext(watching), 60) == {"share": 10}
    shares.follow("shop")
    await asyncio.sleep(0)
    assert not rare._due.is_set(), "a bandit publishes one each second"
    for share, tell in ((0, shares.follow), (5, None)):
        shares.refresh("shop")
        before = made
        while made == before:
            await asyncio.sleep(0.01)
        known["share"] = share
        if tell is not None:
            tell("shop")
        assert await asyncio.wait_for(anext(watching), 60) == {"share": share}
    await watching.aclose()


@pytest.mark.long
async def test_a_step_is_on_the_page_sooner_than_the_next_look(
    harness: Harness, server: tuple[Listening, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.views.INTERVAL_S", 3600.0)
    monkeypatch.setattr("gateway.control.views.MAX_INTERVAL_S", 3600.0)
    async with stream(server[1], query="?view=route:shop") as found:
        await views(found, 1)
        harness.rollouts["shop"] = {"state": "rolled_back", "phase": "canary", "stage": 0, "verdicts": []}
        await harness.emit("rollout", "shop", {"target": "rolled_back"})
        patch = json.loads((await views(found, 1))[0]["data"])
    assert patch["rollout"]["state"] == "rolled_back"


async def test_the_list_has_the_routes_of_the_key(server: tuple[Listening, str]) -> None:
    async with stream(server[1], "digits-reader", "?view=routes") as found:
        (block,) = await views(found, 1)
    assert set(json.loads(block["data"])) == {"digits"}


@pytest.mark.long
async def test_a_view_is_made_once_for_all_and_by_nobody_when_all_have_left() -> None:
    made = 0

    async def make() -> dict[str, int]:
        nonlocal made
        made += 1
        return {"n": made}

    views_ = Views()
    watching = [views_.patches("routes", make) for _ in range(5)]
    for one in watching:
        assert b'"n":1' in await asyncio.wait_for(anext(one), 60)
    assert made == 1
    for one in watching:
        await cast("AsyncGenerator[bytes]", one).aclose()
    before = made
    await asyncio.sleep(1.3)
    assert made == before


async def test_a_view_that_a_page_has_not_taken_up_is_forgotten_with_the_page() -> None:
    async def make() -> dict[str, int]:
        return {"n": 1}

    views_ = Views()
    page = cast("AsyncGenerator[bytes]", views_.patches("routes", make))
    await asyncio.wait_for(anext(page), 60)
    await page.aclose()
    assert views_._views == {}


async def test_a_stream_that_fails_ends_the_page(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"one"
        raise LookupError("a mistake of ours")

    async with asyncio.timeout(60):
        assert [piece async for piece in merged(fails())] == [b"one"]
    assert "a mistake of ours" in caplog.text


async def test_all_views_together_take_a_bounded_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five pages on five routes cost what one does: each is made less often."""
    cpu, clock, wait = 0.0, 0.0, 240.0

    async def make() -> dict[str, float]:
        nonlocal cpu, clock
        cpu, clock = cpu + 30.0, clock + wait
        return {"made": clock}

    monkeypatch.setattr("gateway.control.views.process_time", lambda: cpu)
    monkeypatch.setattr("gateway.control.views.perf_counter", lambda: clock)
    monkeypatch.setattr("gateway.control.views.INTERVAL_S", 600.0)  # none is made by itself
    monkeypatch.setattr("gateway.control.views.MAX_INTERVAL_S", math.inf)
    views_ = Views()
    watching = [views_.patches(f"route:{n}", make) for n in range(5)]
    for one in watching:
        await asyncio.wait_for(anext(one), 60)
    assert views_._interval() == 600.0, "the first making fills caches"
    views_.refresh("")
    for one in watching:
        await asyncio.wait_for(anext(one), 60)
    assert views_._interval() == pytest.approx(80 * 5 * 30.0), "on a busy machine, too"
    wait = 2400.0
    for _ in range(2):
        views_.refresh("")
        for one in watching:
            await asyncio.wait_for(anext(one), 60)
    assert views_._interval() == pytest.approx(10 * 5 * 2400.0), "a slow store is to rest"
    for one in watching:
        await cast("AsyncGenerator[bytes]", one).aclose()


def test_what_changes_all_the_time_is_no_change_by_itself() -> None:
    assert changes({"as_of": 1.0, "a": 1}, {"as_of": 2.0, "a": 1}) == {}
    assert changes({"as_of": 1.0, "a": 1}, {"as_of": 2.0, "a": 2}) == {"as_of": 2.0, "a": 2}
    assert changes({"a": 1, "b": 1}, {"a": 1}) == {"b": None}


@pytest.mark.long
async def test_the_list_sends_the_fields_that_changed(
    harness: Harness, server: tuple[Listening, str]
) -> None:
    async with stream(server[1], query="?view=routes") as found:
        (first,) = await views(found, 1)
        await live_through(harness, WORLD, steps=1, per_step=20)
        (second,) = await views(found, 1)
    assert json.loads(first["data"])["digits"]["recent"]["assigned"] == 0
    patch = json.loads(second["data"])
    assert patch["digits"]["recent"]["assigned"] == 20
    assert "health" not in patch["digits"]
    assert "shop" not in patch, "only its time has changed"


async def test_a_watcher_that_missed_a_step_gets_all_that_changed() -> None:
    made = iter(({"a": {"x": 1, "y": 1}}, {"a": {"x": 2, "y": 1}}, {"a": {"x": 2, "y": 2}}))

    async def make() -> Any:
        return next(made)

    view = View(make, lambda: 1.0, nested=True)
    await view._step()
    first = view.current
    await view._step()
    assert view.since(first) == {"a": {"x": 2}}
    assert view.framed(view.since(first)) is view.framed(view.since(first)), "written once for all"
    await view._step()
    assert view.since(first) == {"a": {"x": 2, "y": 2}}
    assert view.since(None) == {"a": {"x": 2, "y": 2}}


async def test_a_view_that_fails_each_second_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def make() -> Any:
        raise ZeroDivisionError

    view = View(make, lambda: 1.0)
    counted = INTERNAL_ERRORS.counts["ZeroDivisionError"]
    for _ in range(3):
        await view._step()
    assert INTERNAL_ERRORS.counts["ZeroDivisionError"] == counted + 3
    assert sum(record.exc_info is not None for record in caplog.records) == 1


async def test_the_list_reads_documents_of_all_routes_together(
    harness: Harness, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load_all = harness.store.load_all

    async def counted(kind: str, names: Any) -> Any:
        loads.append(kind)
        return await load_all(kind, names)

    monkeypatch.setattr(harness.store, "load_all", counted)
    assert (await client("reader").get("/-/routes")).status_code == 200
    assert sorted(loads) == ["alarms", "alarms", "history"], "those of the gateway as a whole by themselves"


async def test_a_view_of_a_route_needs_the_route(harness: Harness, client: Any) -> None:
    for method in ("GET", "HEAD"):
        for key, route, status in (("digits-reader", "shop", 403), ("reader", "nope", 404)):
            found = await client(key).request(method, f"/-/events?view=route:{route}")
            assert found.status_code == status
    assert (await client("reader").get("/-/events?view=nope")).status_code == 422
