"""Server-sent events over real sockets: order, resumption, scopes, heartbeats, and every way to end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import httpx
import pytest
import uvicorn

from gateway.control import event_stream as news
from gateway.control.app import ControlApp
from gateway.state.base import Event
from tests.control.conftest import Client
from tests.support.harness import Harness


class Listening:
    """A server on a free port."""

    def __init__(self, app: ControlApp) -> None:
        config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        self.app = app
        self.server = uvicorn.Server(config)

    async def start(self) -> str:
        self.task = asyncio.create_task(self.server.serve())
        while not self.server.started:
            await asyncio.sleep(0.01)
        host, port = self.server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        self.app.close()
        self.server.should_exit = True
        await asyncio.wait_for(self.task, 60)


@pytest.fixture
async def server(app: ControlApp) -> AsyncIterator[tuple[Listening, str]]:
    listening = Listening(app)
    address = await listening.start()
    yield listening, address
    await listening.stop()


@asynccontextmanager
async def stream(address: str, key: str = "reader", query: str = "", **headers: str) -> AsyncIterator[Any]:
    """Yields an async iterator of the stream's blocks, each as a dict of its fields."""
    http = httpx.AsyncClient(headers={"x-api-key": key, **headers}, timeout=60)
    async with http, http.stream("GET", f"{address}/-/events{query}") as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def blocks() -> AsyncGenerator[dict[str, str], None]:
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                while "\n\n" in text:
                    block, text = text.split("\n\n", 1)
                    yield dict(line.split(": ", 1) for line in block.split("\n"))

        found = blocks()
        assert "retry" in await anext(found)
        yield found
        await found.aclose()


async def test_events_come_as_they_happen_each_once_and_in_order(
    harness: Harness, server: tuple[Listening, str]
) -> None:
    await harness.emit("before", "digits", {})
    async with stream(server[1]) as found:
        for k in range(5):
            await harness.emit("allocation", "digits", {"k": k, "text": "two\nlines"})
        got = [await asyncio.wait_for(anext(found), 60) for _ in range(5)]
    assert [json.loads(one["data"])["data"] for one in got] == [
        {"k": k, "text": "two\nlines"} for k in range(5)
    ]
    assert {one["event"] for one in got} == {"allocation"}
    ids = [int(one["id"]) for one in got]
    assert ids == sorted(set(ids))


async def test_a_stream_goes_on_behind_the_last_event_that_was_seen(
    harness: Harness, server: tuple[Listening, str]
) -> None:
    made = [await harness.emit("config", "", {"k": k}) for k in range(4)]
    async with stream(server[1], **{"last-event-id": str(made[1].id)}) as found:
        got = [json.loads((await asyncio.wait_for(anext(found), 60))["data"])["data"]["k"] for _ in range(2)]
    assert got == [2, 3]
    async with stream(server[1], query=f"?after={made[2].id}") as found:
        assert int((await asyncio.wait_for(anext(found), 60))["id"]) == made[3].id


async def test_a_reader_that_is_ahead_of_a_store_which_lost_its_data_begins_now(
    harness: Harness, server: tuple[Listening, str]
) -> None:
    await harness.emit("config", "", {"k": 0})
    async with stream(server[1], **{"last-event-id": "5000"}) as found:
        await harness.emit("config", "", {"k": 1})
        block = await asyncio.wait_for(anext(found), 60)
        assert json.loads(block["data"])["data"]["k"] == 1


async def test_a_key_hears_of_its_own_routes_only(harness: Harness, server: tuple[Listening, str]) -> None:
    async with stream(server[1], "digits-reader", "?after=0") as found:
        await harness.emit("rollout", "shop", {})
        await harness.emit("config", "", {})
        await harness.emit("rollout", "digits", {})
        assert json.loads((await asyncio.wait_for(anext(found), 60))["data"])["route"] == "digits"


async def test_a_stream_of_one_route_or_kind(harness: Harness, server: tuple[Listening, str]) -> None:
    for one in (("rollout", "shop"), ("alarm", "digits"), ("config", ""), ("alarm", "shop")):
        await harness.emit(*one, {})
    async with stream(server[1], query="?after=0&route=shop") as found:
        got = [json.loads((await asyncio.wait_for(anext(found), 60))["data"]) for _ in range(3)]
    assert [(e["kind"], e["route"]) for e in got] == [("rollout", "shop"), ("config", ""), ("alarm", "shop")]
    async with stream(server[1], query="?after=0&kind=alarm") as found:
        got = [json.loads((await asyncio.wait_for(anext(found), 60))["data"]) for _ in range(2)]
    assert [e["route"] for e in got] == ["digits", "shop"]


