"""Polls that are held until there is news, in the right order; nodes that refuse or fall silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load
from gateway.engines.fleet import AGAIN_S, CANNOT_SEAL, HOLD_S, RETRY_S, Fleet, Poll
from gateway.engines.nodes import LOSS_WINDOW_S, MAX_NODES, SILENT_S, Nodes
from gateway.engines.offers import InEffect, Kind, Offer
from gateway.engines.otlp import export
from gateway.engines.rows import SEPARATOR
from gateway.loops.alarms import Alarms, distrust
from gateway.record.decision_id import Sealer
from gateway.state.sqlite import SqliteStore
from policies.allocation.bucketing import allocation
from tests.engines.test_stamps import UUID
from tests.support.heard import Heard

CONFIG = """
engines: {edge: {type: envoy, token: a-token-of-the-edge-engine, nodes: [e*]}}
backends: {a: {url: "http://127.0.0.1:1"}, b: {url: "http://127.0.0.1:2"}}
routes:
  digits:
    engine: edge
    match: {path: /digits}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
"""


DAY_S = 86_400.0


class World:
    """A fleet whose document, allocation and clock a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.document = load(CONFIG, source="test", env={})
        self.revision = 1
        self.published = {"digits": InEffect(1, allocation({"v1": 0.5, "v2": 0.5}), self.now)}
        self.fleet = self.replica()
        self.closing = asyncio.Event()

    def replica(self) -> Fleet:
        return Fleet(
            document=lambda: self.document,
            revision=lambda: self.revision,
            published=lambda: self.published,
            sealer=Sealer([b"k" * 32]),
            record=lambda outcomes: None,
            clock=lambda: self.now,
        )

    def publish(self, share: float) -> None:
        epoch = self.published["digits"].epoch + 1
        self.published = {"digits": InEffect(epoch, allocation({"v1": 1 - share, "v2": share}), self.now)}
        self.fleet.wake()

    def edit(self, old: str, new: str) -> None:
        self.document, self.revision = (
            load(CONFIG.replace(old, new), source="test", env={}),
            self.revision + 1,
        )
        self.fleet.wake()

    def ask(
        self, kind: Kind, version: str = "", refused: str = "", *, seals: bool = True
    ) -> asyncio.Task[Offer]:
        poll = Poll("edge", "e1", kind, version, refused, seals=seals)
        return asyncio.ensure_future(self.fleet.poll(poll, self.closing))


async def held(task: asyncio.Task[Offer]) -> bool:
    """Whether it is still held once everything that can run has run."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not task.done()


async def test_a_poll_is_held_until_an_allocation_is_published() -> None:
    world = World()
    first = await world.ask("routes")
    waiting = world.ask("routes", first.version)
    assert await held(waiting)
    world.publish(0.25)
    second = await waiting
    assert second.version != first.version
    assert second.epochs == {"digits": 2}
    table = json.loads(second.body)["resources"][0]["virtual_hosts"][0]["routes"][0]
    weights = [cluster["weight"] for cluster in table["route"]["weighted_clusters"]["clusters"]]
    assert weights == [750_000_000, 250_000_000]


def test_a_ca_that_is_gone_hides_no_trouble_of_nodes(tmp_path: Path) -> None:
    """The leader's alarms, those of comparisons too, are raised after what is asked here."""
    (tmp_path / "ca.pem").write_text("")
    world = World()
    text = CONFIG.replace("type: envoy", "type: haproxy").replace(
        'a: {url: "http://127.0.0.1:1"}',
        f'a: {{url: "https://m.example", tls: {{ca: {tmp_path / "ca.pem"}}}}}',
    )
    world.document = load(text, source="test", env={})
    (tmp_path / "ca.pem").unlink()
    assert world.fleet.shown("edge")["epochs"] == {"digits": 1}
    world.fleet.nodes.own("edge", "e1").refused = "no CA"
    world.fleet.nodes.own("edge", "e1").seen = world.now
    assert "no CA" in world.fleet.troubles()["engine_refused"]


async def test_replicas_offer_the_same_under_the_same_version() -> None:
    world = World()
    other = world.replica()
    for kind in ("clusters", "routes"):
        assert world.fleet.offer("edge", kind).body == other.offer("edge", kind).body


