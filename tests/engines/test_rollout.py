"""A canary over three real nodes: its clock, its rollback, and the rows that nodes lose."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.engines.nodes import KIND
from gateway.state import open_store
from tests.engines.node import EnvoyNode, Setup, wait_for
from tests.support.command import turnout

pytestmark = pytest.mark.slow

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {allocation: 200ms}
backends: {one: {url: "URL1"}, two: {url: "URL2"}}
engines: {edge: {type: envoy, token: a-token-of-the-edge-engine}}
routes:
  digits:
    engine: edge
    match: {path: /digits}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 20%, for: 1s}, {weight: 50%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 30%}]
"""
NODES = 3


class Fleet(Setup):
    """Three nodes, and a client of each that sends until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CONFIG, *(f"e{n}" for n in range(NODES)))
        self.stopped = threading.Event()
        self.seen: list[tuple[str, str, int]] = []
        """(decision id, variant, status)"""
        for node in self.nodes:
            node.wait_serving("/digits")

    def send(self, node: EnvoyNode, count: int) -> None:
        with httpx.Client(base_url=node.url, timeout=60) as client:
            for _ in range(count):
                if self.stopped.is_set():
                    return
                response = client.post("/digits")
                fields = response.headers
                self.seen.append((fields["x-decision-id"], fields["x-variant"], response.status_code))

    def load(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self.send, args=(node, 10**9), daemon=True) for node in self.nodes]
        for thread in threads:
            thread.start()
        return threads

    def rollout(self) -> dict[str, Any]:
        return dict(self.report()["rollout"])

    async def stored(self) -> list[dict[str, Any]]:
        """The nodes as another gateway, or this one after a restart, would know them."""
        store = open_store(f"sqlite:///{self.gateway.path.parent}/turnout.db")
        await store.open()
        try:
            found = await store.load(KIND, "edge")
        finally:
            await store.close()
        return list(json.loads(found[1]).values()) if found is not None else []

    def stop(self) -> None:
        self.stopped.set()
        super().stop()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.stop()


def test_a_node_that_hangs_stops_the_clock_of_a_stage_and_a_failure_rolls_back_the_others(
    setup: Fleet,
) -> None:
    wait_for(lambda: all(node["epochs"] for node in setup.nodes_shown()), "all nodes have the first stage")
    hung = setup.nodes[2]
    hung.process.send_signal(signal.SIGSTOP)
    for node in setup.nodes[:2]:
        setup.send(node, 400)  # the guardrail passes the first stage
    waiting = wait_for(
        lambda: (
            (found := setup.rollout())["stage"] == 1
            and (found["waits"] or "").startswith("not yet accepted by e2 (behind)")
            and found
        ),
        "the second stage waits for the node that hangs alone",
        60,
    )
    assert waiting["stage_ends"] is None
    shown = turnout("status", "--url", setup.gateway.url).stdout
    assert "the stage's time stands: not yet accepted by e2 (behind)" in shown
    assert "edge: envoy, nodes: 2 accepted, 1 behind" in shown
    entered = waiting["entered"]
    hung.process.send_signal(signal.SIGCONT)
    going = wait_for(lambda: (found := setup.rollout())["waits"] is None and found, "the stage begins", 60)
    assert going["entered"] >= entered
    setup.backends[1].status = 500
    threads = setup.load()
    wait_for(lambda: setup.rollout()["state"] == "rolled_back", "the candidate is rolled back", 60)
    wait_for(
        lambda: all(node["state"] == "accepted" for node in setup.nodes_shown()), "all nodes have taken it"
    )
    setup.stopped.set()
    for thread in threads:
        thread.join(60)
    setup.stopped.clear()
    before = len(setup.seen)
    for node in setup.nodes:
        setup.send(node, 40)
    assert {variant for _, variant, _ in setup.seen[before:]} == {"v1"}


def test_the_rows_that_are_lost_are_those_that_the_nodes_count(setup: Fleet) -> None:
    for node in setup.nodes:
        setup.send(node, 50)
    sent_before = len(setup.seen)
    dropped = "open_telemetry_access_log.turnout.logs_dropped"

    def lost() -> int:
        """As the nodes count it; a gateway that takes 5 s for an export has its rows although they count as lost."""
        return sum(node.counter(dropped) for node in setup.nodes)

    def shown(what: str) -> int:
        return sum(node[what] for node in setup.nodes_shown())

    wait_for(
        # `wait_serving` sends too.
        lambda: shown("delivered") + lost() == sent_before + NODES and setup.recorded() >= shown("delivered"),
        "the record has the rows that the nodes delivered",
    )
    wait_for(
        lambda: sum(node["delivered"] for node in asyncio.run(setup.stored())) == shown("delivered"),
        "the store has what the nodes reported",
    )
    recorded_before, lost_before = setup.recorded(), lost()
    setup.gateway.crash()
    for node in setup.nodes:
        setup.send(node, 100)
    wait_for(lambda: lost() == lost_before + 300, "nodes count what they lost")
    setup.gateway.start()
    wait_for(lambda: shown("lost") == lost_before + 300, "the gateway knows")
    for node in setup.nodes:
        setup.send(node, 10)
    wait_for(lambda: setup.recorded() == recorded_before + 30, "new rows arrive, and no lost one")
    assert len(setup.seen) == sent_before + 330
    alarms = wait_for(lambda: setup.report()["alarms"], "the loss is an alarm", 60)
    assert "engine_rows_lost" in [alarm["code"] for alarm in alarms]
    paused = wait_for(
        lambda: (found := setup.rollout())["state"] == "paused" and found, "the rollout pauses", 60
    )
    assert "engine_rows_lost" in paused["reason"]