async def test_silence_is_broken_by_heartbeats(
    server: tuple[Listening, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "HEARTBEAT_S", 0.05)
    async with stream(server[1]) as found:
        for _ in range(3):
            assert await asyncio.wait_for(anext(found), 60) == {"": "heartbeat"}


async def test_a_stream_without_events_of_its_own_has_heartbeats(
    harness: Harness, server: tuple[Listening, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "HEARTBEAT_S", 0.3)

    async def others() -> None:
        while True:
            await harness.emit("allocation", "shop", {})
            await asyncio.sleep(0.05)

    busy = asyncio.create_task(others())
    async with stream(server[1], query="?kind=alarm") as found:
        assert await asyncio.wait_for(anext(found), 60) == {"": "heartbeat"}
    busy.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def waiting(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> set[object]:
    """The calls that wait for events now."""
    now: set[object] = set()
    wait = harness.events.wait

    async def noted(after: int, timeout: float) -> Any:
        call = object()
        now.add(call)
        try:
            return await wait(after, timeout)
        finally:
            now.remove(call)

    monkeypatch.setattr(harness.events, "wait", noted)
    return now


async def test_events_are_read_once_for_all_streams(
    harness: Harness, server: tuple[Listening, str], waiting: set[object]
) -> None:
    async with stream(server[1]) as first, stream(server[1]) as second, stream(server[1]) as third:
        for k in range(3):
            await harness.emit("alarm", "digits", {"k": k})
            got = [await asyncio.wait_for(anext(found), 60) for found in (first, second, third)]
            assert [json.loads(one["data"])["data"]["k"] for one in got] == [k, k, k]
            assert len(waiting) <= 1


async def test_a_client_that_leaves_ends_its_stream(
    harness: Harness, server: tuple[Listening, str], waiting: set[object]
) -> None:
    async with stream(server[1]):
        await until(lambda: len(waiting) == 1)
    await until(lambda: not waiting)  # or the stream goes on for nobody


async def test_nothing_reads_on_when_all_have_left_though_the_store_swallows_that(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py does at times: the gateway could never end."""
    read = harness.store.events
    reading = asyncio.Event()

    async def swallows(**query: Any) -> list[Event]:
        if reading.is_set():
            return await read(**query)
        reading.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return []

    async def admitted() -> bool:
        return True

    events = news.EventStream(harness)
    await events.newest()
    before = asyncio.all_tasks()
    found = cast("AsyncGenerator[bytes]", events.stream(None, lambda _: True, asyncio.Event(), admitted))
    await anext(found)
    monkeypatch.setattr(harness.store, "events", swallows)
    following = asyncio.all_tasks() - before
    await asyncio.wait_for(reading.wait(), 60)
    await found.aclose()
    harness.events.end()  # from then on, none waits for events
    assert following
    _, going_on = await asyncio.wait(following, timeout=60)
    for task in going_on:
        task.cancel()
    assert not going_on


async def test_shutdown_ends_streams_at_once(app: ControlApp) -> None:
    listening = Listening(app)
    address = await listening.start()
    async with stream(address) as found:
        stopping = asyncio.create_task(listening.stop())
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(found), 60)
        await asyncio.wait_for(stopping, 60)


async def test_the_last_events_as_a_list(harness: Harness, client: Client) -> None:
    for k in range(7):
        await harness.emit("allocation", "digits" if k % 2 else "shop", {"k": k})
    await harness.emit("config", "", {})
    http = client("reader")
    found = (await http.get("/-/events/recent?limit=3")).json()["events"]
    assert [(e["kind"], e["data"]) for e in found] == [
        ("allocation", {"k": 5}),
        ("allocation", {"k": 6}),
        ("config", {}),
    ]
    bound = (await client("digits-reader").get("/-/events/recent")).json()["events"]
    assert [e["data"]["k"] for e in bound] == [1, 3, 5]


async def test_an_event_id_that_is_none(client: Client) -> None:
    answer = await client("reader").get("/-/events", headers={"last-event-id": "x"})
    assert answer.json()["error"]["code"] == "invalid"


async def test_a_routes_events_leave_out_backends_that_it_does_not_use(
    harness: Harness, client: Client
) -> None:
    """T10: another route's dead backend is no news of this one."""
    for backend in ("a", "b"):
        await harness.emit("health", "", {"backend": backend, "state": "unhealthy"})
    await harness.emit("config", "", {"revision": 2})
    found = await client("reader").get("/-/events/recent?route=quiet")
    told = [(e["kind"], e["data"].get("backend")) for e in found.json()["events"]]
    assert told == [("health", "a"), ("config", None)]


@pytest.mark.parametrize("by", ["cookie", "key", "log-out"])
async def test_a_stream_ends_with_the_key_or_session_that_it_was_opened_with(
    harness: Harness, server: tuple[Listening, str], by: str
) -> None:
    _, address = server
    async with httpx.AsyncClient(base_url=address, timeout=60) as page:
        assert (await page.post("/-/dashboard/login", json={"key": "reader"})).status_code == 204
        headers = {} if by == "key" else {"cookie": "; ".join(f"{n}={v}" for n, v in page.cookies.items())}
        credential = {"x-api-key": "reader"} if by == "key" else {}
        async with (
            httpx.AsyncClient(headers=headers | credential, timeout=60) as http,
            http.stream("GET", f"{address}/-/events?view=route:digits") as answer,
        ):
            assert answer.status_code == 200
            pieces = answer.aiter_text()
            assert await anext(pieces), "it is open, and the view may be faster than the greeting"
            if by == "log-out":
                assert (await page.post("/-/dashboard/logout")).status_code == 204
                harness.clock.at += 2
            else:
                text = harness.revision().document
                line = next(one for one in text.splitlines() if "{id: reader," in one)
                await harness.revisions.propose(text.replace(line + "\n", ""), "ops", "*")
            async for _ in pieces:
                pass  # until it ends