@pytest.mark.parametrize("kind", ["clusters", "routes"])
async def test_a_node_between_replicas_is_not_sent_back_and_forth(kind: Kind) -> None:
    """One of them has not heard of an edit yet, or is of another build."""
    ahead, behind = World(), World()
    old = ahead.fleet.offer("edge", kind).version
    ahead.edit("http://127.0.0.1:1", "http://127.0.0.1:3")
    ahead.publish(0.2)
    new = (await ahead.ask(kind, old)).version
    waiting = behind.ask(kind, new)
    assert await held(waiting), "what is older is not sent"
    behind.edit("http://127.0.0.1:1", "http://127.0.0.1:3")
    behind.publish(0.2)
    assert await held(waiting), "it has what the other has"
    behind.edit("http://127.0.0.1:1", "http://127.0.0.1:4")
    behind.publish(0.3)
    assert (await waiting).version not in (old, new)


@pytest.mark.parametrize(
    "version",
    ["0123456789abcdef", "9" * 5000 + ".1.0", "1.x.0", "."],
    ids=["digest", "huge", "text", "empty"],
)
async def test_a_version_of_another_kind_is_replaced_immediately(version: str) -> None:
    """Of a build before versions had an order, or of something else that polls."""
    world = World()
    assert (await world.ask("clusters", version)).version == world.fleet.offer("edge", "clusters").version


async def test_a_difference_that_stays_reaches_the_node_once_in_each_hold() -> None:
    """As where a gateway was upgraded, or its store was lost: the node must not keep the old one without limit."""
    one, other = World(), World()
    one.edit("http://127.0.0.1:1", "http://127.0.0.1:3")
    other.edit("http://127.0.0.1:1", "http://127.0.0.1:4")
    for ahead, behind in ((one, other), (other, one)):
        waiting = behind.ask("clusters", ahead.fleet.offer("edge", "clusters").version)
        assert await held(waiting)
        behind.now += HOLD_S
        behind.fleet.wake()
        assert (await waiting).version == behind.fleet.offer("edge", "clusters").version


async def test_routes_wait_for_the_clusters_that_they_name() -> None:
    world = World()
    clusters, routes = await world.ask("clusters"), await world.ask("routes")
    await asyncio.gather(held(world.ask("clusters", clusters.version)))
    waiting = world.ask("routes", routes.version)
    world.edit("v2: {backend: a}", "v2: {backend: b}")
    assert world.fleet.offer("edge", "clusters").version != clusters.version
    world.publish(0.4)
    assert await held(waiting), "the node has not fetched the clusters"
    world.ask("clusters", world.fleet.offer("edge", "clusters").version)
    assert (await waiting).epochs == {"digits": 2}


async def test_clusters_of_the_version_before_are_still_there() -> None:
    world = World()
    world.fleet.offer("edge", "clusters")
    world.edit("v2", "v3")
    names = {
        cluster["name"] for cluster in json.loads(world.fleet.offer("edge", "clusters").body)["resources"]
    }
    assert names == {"digits/v1", "digits/v2", "digits/v3"}


async def test_an_edit_whose_allocation_is_not_published_yet_takes_no_route_away() -> None:
    world = World()
    before = world.fleet.offer("edge", "routes")
    world.published = {}
    world.edit("v1: 1, v2: 1", "v1: 1, v2: 3")
    assert world.fleet.offer("edge", "routes") is before


async def test_what_a_node_refuses_is_not_sent_again_immediately_and_is_shown() -> None:
    world = World()
    await world.ask("routes")
    waiting = world.ask("routes", "", refused="unknown cluster")
    assert await held(waiting)
    (node,) = world.fleet.shown("edge")["nodes"]
    assert (node["state"], node["refused"]) == ("refused", "unknown cluster")
    world.publish(0.1)
    newer = await waiting
    world.ask("routes", newer.version)
    assert await held(world.ask("routes", newer.version))
    (node,) = world.fleet.shown("edge")["nodes"]
    assert (node["state"], node["epochs"]) == ("accepted", {"digits": 2})


async def test_a_node_that_refuses_clusters_is_shown_and_gets_routes_without_delay() -> None:
    world = World()
    clusters = (await world.ask("clusters")).version
    routes = (await world.ask("routes")).version
    world.edit('127.0.0.1:1"', '127.0.0.1:3"')
    wanted = await world.ask("clusters", clusters)
    assert wanted.version != clusters
    assert await held(world.ask("clusters", clusters, refused="no such method"))
    assert (await world.ask("routes", routes)).version != routes
    (node,) = world.fleet.shown("edge")["nodes"]
    assert (node["state"], node["refused"]) == ("refused", "no such method")
    assert "no such method" in world.fleet.troubles()["engine_refused"]
    assert await held(world.ask("clusters", wanted.version))
    (node,) = world.fleet.shown("edge")["nodes"]
    assert node["refused"] == ""


async def test_a_node_that_cannot_read_what_it_gets_is_shown_and_asked_to_wait() -> None:
    """Envoy says nothing of JSON that is no message, but asks again, 20 times a second."""
    world = World()
    first = (await world.ask("routes")).version
    world.publish(0.1)
    assert (await world.ask("routes", first)).version != first
    assert await held(world.ask("routes", first))
    (node,) = world.fleet.shown("edge")["nodes"]
    assert (node["state"], node["refused"]) == (
        "refused",
        "it could not read the newest routes; its log says why",
    )
    world.now += AGAIN_S
    assert (await world.ask("routes")).version != first, "it has restarted"


@pytest.mark.parametrize("kind", ["clusters", "routes"])
async def test_a_node_that_cannot_read_the_first_it_gets_is_asked_to_wait(kind: Kind) -> None:
    world = World()
    assert (await world.ask(kind)).version
    again = world.ask(kind)
    assert await held(again)
    (node,) = world.fleet.shown("edge")["nodes"]
    assert node["refused"] == f"it could not read the newest {kind}; its log says why"
    world.now += RETRY_S
    world.fleet.wake()
    assert (await again).version, "it is sent again"


async def test_a_node_that_cannot_seal_keeps_its_routes_and_is_shown() -> None:
    """Without the filters of its bootstrap, a request would get no id, and neither rows nor rewards would count."""
    world = World()
    stamped = await world.ask("routes", seals=False)
    waiting = world.ask("routes", stamped.version, seals=False)
    assert await held(waiting)
    world.edit("nodes: [e*]", "nodes: [e*], ids: sealed")
    world.publish(0.1)
    assert await held(waiting)
    (node,) = world.fleet.shown("edge")["nodes"]
    assert (node["state"], node["epochs"], node["refused"]) == ("refused", {"digits": 1}, CANNOT_SEAL)
    assert "e1 of edge keeps its last configuration" in world.fleet.troubles()["engine_refused"]
    assert "e1 (refused)" in world.fleet.waits("digits", 2)
    world.closing.set()
    kept = await waiting
    assert json.loads(kept.body) == {"version_info": stamped.version, "resources": []}
    assert (await world.ask("routes", stamped.version)).epochs == {"digits": 2}
    assert world.fleet.troubles()["engine_refused"] == ""


async def test_held_polls_end_with_the_gateway() -> None:
    world = World()
    waiting = world.ask("routes", (await world.ask("routes")).version)
    assert await held(waiting)
    world.closing.set()
    world.fleet.wake()
    await asyncio.wait_for(waiting, 60)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_replicas_know_each_other_s_nodes_and_the_newest_counts(tmp_path: Path) -> None:
    async with opened(tmp_path / "turnout.db") as store:
        one, other = Nodes(), Nodes()
        one.own("edge", "e1").seen, other.own("edge", "e1").seen = 10.0, 20.0
        other.own("edge", "e1").epochs = {"digits": 3}
        one.own("edge", "e2").seen = 15.0
        for nodes in (one, other, one):
            await nodes.share(store, [("edge", DAY_S)], 30.0)
        assert {name: node.seen for name, node in one.of("edge").items()} == {"e1": 20.0, "e2": 15.0}
        assert one.of("edge")["e1"].epochs == {"digits": 3}
        later = Nodes()
        await later.share(store, [("edge", DAY_S)], 100_000.0)
        assert later.of("edge") == {}, "nodes that are gone for a day are forgotten"


def alarms_of(world: World, store: SqliteStore, events: list[tuple[str, dict[str, Any]]]) -> Alarms:
    class Leader:
        leads = True

    return Alarms(
        store,
        Leader(),  # type: ignore[arg-type]
        clock=lambda: world.now,
        events=Heard(store, lambda: world.now, lambda kind, route, data: events.append((kind, dict(data)))),
        raised=lambda route, code: None,
        dropped=lambda: 0,
        troubles=world.fleet.troubles,
        lost_rows=world.fleet.lost_rows,
    )


@pytest.mark.parametrize("trouble", ["engine_silent", "engine_refused"])
async def test_an_alarm_stands_while_a_node_is_silent_or_refuses(tmp_path: Path, trouble: str) -> None:
    world, events = World(), list[tuple[str, dict[str, Any]]]()

    async with opened(tmp_path / "turnout.db") as store:
        alarms = alarms_of(world, store, events)
        node = world.fleet.nodes.own("edge", "e1")
        node.seen, node.epochs = world.now, {"digits": 1}
        await alarms.engine_troubles()
        assert events == []
        if trouble == "engine_silent":
            world.now += SILENT_S + 1
        else:
            node.refused = "no cluster"
        for _ in range(2):
            await alarms.engine_troubles()
        ((kind, data),) = events
        assert (kind, data["code"]) == ("alarm", trouble)
        assert "e1" in data["message"]
        node.seen, node.refused = world.now, ""
        await alarms.engine_troubles()
        assert events[1:] == [("alarm_over", {"code": trouble})]


@pytest.mark.parametrize(("off", "way"), [(3600.0, "3,600 s ahead"), (-3600.0, "3,600 s behind"), (50.0, "")])
async def test_a_node_whose_clock_is_wrong_is_named(tmp_path: Path, off: float, way: str) -> None:
    world, events = World(), list[tuple[str, dict[str, Any]]]()
    other = world.replica()
    (stamp,) = {
        cluster["request_headers_to_add"][0]["header"]["value"].partition(".")[0]
        for entry in json.loads((await world.ask("routes")).body)["resources"][0]["virtual_hosts"][0][
            "routes"
        ]
        if entry.get("name") == "digits"
        for cluster in entry["route"]["weighted_clusters"]["clusters"][:1]
    }
    decided = round((world.now + off) * 1000)
    fields = "v1", "200", "-", "1", "3000", "100", "2000", "5", "5", "127.0.0.1:1", "request-1", "-"
    forged = f"{stamp[:-1]}.{decided + 10**7}.{UUID}"
    rows = [SEPARATOR.join((each, "digits", *fields)) for each in (f"{stamp}.{decided}.{UUID}", forged)]
    async with opened(tmp_path / "turnout.db") as store:
        alarms = alarms_of(world, store, events)
        assert await other.receive("edge", export("e1", rows)) == (0 if way else 1, 2 if way else 1)
        for fleet in (other, world.fleet):
            await fleet.share(store)
        await alarms.engine_troubles()
        assert [(kind, data["code"]) for kind, data in events] == ([("alarm", "engine_clock")] if way else [])
        assert all(way in data["message"] and "e1" in data["message"] for _, data in events)
        world.now += LOSS_WINDOW_S + 1
        await alarms.engine_troubles()
        assert [kind for kind, data in events if data["code"] == "engine_clock"] == (
            ["alarm", "alarm_over"] if way else []
        )


async def test_of_many_nodes_those_that_were_heard_last_are_remembered(tmp_path: Path) -> None:
    world = World()
    async with opened(tmp_path / "turnout.db") as store:
        for number in range(MAX_NODES + 10):
            world.fleet.nodes.own("edge", f"e{number}").seen = world.now - 1 + number / 10_000
        await world.fleet.share(store)
        await world.fleet.share(store)
        kept = {f"e{number}" for number in range(10, MAX_NODES + 10)}
        assert world.fleet.nodes.of("edge").keys() == kept


async def test_an_epoch_is_in_effect_when_every_node_that_serves_has_accepted_it() -> None:
    world = World()
    assert "no node" in world.fleet.waits("digits", 1)
    first = await world.ask("routes")
    assert "no node" in world.fleet.waits("digits", 1), "it was sent, and no node said that it is there"
    world.ask("routes", first.version)
    assert await held(world.ask("routes", first.version))
    assert world.fleet.waits("digits", 1) == ""
    other = world.fleet.nodes.own("edge", "e2")
    assert world.fleet.waits("digits", 1) == "", "a node that begins serves nothing"
    other.seen, other.epochs = world.now, {"digits": 1}
    world.publish(0.2)
    await asyncio.gather(held(world.ask("routes", world.fleet.offer("edge", "routes").version)))
    assert "e2 (behind)" in world.fleet.waits("digits", 2)
    other.refused = "no cluster"
    assert "e2 (refused)" in world.fleet.waits("digits", 2)
    world.now += SILENT_S + 1
    assert "e2 (silent)" in world.fleet.waits("digits", 2)
    assert {n["node"]: n["behind"] for n in world.fleet.shown("edge")["nodes"]} == {
        "e1": [],
        "e2": ["digits"],
    }
    other.epochs = {"digits": 2}
    assert world.fleet.waits("digits", 2) == "", "it had accepted before it fell silent"
    assert world.fleet.waits("none", 2) == ""


async def test_rows_lost_are_counted_over_restarts_and_replicas_and_distrusted_for_five_minutes(
    tmp_path: Path,
) -> None:
    world = World()
    other = world.replica()
    async with opened(tmp_path / "turnout.db") as store:
        await world.fleet.share(store)
        world.fleet.count("edge", "e1", 1000, 500)
        assert world.fleet.lost_rows("digits") == "", "when they were lost is unknown"
        await world.fleet.share(store)
        await other.share(store)
        world.now += 5
        other.count("edge", "e1", 1970, 530)
        assert "30 of 1,000 rows" in other.lost_rows("digits")
        await other.share(store)
        await world.fleet.share(store)
        assert world.fleet.shown("edge")["lost_share"] == 0.03
        world.now += 5
        world.fleet.count("edge", "e1", 2000, 0)
        assert world.fleet.shown("edge")["lost_share"] == 0.01, "a restarted node counts from zero"
        assert world.fleet.lost_rows("digits") == "", "as much as is allowed"
        world.now += LOSS_WINDOW_S + 60
        assert world.fleet.shown("edge")["lost_share"] is None


async def test_rows_lost_while_no_gateway_ran_are_charged_by_the_next_one(tmp_path: Path) -> None:
    world = World()
    restarted = world.replica()
    async with opened(tmp_path / "turnout.db") as store:
        await world.fleet.share(store)
        world.fleet.count("edge", "e1", 1000, 0)
        await world.fleet.share(store)
        restarted.count("edge", "e1", 1000, 300)  # before it has read what was known
        await restarted.share(store)
        restarted.count("edge", "e1", 1000, 300)
        assert "300 of 300 rows" in restarted.lost_rows("digits")


async def test_a_loss_of_rows_is_an_alarm_of_each_route_and_makes_comparisons_worthless(
    tmp_path: Path,
) -> None:
    world = World()
    async with opened(tmp_path / "turnout.db") as store:
        alarms = alarms_of(world, store, [])
        await world.fleet.share(store)
        world.fleet.count("edge", "e1", 0, 0)
        world.fleet.count("edge", "e1", 90, 10)
        found = await alarms.look(world.document, "digits", None)
        assert [alarm.code for alarm in found] == ["engine_rows_lost"]
        assert "10 of 100 rows" in await distrust(store, "digits", world.now - 1)
        assert await distrust(store, "digits", world.now + 1) == ""


async def test_a_node_that_is_gone_holds_nothing_up_after_the_time_to_forget(tmp_path: Path) -> None:
    world = World()
    async with opened(tmp_path / "turnout.db") as store:
        for name, seen in (("e1", world.now), ("e2", world.now - 3599)):
            node = world.fleet.nodes.own("edge", name)
            node.seen, node.epochs = seen, {"digits": 2 if name == "e1" else 1}
        await world.fleet.share(store)
        assert "e2" in world.fleet.waits("digits", 2)
        world.now += 2
        await world.fleet.share(store)
        assert world.fleet.waits("digits", 2) == ""
        assert [node["node"] for node in world.fleet.shown("edge")["nodes"]] == ["e1"]
